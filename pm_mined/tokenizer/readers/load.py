"""One module per tokenizer format; the format is told by what a file holds, not by its name."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pm_mined.errors import VocabularyError
from pm_mined.tokenizer.places import is_lfs_pointer
from pm_mined.vocabulary import TokenTable

from . import gguf, json_file, sentencepiece, tiktoken, word_piece

_MAX_BYTES = 2**29
_RANK_LINE = re.compile(rb"\s*[A-Za-z0-9+/]*=*[ \t]+-?\d+\s*")
_KNOWN = (
    "a Hugging Face tokenizer.json, a SentencePiece model, a tiktoken rank file, a WordPiece "
    "vocab.txt, a Mistral tekken.json or a GGUF file"
)

_READERS: dict[str, Callable[[Path], TokenTable]] = {
    "gguf": gguf.read,
    "json_file": json_file.read,
    "sentencepiece": sentencepiece.read,
    "tiktoken": tiktoken.read,
    "word_piece": word_piece.read,
}


def _format_of(head: bytes) -> str | None:
    """The module that reads a file that begins with `head`."""
    if head.startswith(b"GGUF"):
        return "gguf"
    if word_piece.is_word_piece(head):  # before JSON: `[PAD]` begins like a list
        return "word_piece"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return "json_file"
    if _RANK_LINE.match(head):
        return "tiktoken"
    if head.startswith(b"\n"):  # field 1 of ModelProto: the first piece
        return "sentencepiece"
    return None


def format_of(path: Path) -> str:
    """The module that reads a tokenizer file.

    Raises:
        VocabularyError: the file cannot be read, or is of no known format.
    """
    try:
        if path.exists() and not path.is_file():
            raise VocabularyError(f"{path}: not a regular file; expected {_KNOWN}")
        with path.open("rb") as file:
            head = file.read(4096)
        size = path.stat().st_size
    except OSError as error:
        raise VocabularyError(f"{path}: cannot read: {error.strerror}") from error
    if is_lfs_pointer(head):
        raise VocabularyError(f"{path}: a Git LFS pointer: run `git lfs pull` for the file itself")
    name = _format_of(head)
    if name is None:
        found = f"begins with {head[:8].hex(' ')}" if head else "is empty"
        raise VocabularyError(f"{path}: not a tokenizer: the file {found}; expected {_KNOWN}")
    if size > _MAX_BYTES and name != "gguf":
        raise VocabularyError(
            f"{path}: {size / 2**30:.1f} GiB is too large for a tokenizer; expected {_KNOWN}"
        )
    return name


def read_tokens(path: Path) -> TokenTable:
    """Read the tokens of one tokenizer file.

    Raises:
        VocabularyError: the file cannot be read, is damaged, or is of no known format.
    """
    read = _READERS[format_of(path)]
    with errors_begin_with(path):
        return with_tokens(read(path))


def with_tokens(table: TokenTable) -> TokenTable:
    """The same table.

    Raises:
        VocabularyError: it is empty.
    """
    if not table.tokens:
        raise VocabularyError("a tokenizer without tokens")
    return table


@contextmanager
def errors_begin_with(path: Path) -> Iterator[None]:
    """Put the path of a file or folder before the errors of what reads it."""
    try:
        yield
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from error
