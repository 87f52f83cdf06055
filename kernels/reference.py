"""Plain-Python twins of the kernels: the oracle that tests and benchmarks hold them against.

`brute_force` is the definition of PM-MinED, word for word, in O(source * destination).
`prefix_match` has the signature and the results of the compiled kernel and uses dictionaries, so
that it can be run on real vocabularies.
"""

import numpy as np
from numpy.typing import NDArray

from .tokens import (
    MATCHABLE,
    UNMAPPED,
    Kind,
    Matches,
    PackedTokens,
    Rule,
    Unit,
    is_candidate,
    length,
    symbols_of,
)


def _allows(src: bytes, dst: bytes) -> bool:
    """The bare space is a candidate only for all-space tokens."""
    return dst != b" " or src == b" " * len(src)


def _brute_force_one(
    src: bytes, kind: int, dst: list[tuple[bytes, int]], unit: Unit
) -> tuple[int, Rule, int]:
    for rule, kinds in ((Rule.EXACT, (kind,)), (Rule.BYTE, MATCHABLE)):
        for dst_id, (token, dst_kind) in enumerate(dst):
            if token == src and dst_kind in kinds:
                return dst_id, rule, 0
    best = (-1, Rule.NONE, -1)
    if kind != Kind.TEXT and unit == "char":
        return best
    for dst_id, (token, dst_kind) in enumerate(dst):
        if not is_candidate(dst_kind, unit) or not _allows(src, token):
            continue
        if not (src.startswith(token) or token.startswith(src)):
            continue
        distance = abs(length(src, unit) - length(token, unit))
        if best[0] < 0 or distance < best[2]:  # ties keep the lower id
            best = (dst_id, Rule.PREFIX if len(token) < len(src) else Rule.EXTENSION, distance)
    return best


def brute_force(src: PackedTokens, dst: PackedTokens, unit: Unit = "char") -> Matches:
    """PM-MinED by its definition: compare every source token with every destination token."""
    matches = Matches.unmapped(len(src.kinds))
    dst_tokens = list(zip(dst.tolist(), dst.kinds.tolist(), strict=True))
    for i, (token, kind) in enumerate(zip(src.tolist(), src.kinds.tolist(), strict=True)):
        if kind in MATCHABLE:
            row = _brute_force_one(token, kind, dst_tokens, unit)
            matches.dst_id[i], matches.rule[i], matches.distance[i] = row
    return matches


class PrefixDictionary:
    """The destination by content: whole tokens, and for each proper prefix its nearest token."""

    def __init__(self, dst: PackedTokens, unit: Unit) -> None:
        self.unit: Unit = unit
        self.same_kind: dict[tuple[bytes, int], int] = {}
        self.same_bytes: dict[bytes, int] = {}
        self.candidate: dict[bytes, int] = {}
        self.extension: dict[bytes, tuple[int, int]] = {}  # prefix -> (distance, id)
        for dst_id, (token, kind) in enumerate(zip(dst.tolist(), dst.kinds.tolist(), strict=True)):
            if kind in MATCHABLE:
                self.same_kind.setdefault((token, kind), dst_id)
                self.same_bytes.setdefault(token, dst_id)
                if is_candidate(kind, unit):
                    self.candidate.setdefault(token, dst_id)
                    self._add_extension(token, dst_id)

    def _add_extension(self, token: bytes, dst_id: int) -> None:
        distance = 0
        for stop in range(len(token) - 1, -1, -1):
            distance += self.unit == "byte" or token[stop] & 0xC0 != 0x80
            known = self.extension.get(token[:stop])
            if known is None or (distance, dst_id) < known:
                self.extension[token[:stop]] = (distance, dst_id)

    def find(self, src: bytes, kind: int) -> tuple[int, Rule, int]:
        """The match of one source token."""
        if (src, kind) in self.same_kind:
            return self.same_kind[src, kind], Rule.EXACT, 0
        if src in self.same_bytes:
            return self.same_bytes[src], Rule.BYTE, 0
        if kind != Kind.TEXT and self.unit == "char":
            return -1, Rule.NONE, -1
        found = []
        if src in self.extension:
            found.append((*self.extension[src], Rule.EXTENSION))
        for stop in range(len(src) - 1, -1, -1):
            if src[:stop] in self.candidate and _allows(src, src[:stop]):
                distance = length(src[stop:], self.unit)
                found.append((distance, self.candidate[src[:stop]], Rule.PREFIX))
                break
        distance, dst_id, rule = min(found, default=(-1, -1, Rule.NONE))
        return dst_id, rule, distance


def match(src: PackedTokens, dictionary: PrefixDictionary) -> Matches:
    """Match every source token; the twin of `pm_mined.kernels.prefix_match.match`."""
    matches = Matches.unmapped(len(src.kinds))
    for i, (token, kind) in enumerate(zip(src.tolist(), src.kinds.tolist(), strict=True)):
        if kind in MATCHABLE:
            row = dictionary.find(token, kind)
            matches.dst_id[i], matches.rule[i], matches.distance[i] = row
    return matches


def prefix_match(src: PackedTokens, dst: PackedTokens, unit: Unit = "char") -> Matches:
    """PM-MinED with dictionaries; the twin of `pm_mined.kernels.prefix_match.prefix_match`."""
    return match(src, PrefixDictionary(dst, unit))


def edit_distance(a: bytes, b: bytes, unit: Unit = "char") -> int:
    """Levenshtein distance by its recurrence, a row of the matrix at a time."""
    one, other = symbols_of(a, unit), symbols_of(b, unit)
    row = list(range(len(other) + 1))
    for i, symbol in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, with_symbol in enumerate(other, 1):
            edits = min(diagonal + (symbol != with_symbol), row[j - 1] + 1, row[j] + 1)
            diagonal, row[j] = row[j], edits
    return row[-1]


def edit_distances(
    a: PackedTokens, b: PackedTokens, unit: Unit = "char", cutoff: int | None = None
) -> NDArray[np.int32]:
    """The twin of `pm_mined.kernels.edit_distance.edit_distances`."""
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    distances = [edit_distance(*pair, unit) for pair in pairs]
    return np.array([d if cutoff is None else min(d, cutoff + 1) for d in distances], np.int32)


def nearest(
    src: PackedTokens, dst: PackedTokens, unit: Unit = "char", max_distance: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The twin of `pm_mined.kernels.nearest.nearest`: every pair of tokens is compared."""
    dst_id, distances = (np.full(len(src.kinds), UNMAPPED, np.int32) for _ in range(2))
    candidates = [
        (i, token) for i, token in enumerate(dst.tolist()) if is_candidate(dst.kinds[i], unit)
    ]
    for i, query in enumerate(src.tolist()):
        if not candidates or not is_candidate(src.kinds[i], unit):
            continue
        best, best_id = min((edit_distance(query, token, unit), j) for j, token in candidates)
        if max_distance is None or best <= max_distance:
            dst_id[i], distances[i] = best_id, best
    return dst_id, distances
