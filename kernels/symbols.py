"""Tokens as sequences of symbols, the units of edit distances, numbered by how common they are."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import jit
from .tokens import PackedTokens, Unit

_CODE_POINTS = 0x110000
_ESCAPE = 0xDC00  # of a byte that is not UTF-8, as Python's `surrogateescape` has it


class Symbols(NamedTuple):
    """The tokens of a vocabulary, end to end; token `i` is `data[offsets[i]:offsets[i + 1]]`."""

    data: NDArray[np.int32]  # [symbols], 0 is the most common one
    offsets: NDArray[np.int64]  # [tokens + 1]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [tokens]: symbols of each token."""
        return np.diff(self.offsets)


@jit
def _character(data, start, stop):
    """The code point that begins at `start`, and its bytes; a stray byte is escaped."""
    first = np.int32(data[start])
    if first < 0x80:
        return first, 1
    size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    escaped = np.int32(_ESCAPE) + first
    if first < 0xC2 or first > 0xF4 or start + size > stop:
        return escaped, 1
    code = first & (0x7F >> size)
    for j in range(start + 1, start + size):
        if data[j] & 0xC0 != 0x80:
            return escaped, 1
        code = (code << 6) | np.int32(data[j] & 0x3F)
    too_long = code < (0x80 if size == 2 else 0x800 if size == 3 else 0x10000)
    if too_long or 0xD800 <= code < 0xE000 or code >= _CODE_POINTS:
        return escaped, 1
    return code, size


@jit
def _decode(data, offsets, codes, code_offsets):
    """Write the code points of every token; returns their number."""
    count = 0
    for i in range(len(offsets) - 1):
        code_offsets[i] = count
        j = offsets[i]
        while j < offsets[i + 1]:
            code, size = _character(data, j, offsets[i + 1])
            codes[count] = code
            count += 1
            j += size
    code_offsets[len(offsets) - 1] = count
    return count


def _codes(tokens: PackedTokens, unit: Unit) -> Symbols:
    if unit == "byte":
        return Symbols(tokens.data.astype(np.int32), tokens.offsets)
    codes, offsets = np.empty(len(tokens.data), np.int32), np.empty_like(tokens.offsets)
    return Symbols(codes[: _decode(tokens.data, tokens.offsets, codes, offsets)], offsets)


def to_symbols(a: PackedTokens, b: PackedTokens, unit: Unit) -> tuple[Symbols, Symbols, int]:
    """The symbols of two vocabularies in one numbering, and the number of distinct ones.

    In code points, a byte that is not part of UTF-8 is a symbol of its own, so that distances
    are those of `token.decode(errors="surrogateescape")`.

    >>> from pm_mined.kernels.tokens import pack
    >>> tokens = pack(["né".encode(), "éé".encode()], np.zeros(2, np.uint8))
    >>> to_symbols(tokens, tokens, "char")[0].data.tolist()
    [1, 0, 0, 0]
    """
    sides = _codes(a, unit), _codes(b, unit)
    size = 1 + max(int(side.data.max(initial=0)) for side in sides)
    uses = np.bincount(sides[0].data, minlength=size) + np.bincount(sides[1].data, minlength=size)
    used = np.flatnonzero(uses)
    commonest_first = used[np.argsort(-uses[used], kind="stable")]
    number = np.empty(size, np.int32)
    number[commonest_first] = np.arange(len(commonest_first), dtype=np.int32)
    numbered = [Symbols(number[side.data], side.offsets) for side in sides]
    return numbered[0], numbered[1], len(commonest_first)
