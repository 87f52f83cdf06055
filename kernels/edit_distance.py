"""Levenshtein distance, bit-parallel and bounded, between symbols of any length.

    word_distance   O(text): a pattern of at most 62 symbols is one word
    long_distance   O(ceil(pattern / 62) * text)

Myers' algorithm (J. ACM 46, 1999) keeps a column of the matrix as the differences between its
neighbouring cells, one bit each, and computes the next column from a word of them in a dozen
operations. Its vectors have the names that they have in Hyyrö (Nordic J. of Computing 10, 2003):

    PM      where a symbol occurs in the pattern (pattern match)
    VP, VN  where a cell is one more, one less than the cell above it (vertical)
    HP, HN  where a cell is one more, one less than the cell to its left (horizontal)
    D0      where a cell equals the one above and to the left of it (diagonal difference 0)

A longer pattern is cut into words, one row of words after the other: each carries the horizontal
differences along its lower edge over to the next one.

A word has 62 bits, so that no addition overflows an int64: the same arithmetic then runs, without
warnings, when Numba is switched off.
"""

import numpy as np
from numpy.typing import NDArray

from .compiled import jit, run_in_threads
from .symbols import Symbols, to_symbols
from .tokens import PackedTokens, Unit

WORD = 62
_ONES = (1 << WORD) - 1
_PAIRS_PER_TASK = 4096


@jit
def set_pattern(PM, data, start, stop):
    """Set in `PM` [alphabet] the bits of every symbol of a word of the pattern."""
    for j in range(start, stop):
        PM[data[j]] |= np.int64(1) << (j - start)


@jit
def clear_pattern(PM, data, start, stop):
    """Undo `set_pattern`."""
    for j in range(start, stop):
        PM[data[j]] = 0


@jit
def word_distance(PM, length, data, start, stop, bound):
    """The distance of a text to the pattern of at most 62 symbols in `PM`.

    Beyond `bound` the answer is `bound + 1`.
    """
    VP, VN = np.int64(_ONES), np.int64(0)
    last = np.int64(1) << max(length - 1, 0)
    distance = length
    for j in range(start, stop):
        if distance - (stop - j) > bound:
            return bound + 1
        match = PM[data[j]]
        D0 = (((match & VP) + VP) ^ VP) | match | VN
        HP = VN | (~(D0 | VP) & _ONES)
        HN = D0 & VP
        if length == 0 or HP & last:
            distance += 1
        elif HN & last:
            distance -= 1
        HP = ((HP << 1) | 1) & _ONES
        HN = (HN << 1) & _ONES
        VP = HN | (~(D0 | HP) & _ONES)
        VN = HP & D0
    return min(distance, bound + 1)


@jit
def _carry_over(PM, length, data, start, stop, carry):
    """Turn `carry` [text], the horizontal differences above a word of the pattern, into its own."""
    VP, VN = np.int64(_ONES), np.int64(0)
    last = np.int64(1) << (length - 1)
    for j in range(start, stop):
        above = carry[j - start]
        HP_above, HN_above = np.int64(above > 0), np.int64(above < 0)
        match = PM[data[j]] | HN_above
        D0 = (((match & VP) + VP) ^ VP) | match | VN
        HP = VN | (~(D0 | VP) & _ONES)
        HN = D0 & VP
        carry[j - start] = 1 if HP & last else -1 if HN & last else 0
        HP = ((HP << 1) & _ONES) | HP_above
        HN = ((HN << 1) & _ONES) | HN_above
        VP = HN | (~(D0 | HP) & _ONES)
        VN = HP & D0


@jit
def long_distance(PM, a, a_start, a_stop, b, b_start, b_stop, bound):
    """The distance of two symbol sequences of any length; `PM` is all zero before and after.

    Beyond `bound` the answer is `bound + 1`.
    """
    if abs((a_stop - a_start) - (b_stop - b_start)) > bound:
        return bound + 1
    carry = np.ones(b_stop - b_start, np.int8)
    for start in range(a_start, a_stop, WORD):
        stop = min(start + WORD, a_stop)
        set_pattern(PM, a, start, stop)
        _carry_over(PM, stop - start, b, b_start, b_stop, carry)
        clear_pattern(PM, a, start, stop)
    distance = a_stop - a_start
    for difference in carry:
        distance += difference
    return min(distance, bound + 1)


@jit
def _distances_range(first, last, a, a_offsets, b, b_offsets, bound, alphabet, out):
    """The leaf: the distances of pairs `first` to `last`."""
    PM = np.zeros(alphabet, np.int64)
    for i in range(first, last):
        start, stop = a_offsets[i], a_offsets[i + 1]
        if stop - start > WORD:
            out[i] = long_distance(PM, a, start, stop, b, b_offsets[i], b_offsets[i + 1], bound)
            continue
        set_pattern(PM, a, start, stop)
        out[i] = word_distance(PM, stop - start, b, b_offsets[i], b_offsets[i + 1], bound)
        clear_pattern(PM, a, start, stop)


def _distances(a: Symbols, b: Symbols, bound: int, alphabet: int) -> NDArray[np.int32]:
    distances = np.empty(len(a.offsets) - 1, np.int32)

    def run(first: int, last: int) -> None:
        _distances_range(first, last, *a, *b, bound, alphabet, distances)

    run_in_threads(run, len(distances), _PAIRS_PER_TASK)
    return distances


def edit_distances(
    a: PackedTokens, b: PackedTokens, unit: Unit = "char", cutoff: int | None = None
) -> NDArray[np.int32]:
    """int32 [pairs]: the Levenshtein distance of token `i` of `a` to token `i` of `b`.

    Kinds play no part. Beyond `cutoff` the answer is `cutoff + 1`, as in RapidFuzz. In code
    points, a byte that is not UTF-8 counts as one.

    Raises:
        ValueError: `a` and `b` are not of one length, or `cutoff` is negative.

    >>> from pm_mined.kernels.tokens import pack
    >>> kinds = np.zeros(2, np.uint8)
    >>> a, b = pack([b"kitten", b"abc"], kinds), pack([b"sitting", b"xyz"], kinds)
    >>> edit_distances(a, b).tolist(), edit_distances(a, b, cutoff=1).tolist()
    ([3, 3], [2, 2])
    """
    if len(a.kinds) != len(b.kinds):
        raise ValueError(f"{len(a.kinds)} tokens on one side, {len(b.kinds)} on the other")
    if cutoff is not None and cutoff < 0:
        raise ValueError(f"the cutoff is {cutoff}: it must be at least 0")
    left, right, alphabet = to_symbols(a, b, unit)
    farthest = len(left.data) + len(right.data)
    bound = farthest if cutoff is None else min(cutoff, farthest)
    return _distances(left, right, bound, alphabet)
