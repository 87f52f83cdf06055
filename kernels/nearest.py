"""The exact nearest token by edit distance, for every token of a vocabulary (MinED).

Distances are tried in increasing order, so the first hit is a nearest token, and the lowest id
wins. Most tokens are ruled out by the pigeonhole principle: of any d + 1 disjoint pieces of the
query, d edits leave one as it is. A token within distance d therefore contains one of them, and
there are at most d edits before and after it together, so that they bound how far the piece has
moved from the token's start and from its end. Pieces are one or two symbols. An index finds tokens
by (piece, symbols before it, symbols after it); the kernel picks the d + 1 pieces that occur in
the fewest tokens, and looks up every place to which d edits can have moved them.

Tokens that the index finds pass two tests: a lower bound on the distance from the sets of symbols,
and the distance itself. A query that would look up more than there are tokens, such as a long one
that is like no other, is compared with all of them instead.

    build   O(destination symbols)
    search  O(d**3 + tokens found) for each query and each distance d; at worst O(destination
            tokens) distances in all

benchmarks/README.md says what else was tried.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import jit, run_in_threads
from .edit_distance import WORD, clear_pattern, long_distance, set_pattern, word_distance
from .symbols import Symbols, to_symbols
from .tokens import UNMAPPED, Kind, PackedTokens, Unit

_OWN_BITS = 40  # of a set of symbols; the others share what is left
_KEY_BITS = 20
# Narrow enough that no key overflows: see edit_distance.py.
_MIX = 0x9E3779B97F, 0xC2B2AE3D27, 0x165667B19F, 0x85EBCA77C3
_NO_SYMBOL = -1
_MOST_POSITIONS = 256  # of a query, in which its pieces are looked for
_MOST_PIECES = 32
_NEVER = 1 << 40  # tokens
_QUERIES_PER_TASK = 64


class Index(NamedTuple):
    """The tokens that can be nearest, in id order, and where each piece of them stands."""

    ids: NDArray[np.int32]  # [tokens]
    symbols: NDArray[np.int32]  # [symbols], end to end
    offsets: NDArray[np.int64]  # [tokens + 1], into `symbols`
    sets: NDArray[np.int64]  # [tokens], the symbols of each as a set of bits
    slots: NDArray[np.int32]  # [a power of two + 1], into `members`
    members: NDArray[np.int32]  # [pieces], tokens by slot, ascending in each
    lowest: NDArray[np.int32]  # [longest length + 1], lowest token at most that long, or -1


@jit
def _set_of(symbols, start, stop):
    """The set of the symbols as bits; only rare symbols share one."""
    bits = np.int64(0)
    for j in range(start, stop):
        rank = np.int64(symbols[j])
        bit = rank if rank < _OWN_BITS else _OWN_BITS + rank % (WORD - _OWN_BITS)
        bits |= np.int64(1) << bit
    return bits


@jit
def _slot(symbol, second, before, after, mask):
    """The slot of the tokens with a piece that `before` symbols precede and `after` follow."""
    limit = (1 << _KEY_BITS) - 1
    key = np.int64(symbol) * _MIX[0] + (np.int64(second) + 1) * _MIX[1]
    key += (before & limit) * _MIX[2] + (after & limit) * _MIX[3]
    return (key >> _KEY_BITS) & mask


@jit
def _fill(symbols, offsets, sets, slots, members):
    """Sort every piece of every token into its slot: count, add up, put."""
    mask = len(slots) - 3
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        sets[i] = _set_of(symbols, start, stop)
        for j in range(start, stop):
            before, after = j - start, stop - 1 - j
            slots[_slot(symbols[j], _NO_SYMBOL, before, after, mask) + 2] += 1
            if after > 0:
                slots[_slot(symbols[j], symbols[j + 1], before, after - 1, mask) + 2] += 1
    for slot in range(1, len(slots)):
        slots[slot] += slots[slot - 1]
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        for j in range(start, stop):
            before, after = j - start, stop - 1 - j
            slot = _slot(symbols[j], _NO_SYMBOL, before, after, mask) + 1
            members[slots[slot]] = i
            slots[slot] += 1
            if after > 0:
                slot = _slot(symbols[j], symbols[j + 1], before, after - 1, mask) + 1
                members[slots[slot]] = i
                slots[slot] += 1


def _build_index(ids: NDArray[np.int32], tokens: Symbols, longest: int) -> Index:
    size = int(len(tokens.data) + np.maximum(tokens.lengths - 1, 0).sum())
    sets, members = np.empty(len(ids), np.int64), np.empty(size, np.int32)
    slots = np.zeros((1 << max(size - 1, 1).bit_length()) + 2, np.int32)
    _fill(tokens.data, tokens.offsets, sets, slots, members)
    lowest = np.full(longest + 1, len(ids), np.int32)
    np.minimum.at(lowest, tokens.lengths, np.arange(len(ids), dtype=np.int32))
    lowest = np.minimum.accumulate(lowest)
    lowest[lowest == len(ids)] = -1
    return Index(ids, tokens.data, tokens.offsets, sets, slots[:-1], members, lowest)


@jit
def _popcount(bits):
    """The number of bits that are set."""
    bits -= (bits >> 1) & 0x1555555555555555
    bits = (bits & 0x3333333333333333) + ((bits >> 2) & 0x3333333333333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0F
    bits += bits >> 8
    bits += bits >> 16
    bits += bits >> 32
    return bits & 0x7F


@jit
def _least_edits(own, other):
    """A lower bound on the distance of two tokens, from their sets of symbols."""
    return max(_popcount(own & ~other), _popcount(other & ~own))


@jit
def _distance(PM, query, start, stop, symbols, first, last, bound):
    if stop - start > WORD:
        return long_distance(PM, query, start, stop, symbols, first, last, bound)
    return word_distance(PM, stop - start, symbols, first, last, bound)


@jit
def _count_tokens(query, start, stop, counts, index):
    """Count the tokens with each symbol, and with each pair of symbols, where the query has it."""
    slots = index.slots
    mask = len(slots) - 2
    for position in range(min(stop - start, _MOST_POSITIONS)):
        j = start + position
        after = stop - 1 - j
        slot = _slot(query[j], _NO_SYMBOL, position, after, mask)
        counts[0, position] = slots[slot + 1] - slots[slot]
        if after > 0:
            slot = _slot(query[j], query[j + 1], position, after - 1, mask)
            counts[1, position] = slots[slot + 1] - slots[slot]


@jit
def _add_piece(pieces, positions, counts, least):
    """Fill `least[pieces]` in: the fewest tokens that contain one of `pieces` disjoint pieces.

    `least[pieces, position]` counts pieces that end before `position`.
    """
    least[pieces, 0] = _NEVER
    for j in range(1, positions + 1):
        fewest = min(least[pieces, j - 1], least[pieces - 1, j - 1] + counts[0, j - 1])
        if j > 1:
            fewest = min(fewest, least[pieces - 1, j - 2] + counts[1, j - 2])
        least[pieces, j] = fewest


@jit
def _look_up(distance, found, pieces, counts, least, PM, query, start, stop, own, index):
    """The lowest token at `distance`, or -1; no token is nearer than that.

    Only tokens below `found` are searched, unless it is -1. The pieces to look up are read back
    from `least`, last piece first.
    """
    _, symbols, offsets, sets, slots, members, _ = index
    mask = len(slots) - 2
    position = min(stop - start, _MOST_POSITIONS)
    while pieces > 0:
        if least[pieces, position] == least[pieces, position - 1]:
            position -= 1
            continue
        pieces -= 1
        position -= 1
        second = np.int32(_NO_SYMBOL)
        if least[pieces + 1, position + 1] != least[pieces, position] + counts[0, position]:
            second = query[start + position]
            position -= 1
        symbol = query[start + position]
        end = stop - start - position - (1 if second == _NO_SYMBOL else 2)
        for before in range(max(position - distance, 0), position + distance + 1):
            left = distance - abs(before - position)
            for after in range(max(end - left, 0), end + left + 1):
                slot = _slot(symbol, second, before, after, mask)
                for j in range(slots[slot], slots[slot + 1]):
                    token = members[j]
                    if found >= 0 and token >= found:
                        break
                    if _least_edits(own, sets[token]) > distance:
                        continue
                    first, last = offsets[token], offsets[token + 1]
                    edits = _distance(PM, query, start, stop, symbols, first, last, distance)
                    if edits <= distance:
                        found = token
                        break
    return found


@jit
def _scan(least, limit, PM, query, start, stop, own, index):
    """The nearest token within `limit` and its distance, or -1, by comparing them all.

    No token is nearer than `least`: one that near ends the scan.
    """
    _, symbols, offsets, sets, _, _, _ = index
    found = -1
    for token in range(len(sets)):
        first, last = offsets[token], offsets[token + 1]
        if abs((last - first) - (stop - start)) > limit or _least_edits(own, sets[token]) > limit:
            continue
        edits = _distance(PM, query, start, stop, symbols, first, last, limit)
        if edits <= limit:
            found, limit = token, edits - 1
            if limit < least:
                break
    return found, limit + 1


@jit
def _search(limit, counts, least, PM, query, start, stop, index):
    """The nearest token within `limit` and its distance, or -1."""
    own = _set_of(query, start, stop)
    length = stop - start
    farthest = length  # no distance of two tokens exceeds the length of the longer one
    while index.lowest[farthest] < 0:
        farthest += 1
    _count_tokens(query, start, stop, counts, index)
    least[0, :] = 0
    positions = min(length, _MOST_POSITIONS)
    for distance in range(min(farthest, limit) + 1):
        pieces = min(distance + 1, length)
        moves = 2 * distance * (distance + 1) + 1
        too_many = pieces > min(positions, _MOST_PIECES)
        if not too_many and pieces == distance + 1:
            _add_piece(pieces, positions, counts, least)
        if too_many or moves * (pieces + least[pieces, positions]) > len(index.ids):
            nearest = min(farthest, limit)
            return _scan(distance, nearest, PM, query, start, stop, own, index)
        # At the farthest distance a token may have no piece in common with the query.
        found = index.lowest[farthest] if distance == farthest else -1
        found = _look_up(distance, found, pieces, counts, least, PM, query, start, stop, own, index)
        if found >= 0:
            return found, distance
    return -1, limit + 1


@jit
def _nearest_range(first, last, limit, query, offsets, index, alphabet, dst_id, distances):
    """The leaf: the nearest tokens of queries `first` to `last`."""
    PM = np.zeros(alphabet, np.int64)
    counts = np.empty((2, _MOST_POSITIONS), np.int64)
    least = np.empty((_MOST_PIECES + 1, _MOST_POSITIONS + 1), np.int64)
    for i in range(first, last):
        start, stop = offsets[i], offsets[i + 1]
        if stop - start <= WORD:
            set_pattern(PM, query, start, stop)
        found, distance = _search(limit, counts, least, PM, query, start, stop, index)
        if found >= 0:
            dst_id[i], distances[i] = index.ids[found], distance
        if stop - start <= WORD:
            clear_pattern(PM, query, start, stop)


def _nearest(
    queries: Symbols, index: Index, limit: int, alphabet: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    count = len(queries.offsets) - 1
    dst_id, distances = (np.full(count, UNMAPPED, np.int32) for _ in range(2))

    def run(first: int, last: int) -> None:
        _nearest_range(first, last, limit, *queries, index, alphabet, dst_id, distances)

    run_in_threads(run, count, _QUERIES_PER_TASK)
    return dst_id, distances


def nearest(
    src: PackedTokens, dst: PackedTokens, unit: Unit = "char", max_distance: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The nearest destination token of every source token, by Levenshtein distance.

    Text tokens take part, in bytes those of kind byte and fragment as well. Of tokens at equal
    distance the lowest id wins. MinED is defined in FuseLLM (arXiv 2401.10491); the plain twin of
    this function is `reference.nearest`.

    Returns:
        int32 [source tokens]: the destination id, and the distance; both are -1 where nothing is
        within `max_distance`, or where the source token takes no part.

    Raises:
        ValueError: `max_distance` is negative.

    >>> from pm_mined.kernels.tokens import pack
    >>> kinds = np.zeros(2, np.uint8)
    >>> ids, distances = nearest(pack([b"kitten", b"x"], kinds), pack([b"it", b"mitten"], kinds))
    >>> ids.tolist(), distances.tolist()
    ([1, 0], [1, 2])
    """
    if max_distance is not None and max_distance < 0:
        raise ValueError(f"the maximum distance is {max_distance}: it must be at least 0")
    dst_id, distances = (np.full(len(src.kinds), UNMAPPED, np.int32) for _ in range(2))
    last_kind = Kind.FRAGMENT if unit == "byte" else Kind.TEXT
    rows, ids = (np.flatnonzero(side.kinds <= last_kind) for side in (src, dst))
    if not len(rows) or not len(ids):
        return dst_id, distances
    queries, tokens, alphabet = to_symbols(src.take(rows), dst.take(ids), unit)
    longest = int(max(queries.lengths.max(), tokens.lengths.max()))
    limit = longest if max_distance is None else min(max_distance, longest)
    index = _build_index(ids.astype(np.int32), tokens, longest)
    dst_id[rows], distances[rows] = _nearest(queries, index, limit, alphabet)
    return dst_id, distances
