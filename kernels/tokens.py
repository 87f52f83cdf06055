"""What goes into a matching kernel and what comes out: plain arrays, and the codes in them."""

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Unit: TypeAlias = Literal["char", "byte"]
"""What distances count: Unicode code points, or bytes."""


class Kind(IntEnum):
    """What a token is. Only the first three have bytes that take part in matching."""

    TEXT = 0  # complete UTF-8
    BYTE = 1  # SentencePiece `<0xNN>`: that one byte
    FRAGMENT = 2  # ordinary, but not valid UTF-8: a piece of a character
    SPECIAL = 3  # control token
    UNUSED = 4  # reserved, padding, or an id without a token


class Rule(IntEnum):
    """Which rule decided a token's match; the lowest that applies wins."""

    OVERRIDE = 0
    SPECIAL = 1
    EXACT = 2
    BYTE = 3
    PREFIX = 4
    EXTENSION = 5
    EDIT = 6
    NONE = 7


UNMAPPED = -1


class PackedTokens(NamedTuple):
    """The tokens of a vocabulary end to end; token `i` is `data[offsets[i]:offsets[i + 1]]`.

    The kinds are trusted: a `TEXT` token holds valid UTF-8.
    """

    data: NDArray[np.uint8]  # [bytes]
    offsets: NDArray[np.int64]  # [tokens + 1]
    kinds: NDArray[np.uint8]  # [tokens], codes of `Kind`

    def tolist(self) -> list[bytes]:
        """Every token as `bytes`, in id order."""
        whole = self.data.tobytes()
        return [whole[start:stop] for start, stop in pairwise(self.offsets.tolist())]


class Matches(NamedTuple):
    """One row per source token, in id order."""

    dst_id: NDArray[np.int32]  # [tokens], `UNMAPPED` where nothing matches
    rule: NDArray[np.int8]  # [tokens], codes of `Rule`
    distance: NDArray[np.int32]  # [tokens], in the unit; -1 where unmapped

    @classmethod
    def unmapped(cls, count: int) -> "Matches":
        """`count` rows in which nothing is mapped yet."""
        return cls(
            np.full(count, UNMAPPED, np.int32),
            np.full(count, Rule.NONE, np.int8),
            np.full(count, -1, np.int32),
        )


def pack(tokens: Sequence[bytes], kinds: NDArray[np.uint8]) -> PackedTokens:
    """Lay `tokens` end to end.

    >>> packed = pack([b"a", b"", b"bc"], np.zeros(3, np.uint8))
    >>> packed.offsets.tolist(), packed.data.tobytes()
    ([0, 1, 1, 3], b'abc')
    """
    offsets = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)), out=offsets[1:])
    return PackedTokens(np.frombuffer(b"".join(tokens), np.uint8), offsets, kinds)
