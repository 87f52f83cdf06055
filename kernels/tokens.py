"""The input and output of the matching kernels: plain arrays, and the codes in them."""

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Unit: TypeAlias = Literal["char", "byte"]
"""The unit of distances: Unicode code points, or bytes."""


class Kind(IntEnum):
    """The kind of a token. Only the bytes of the first three take part in matching.

    >>> Kind(3).name, int(Kind.FRAGMENT)
    ('SPECIAL', 2)
    """

    TEXT = 0  # complete UTF-8
    BYTE = 1  # SentencePiece `<0xNN>`: that one byte
    FRAGMENT = 2  # ordinary, but not valid UTF-8: a piece of a character
    SPECIAL = 3  # control token
    UNUSED = 4  # reserved, padding, or an id without a token


class Rule(IntEnum):
    """The rule that decided a token's match; up to `NONE` the lowest that applies wins.

    >>> Rule(4).name, int(Rule.EDIT)
    ('PREFIX', 6)
    """

    OVERRIDE = 0
    SPECIAL = 1
    EXACT = 2
    BYTE = 3
    PREFIX = 4
    EXTENSION = 5
    EDIT = 6
    NONE = 7
    ENCODING = 8


UNMAPPED = -1
MATCHABLE = Kind.TEXT, Kind.BYTE, Kind.FRAGMENT


def is_candidate(kind: int, unit: Unit) -> bool:
    """True if a destination token of this kind may be a match by prefix, extension or edits.

    >>> is_candidate(Kind.FRAGMENT, "byte"), is_candidate(Kind.FRAGMENT, "char")
    (True, False)
    """
    return kind in MATCHABLE if unit == "byte" else kind == Kind.TEXT


def length(token: bytes, unit: Unit) -> int:
    """The token's length in bytes, or in code points: its bytes that continue no character."""
    return len(token) if unit == "byte" else sum(byte & 0xC0 != 0x80 for byte in token)


def symbols_of(token: bytes, unit: Unit) -> bytes | str:
    r"""The sequence whose symbols edit distances count.

    In code points, a byte that is not UTF-8 is one by itself.

    >>> symbols_of("é".encode(), "byte"), symbols_of("é".encode(), "char")
    (b'\xc3\xa9', 'é')
    """
    return token if unit == "byte" else token.decode(errors="surrogateescape")


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

    def take(self, ids: NDArray[np.integer[Any]]) -> "PackedTokens":
        """The tokens of `ids`, in that order; where the id is -1, an unused one without bytes."""
        ends = np.append(self.offsets, self.offsets[-1])  # one more token, without bytes
        kinds = np.append(self.kinds, np.uint8(Kind.UNUSED))
        picked = np.where(ids == UNMAPPED, len(self.kinds), ids)
        starts, lengths = ends[picked], ends[picked + 1] - ends[picked]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        source = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return PackedTokens(self.data[source], offsets, kinds[picked])


class Matches(NamedTuple):
    """One row per source token, in id order."""

    dst_id: NDArray[np.int32]  # [tokens], `UNMAPPED` where nothing matches
    rule: NDArray[np.int8]  # [tokens], codes of `Rule`
    distance: NDArray[np.int32]  # [tokens], in the unit; -1 where unmapped

    @classmethod
    def unmapped(cls, count: int) -> "Matches":
        """`count` unmapped rows."""
        return cls(
            np.full(count, UNMAPPED, np.int32),
            np.full(count, Rule.NONE, np.int8),
            np.full(count, -1, np.int32),
        )


class Choices(NamedTuple):
    """Several destination tokens for each source token, the first of them its match.

    Those of token `i` are `dst_id[offsets[i]:offsets[i + 1]]`; there are none where it is
    unmapped. With weights, which sum to 1 for each token, their logits are to be averaged by
    weight; without, the largest of them is to be taken.
    """

    offsets: NDArray[np.int32]  # [tokens + 1]
    dst_id: NDArray[np.int32]  # [choices], no id twice for one token
    weight: NDArray[np.float32] | None  # [choices]

    @classmethod
    def of(
        cls,
        count: int,
        owners: NDArray[np.int64],
        dst_id: NDArray[np.integer[Any]],
        weight: NDArray[np.float64] | None = None,
    ) -> "Choices":
        """Choices for `count` tokens; `owners` (ascending) are the tokens that each belongs to.

        Weights are scaled to sum to 1 for each token; those that are then 0 in float32 are
        dropped.
        """
        if weight is not None:
            share = weight / np.bincount(owners, weight, minlength=count)[owners]
            something = share.astype(np.float32) > 0
            owners, dst_id, share = owners[something], dst_id[something], share[something]
        ends = np.cumsum(np.bincount(owners, minlength=count))
        return cls(
            np.concatenate([[0], ends]).astype(np.int32),
            dst_id.astype(np.int32),
            None if weight is None else share.astype(np.float32),
        )

    def replace(self, rows: NDArray[np.int64], dst_id: NDArray[np.int32]) -> "Choices":
        """A copy in which each token in `rows` (ascending) has one choice, or none for -1."""
        counts, replaced = np.diff(self.offsets), np.zeros(len(self.offsets) - 1, bool)
        replaced[rows] = True
        kept = np.repeat(~replaced, counts)
        counts[rows] = dst_id != UNMAPPED
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        is_new = np.repeat(replaced, counts)
        ids = np.empty(offsets[-1], np.int32)
        ids[is_new], ids[~is_new] = dst_id[dst_id != UNMAPPED], self.dst_id[kept]
        if self.weight is None:
            return Choices(offsets, ids, None)
        weight = np.ones(offsets[-1], np.float32)
        weight[~is_new] = self.weight[kept]
        return Choices(offsets, ids, weight)

    def among(self, wanted: NDArray[np.bool_]) -> "Choices":
        """Those of each token that are wanted, or its first where none is; without weights.

        `wanted` is bool [destination tokens].
        """
        counts = np.diff(self.offsets)
        owners = np.repeat(np.arange(len(counts)), counts)
        kept = wanted[self.dst_id]
        firsts = self.offsets[:-1][counts > 0]
        has_some = np.bincount(owners[kept], minlength=len(counts)) > 0
        kept[firsts] |= ~has_some[owners[firsts]]
        return Choices.of(len(counts), owners[kept], self.dst_id[kept])


def pack(tokens: Sequence[bytes], kinds: NDArray[np.uint8]) -> PackedTokens:
    """Lay `tokens` end to end.

    >>> packed = pack([b"a", b"", b"bc"], np.zeros(3, np.uint8))
    >>> packed.offsets.tolist(), packed.data.tobytes()
    ([0, 1, 1, 3], b'abc')
    """
    offsets = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)), out=offsets[1:])
    return PackedTokens(np.frombuffer(b"".join(tokens), np.uint8), offsets, kinds)
