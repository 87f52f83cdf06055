"""The key-values at the head of a GGUF file: those asked for are kept, the others skipped.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The library `gguf` reads the same
and more, but takes many seconds for a vocabulary; the tests compare.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from pm_mined.errors import VocabularyError

_VERSIONS = (2, 3)  # llama.cpp and its library read no other, either
_STRING, _LIST = 8, 9
_NUMBERS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4"} | {
    7: "?", 10: "u8", 11: "i8", 12: "f8",
}  # fmt: skip

# More than any model has.
_MOST_BYTES = 2**26  # of all key-values
_MOST_KEYS = 2**16
_MOST_ENTRIES = 2**21  # of a list: tokens, or their merges
_DEEPEST = 4  # lists in lists


def read_header(path: Path, keys: Collection[str]) -> dict[str, Any]:
    """Read the values of `keys`, of those that a file has: numbers, strings and lists of them.

    Memory is taken only after the file was found to be long enough.

    Raises:
        VocabularyError: the file is damaged, or of another version.
    """
    with path.open("rb", buffering=2**20) as file:
        try:
            return _Header(file).values(keys)
        except ValueError as error:
            raise VocabularyError(f"a damaged GGUF file ({error}); download it again") from error


class _Header:
    """A header, read from its beginning to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._left = min(self._size, _MOST_BYTES)
        self._order: Literal["little", "big"] = "little"

    def values(self, keys: Collection[str]) -> dict[str, Any]:
        self._read_version()
        self._integer(8)  # the number of tensors
        count = self._integer(8)
        if count > _MOST_KEYS:
            raise ValueError(f"more than {_MOST_KEYS} keys")
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self._string().decode()
            if key in found:
                raise ValueError(f"it has the key {key[:40]!r} twice")
            value = self._value(keep=key in keys)
            if key in keys:
                found[key] = value
        return found

    def _read_version(self) -> None:
        """Skip the magic number; the version shows the order of bytes."""
        version = self._take(8)[4:]
        self._order = "big" if version.startswith(b"\0\0") else "little"
        number = int.from_bytes(version, self._order)
        if number not in _VERSIONS:
            raise VocabularyError(
                f"GGUF version {number} is not supported (only 2 and 3); convert the model again"
            )

    def _pass(self, count: int) -> None:
        """Count the bytes that are read next."""
        self._left -= count
        if self._left >= 0:
            return
        if self._size > _MOST_BYTES:
            raise ValueError(f"its header is longer than {_MOST_BYTES >> 20} MiB")
        raise ValueError(f"it ends at byte {self._size}, in the middle of a field")

    def _take(self, count: int) -> bytes:
        self._pass(count)
        return self._file.read(count)

    def _integer(self, width: int) -> int:
        return int.from_bytes(self._take(width), self._order)

    def _string(self) -> bytes:
        return self._take(self._integer(8))

    def _value(self, *, keep: bool) -> Any:
        value_type = self._integer(4)
        if value_type == _STRING:
            content = self._string()
            return content.decode() if keep else None
        if value_type == _LIST:
            return self._list(1, keep=keep)
        return self._numbers(value_type, 1, keep=True)[0]

    def _list(self, depth: int, *, keep: bool) -> list[Any]:
        value_type, count = self._integer(4), self._integer(8)
        if value_type not in (_STRING, _LIST):
            return self._numbers(value_type, count, keep=keep)
        if count > _MOST_ENTRIES:
            raise ValueError(f"a list of more than {_MOST_ENTRIES} entries")
        if value_type == _STRING:
            return self._strings(count, keep=keep)
        if depth == _DEEPEST:
            raise ValueError(f"lists more than {_DEEPEST} deep")
        return [self._list(depth + 1, keep=keep) for _ in range(count)]

    def _numbers(self, value_type: int, count: int, *, keep: bool) -> list[Any]:
        if value_type not in _NUMBERS:
            raise ValueError(f"a value of unknown type {value_type}")
        number = np.dtype(_NUMBERS[value_type]).newbyteorder(self._order)
        if keep:
            if count > _MOST_ENTRIES:
                raise ValueError(f"a list of more than {_MOST_ENTRIES} entries")
            return list(np.frombuffer(self._take(count * number.itemsize), number).tolist())
        self._pass(count * number.itemsize)
        self._file.seek(count * number.itemsize, os.SEEK_CUR)
        return []

    def _strings(self, count: int, *, keep: bool) -> list[str]:
        """A list of strings, in the one loop that has to be fast: decoding in it costs more."""
        read, order, number = self._file.read, self._order, int.from_bytes
        left = self._left
        found: list[bytes] = []
        keep_one = found.append
        for _ in range(count):
            length = number(read(8), order)
            left -= 8 + length
            if left < 0:
                break
            keep_one(read(length))
        self._pass(self._left - left)
        return [content.decode() for content in found] if keep else []
