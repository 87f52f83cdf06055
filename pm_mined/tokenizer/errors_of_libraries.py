"""Errors of the libraries that tokenize, as one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from pm_mined.errors import PmMinedError, VocabularyError

_LONGEST = 200  # characters of what a library says


@contextmanager
def library_errors(doing: str) -> Iterator[None]:
    """Turn whatever a library raises, its panics included, into one line that begins with `doing`.

    Raises:
        VocabularyError: the library raised something.
    """
    try:
        yield
    except (PmMinedError, MemoryError):
        raise
    except BaseException as error:
        if not is_library_error(error):
            raise
        name = type(error).__name__
        said = " ".join(str(error).split())[:_LONGEST]
        kind = "" if name in ("Exception", "PanicException") else f"{name}: "
        raise VocabularyError(f"{doing}: {kind}{said}") from error


def is_library_error(error: BaseException) -> bool:
    """True for an exception and for a panic; false for Ctrl-C and the like.

    A library in Rust panics where it meets what its authors held to be impossible; its
    `PanicException` is no Exception, and has no module that can be imported.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
