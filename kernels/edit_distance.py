"""Levenshtein distance, bit-parallel and bounded, between symbols of any length.

Myers' algorithm (J. ACM 46, 1999) keeps a column of the matrix as the differences between its
neighbouring cells, a bit each, and takes a whole word of them one column further in a dozen
operations. Longer patterns are cut into words, one row of words after the other, as in Hyyrö
(2003): what one row hands down to the next is the horizontal difference at each column.

A word has 62 bits, so that no addition overflows an int64: the same arithmetic then runs, without
warnings, when Numba is switched off.
"""

import numpy as np
from numpy.typing import NDArray

from .compiled import jit, run_in_threads
from .symbols import to_symbols
from .tokens import PackedTokens, Unit

WORD = 62
_ONES = (1 << WORD) - 1
_PAIRS_PER_TASK = 4096


@jit
def set_pattern(places, data, start, stop):
    """Note in `places` [alphabet], bit by bit, where each symbol of a pattern word stands."""
    for j in range(start, stop):
        places[data[j]] |= np.int64(1) << (j - start)


@jit
def clear_pattern(places, data, start, stop):
    """Undo `set_pattern`."""
    for j in range(start, stop):
        places[data[j]] = 0


@jit
def word_distance(places, length, data, start, stop, bound):
    """The distance of a text to the pattern of at most 62 symbols in `places`.

    Beyond `bound` the answer is `bound + 1`.
    """
    above, below = np.int64(_ONES), np.int64(0)  # where a cell is one more, one less than above it
    last = np.int64(1) << max(length - 1, 0)
    distance = length
    for j in range(start, stop):
        if distance - (stop - j) > bound:
            return bound + 1
        same = places[data[j]]
        vertical = same | below
        horizontal = (((same & above) + above) ^ above) | same
        more = below | (~(horizontal | above) & _ONES)
        less = above & horizontal
        if length == 0 or more & last:
            distance += 1
        elif less & last:
            distance -= 1
        more = ((more << 1) | 1) & _ONES
        less = (less << 1) & _ONES
        above = less | (~(vertical | more) & _ONES)
        below = more & vertical
    return min(distance, bound + 1)


@jit
def _row_of_words(places, length, data, start, stop, steps):
    """Take the horizontal differences in `steps` from above a word of the pattern to below it."""
    above, below = np.int64(_ONES), np.int64(0)
    last = np.int64(1) << (length - 1)
    for j in range(start, stop):
        step = steps[j - start]
        same = places[data[j]]
        vertical = same | below
        if step < 0:
            same |= 1
        horizontal = (((same & above) + above) ^ above) | same
        more = below | (~(horizontal | above) & _ONES)
        less = above & horizontal
        steps[j - start] = 1 if more & last else -1 if less & last else 0
        more = (more << 1) & _ONES
        less = (less << 1) & _ONES
        if step < 0:
            less |= 1
        elif step > 0:
            more |= 1
        above = less | (~(vertical | more) & _ONES)
        below = more & vertical


@jit
def long_distance(places, a, a_start, a_stop, b, b_start, b_stop, bound):
    """The distance of two symbol sequences of any length; `places` is all zero.

    Beyond `bound` the answer is `bound + 1`.
    """
    if abs((a_stop - a_start) - (b_stop - b_start)) > bound:
        return bound + 1
    steps = np.ones(b_stop - b_start, np.int8)
    for start in range(a_start, a_stop, WORD):
        stop = min(start + WORD, a_stop)
        set_pattern(places, a, start, stop)
        _row_of_words(places, stop - start, b, b_start, b_stop, steps)
        clear_pattern(places, a, start, stop)
    distance = a_stop - a_start
    for step in steps:
        distance += step
    return min(distance, bound + 1)


@jit
def _distances(first, last, a, a_offsets, b, b_offsets, bound, alphabet, out):
    """The leaf: the distances of pairs `first` to `last`."""
    places = np.zeros(alphabet, np.int64)
    for i in range(first, last):
        start, stop = a_offsets[i], a_offsets[i + 1]
        if stop - start > WORD:
            out[i] = long_distance(places, a, start, stop, b, b_offsets[i], b_offsets[i + 1], bound)
            continue
        set_pattern(places, a, start, stop)
        out[i] = word_distance(places, stop - start, b, b_offsets[i], b_offsets[i + 1], bound)
        clear_pattern(places, a, start, stop)


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
    longest = len(left.data) + len(right.data)
    bound = longest if cutoff is None else min(cutoff, longest)
    distances = np.empty(len(a.kinds), np.int32)

    def run(first: int, last: int) -> None:
        _distances(first, last, *left, *right, bound, alphabet, distances)

    run_in_threads(run, len(distances), _PAIRS_PER_TASK)
    return distances
