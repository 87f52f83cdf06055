"""The errors, as one tree; the command line prints each as one line and exits with 1.

PmMinedError
├── OptionError             options that do not exist or do not go together; the exit status is 2
├── VocabularyError         a tokenizer cannot be found, read or understood
├── OverridesError          an override table is malformed or names unknown tokens
├── TextError               a text file cannot be read
└── MapFileError            a file is not a map, is damaged, or cannot be written
"""


class PmMinedError(Exception):
    """Base of every error that pm-mined raises on purpose; its text is for a person."""


class OptionError(PmMinedError):
    """An option does not exist, does not go with another, or has a value that cannot be."""


class VocabularyError(PmMinedError):
    """A tokenizer cannot be found, read or understood."""


class OverridesError(PmMinedError):
    """An override table is malformed, or names tokens that do not exist."""


class TextError(PmMinedError):
    """A text file cannot be read, is not UTF-8, has too long a line, or holds no text."""


class MapFileError(PmMinedError):
    """A file is not a map, is damaged or is too new, or a map cannot be written."""
