"""JSON Lines: a JSON value in each line, in UTF-8; lines are numbered and bounded."""

import codecs
import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, BinaryIO

from .errors import TextError

MAX_LINE = 2**26
"""The largest size of a line, in bytes."""


def read_lines(
    file: BinaryIO, advance: Callable[[int], object] = lambda _: None
) -> Iterator[tuple[int, bytes]]:
    r"""Read the lines that are not blank, each with its number, from 1.

    A byte order mark at the start of the file is dropped. `advance` is called with the size of
    each line that has been read, in bytes.

    Raises:
        TextError: a line is larger than `MAX_LINE`; no more of the file is read.

    >>> from io import BytesIO
    >>> list(read_lines(BytesIO(b'{"a": 1}\n\n[2]')))
    [(1, b'{"a": 1}\n'), (3, b'[2]')]
    """
    for number in count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise TextError(f"line {number} is longer than {MAX_LINE:,} bytes")
        advance(len(line))
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if content.strip():
            yield number, content


def parse_line(line: bytes) -> Any:
    """Parse the JSON value of a line.

    Raises:
        UnicodeDecodeError: the line is not UTF-8.
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(line.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def has_lone_surrogate(text: str) -> bool:
    r"""True if a text holds half of a surrogate pair: JSON can write it, UTF-8 cannot.

    >>> has_lone_surrogate("\ud83d"), has_lone_surrogate("🙂")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
