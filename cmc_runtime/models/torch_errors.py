"""Errors of torch and transformers, as ours, of one line; and their output, kept back."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from os import PathLike
from textwrap import shorten

import torch
import transformers
from transformers.utils import logging as transformers_logging

from cmc_runtime.errors import ModelError
from pm_mined import PmMinedError
from pm_mined.tokenizer.errors_of_libraries import is_library_error


@contextmanager
def out_of_memory_says(message: str) -> Iterator[None]:
    """Raise a ModelError with this message where memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise ModelError(f"out of memory {message}") from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """True if numpy or torch failed for want of memory, of a GPU or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # On a CPU, and on a Mac's GPU, torch raises a plain RuntimeError.
    return "can't allocate memory" in str(error) or "out of memory" in str(error)


@contextmanager
def one_line_errors(spec: str | PathLike[str]) -> Iterator[None]:
    """Raise what the libraries raise as a ModelError of one line, about the model `spec`."""
    try:
        yield
    except PmMinedError:
        raise
    except BaseException as error:  # transformers lets those of every library it uses through
        if not is_library_error(error):
            raise
        raise ModelError(f"{spec}: {_reason(error)}") from error


# What transformers says -> what it means.
_MEANINGS = {
    "trust_remote_code": "the model needs code of its own, which is never run",
    "ignore_mismatched_sizes": "its weights do not have the shapes that its config.json says",
    "backend tokenizer": "it has no tokenizer that transformers can read",
}


def _reason(error: BaseException) -> str:
    said = str(error).strip() or type(error).__name__
    line = shorten(said.splitlines()[0], 300)
    if is_out_of_memory(error):
        return "there is not enough memory to load it: choose a smaller dtype or another device"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read: {error.strerror}"
    for words, meaning in _MEANINGS.items():
        if words in said:
            return meaning
    version = transformers.__version__
    if "not recognize this architecture" in line or "is not supported yet" in line:
        return f"transformers {version} does not know it (`pip install -U transformers`): {line}"
    return f"transformers {version} cannot load it: {line}"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, which take a second at most, and no warnings: errors are raised."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
