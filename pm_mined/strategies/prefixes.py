"""Strategy `prefixes`: every token that is a prefix of the source token, or that it is one of."""

from collections.abc import Iterator
from heapq import nsmallest

import numpy as np

from pm_mined.kernels.tokens import Choices, Rule, Unit, is_candidate, symbols_of
from pm_mined.vocabulary import Vocabulary

from .base import Matched, Options
from .sorted_tokens import SortedTokens
from .spelling import pm_mined


def prefixes(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """The same bytes, else the nearest `top_k` prefixes and extensions.

    What is one edit farther weighs `decay` of what is nearer. The first choice is the match of
    strategy `pm-mined`, and what may be a choice is what may be a match there.
    """
    matches = pm_mined(src, dst, options).matches
    destination = _Destination(dst, options.unit)
    rows = np.flatnonzero(matches.rule != Rule.NONE)
    exact = matches.rule[rows] <= Rule.BYTE
    tokens = src.packed.take(rows).tolist()
    found = [
        [(0, match)] if same else nsmallest(options.top_k, destination.related(token))
        for token, match, same in zip(tokens, matches.dst_id[rows].tolist(), exact, strict=True)
    ]
    owners = np.repeat(rows, [len(related) for related in found])
    pairs = np.array([pair for related in found for pair in related], np.int64).reshape(-1, 2)
    # From the nearest on: from 0 on, a power of a long distance would be nothing.
    nearest = np.repeat([related[0][0] for related in found], [len(related) for related in found])
    weights = options.decay ** (pairs[:, 0] - nearest).astype(np.float64)
    return Matched(matches, Choices.of(len(src), owners, pairs[:, 1], weights))


class _Destination:
    """The tokens that may be prefixes and extensions, found by how they begin."""

    def __init__(self, vocabulary: Vocabulary, unit: Unit) -> None:
        self._unit: Unit = unit
        self._tokens = vocabulary.packed.tolist()
        kinds = vocabulary.packed.kinds.tolist()
        candidates = [i for i, kind in enumerate(kinds) if is_candidate(kind, unit)]
        self._by_spelling = SortedTokens(self._tokens, candidates)

    def related(self, token: bytes) -> Iterator[tuple[int, int]]:
        """The distance and the id of every prefix and extension of `token`."""
        size, only_spaces = len(symbols_of(token, self._unit)), not token.strip(b" ")
        for dst_id in self._by_spelling.spelled_like(token):
            other = self._tokens[dst_id]
            if only_spaces or other != b" ":
                yield abs(size - len(symbols_of(other, self._unit))), dst_id
