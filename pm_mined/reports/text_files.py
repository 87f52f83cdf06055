"""Text to weight by, from plain UTF-8 files or a field of JSON Lines, piece by piece."""

import codecs
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from pm_mined.errors import TextError
from pm_mined.json_lines import has_lone_surrogate, parse_line, read_lines

Document = Iterator[str]
"""One text, in pieces."""

_PIECE = 2**16  # bytes
_JSON_LINES = (".jsonl", ".ndjson")


def read_documents(
    files: Sequence[str | PathLike[str]],
    field: str | None,
    advance: Callable[[int], object] = lambda _: None,
) -> Iterator[Document]:
    """Read documents: a plain text file is one, and each row's `field` of a JSON Lines file.

    `-` is the standard input. `advance` is called with the number of bytes of each piece that has
    been read.

    Raises:
        TextError: a file cannot be read, is not UTF-8, or a row has no such text.
    """
    for path in files:
        try:
            with _open(path, field) as file:
                if field is None:
                    yield _plain_text(path, file, advance)
                else:
                    yield from _rows(path, file, field, advance)
        except OSError as error:
            raise TextError(f"{path}: cannot read: {error.strerror or error}") from error


def total_bytes(files: Sequence[str | PathLike[str]]) -> int | None:
    """The size of all files together, in bytes; None where one has no size."""
    try:
        found = [os.stat(path) for path in files]
    except OSError:  # the standard input, or an error that reading will report
        return None
    regular = all(stat.S_ISREG(one.st_mode) for one in found)
    return sum(one.st_size for one in found) if regular else None


def _open(path: str | PathLike[str], field: str | None) -> Any:
    if str(path) == "-":
        return nullcontext(sys.stdin.buffer)
    if field is None and Path(path).suffix in _JSON_LINES:
        raise TextError(f"{path}: JSON Lines: say with --field which field holds the text")
    file = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
    mode = os.fstat(file.fileno()).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        file.close()
        raise TextError(f"{path}: neither a regular file nor a pipe")
    return file


def _plain_text(
    path: str | PathLike[str], file: BinaryIO, advance: Callable[[int], object]
) -> Document:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    offset = lines = 0
    while True:
        chunk = file.read(_PIECE)
        held_back = len(decoder.getstate()[0])
        try:
            yield decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            at = offset - held_back + error.start
            line = lines + error.object[: error.start].count(b"\n") + 1
            raise TextError(
                f"{path}: not UTF-8 text: {error.reason} at byte {at}, in line {line}; "
                "`iconv -t UTF-8 -f ENCODING` converts it"
            ) from error
        if not chunk:
            return
        offset += len(chunk)
        lines += chunk.count(b"\n")
        advance(len(chunk))


def _rows(
    path: str | PathLike[str], file: BinaryIO, field: str, advance: Callable[[int], object]
) -> Iterator[Document]:
    try:
        for number, line in read_lines(file, advance):
            yield iter([_text_of_row(number, line, field)])
    except TextError as error:
        raise TextError(f"{path}: {error}") from error


def _text_of_row(number: int, line: bytes, field: str) -> str:
    try:
        row = parse_line(line)
    except ValueError as error:
        raise TextError(f"line {number}: not a row of JSON Lines: {error}") from error
    if not isinstance(row, dict):
        raise TextError(f"line {number}: expected a JSON object, found a {type(row).__name__}")
    if field not in row:
        fields = ", ".join(map(repr, row)) or "none"
        raise TextError(f"line {number}: no field {field!r}; there are {fields}")
    text = row[field]
    if not isinstance(text, str):
        found = type(text).__name__
        raise TextError(f"line {number}: field {field!r} holds a {found}, not a text")
    if has_lone_surrogate(text):
        raise TextError(f"line {number}: field {field!r} holds a lone surrogate")
    return text
