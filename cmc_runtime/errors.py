"""The errors, as one tree; the command line prints each as one line and exits with 1.

PmMinedError                of pm_mined
├── ModelError              a model cannot be found, read or run
├── PackageError            a package with a model is not installed
├── CardError               a delta model's card is damaged, or does not belong to its folder
├── ContextError            a model cannot read a context
├── DataError               a file of data cannot be read, or has no usable row
├── StatesError             kept hidden states cannot be read or written
└── TrainingError           training cannot go on, or its result cannot be written
"""

from pm_mined.errors import PmMinedError


class ModelError(PmMinedError):
    """A model cannot be found, read or run."""


class PackageError(PmMinedError):
    """A model that a package ships is not installed, or is damaged."""


class CardError(PmMinedError):
    """A card cannot be read, is of a newer format, or does not belong to the folder's tokenizer."""


class ContextError(PmMinedError):
    """A model cannot read a context: it is empty, too long, or has unknown ids; or no memory."""


class DataError(PmMinedError):
    """A file of data cannot be read, or has no row that can be used."""


class StatesError(PmMinedError):
    """Hidden states cannot be written."""


class TrainingError(PmMinedError):
    """Training cannot go on, or what it made cannot be written."""
