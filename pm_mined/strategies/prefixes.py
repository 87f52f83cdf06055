"""Strategy `prefixes`: every token that is a prefix of the source token, or that it is one of."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from heapq import nsmallest

import numpy as np

from pm_mined.kernels.tokens import Choices, Rule, Unit, is_candidate, symbols_of
from pm_mined.vocabulary import Vocabulary

from .base import Matched, Options
from .spelling import pm_mined

_Related = tuple[int, int]
"""A distance, and the id of the destination token that is so far away."""


def prefixes(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """The same bytes, else the nearest `top_k` prefixes and extensions.

    What is one edit farther weighs `decay` of what is nearer. The first choice is the match of
    strategy `pm-mined`, and what may be a choice is what may be a match there.
    """
    matches = pm_mined(src, dst, options).matches
    rows = np.flatnonzero(matches.rule != Rule.NONE)
    exact = (matches.rule[rows] <= Rule.BYTE).tolist()
    tokens = src.packed.take(rows).tolist()
    destination = _Destination(dst, options)
    inexact = {token for token, same in zip(tokens, exact, strict=True) if not same}
    related = destination.related(inexact)
    found = [
        [(0, match)] if same else related[token]
        for token, match, same in zip(tokens, matches.dst_id[rows].tolist(), exact, strict=True)
    ]
    owners = np.repeat(rows, [len(related) for related in found])
    pairs = np.array([pair for related in found for pair in related], np.int64).reshape(-1, 2)
    # From the nearest on: from 0 on, a power of a long distance would be nothing.
    nearest = np.repeat([related[0][0] for related in found], [len(related) for related in found])
    weights = options.decay ** (pairs[:, 0] - nearest).astype(np.float64)
    return Matched(matches, Choices.of(len(src), owners, pairs[:, 1], weights))


class _Destination:
    """The tokens that may be prefixes and extensions; of each spelling only the first `top_k`."""

    def __init__(self, vocabulary: Vocabulary, options: Options) -> None:
        self._unit: Unit = options.unit
        self._top_k = options.top_k
        self._ids: dict[bytes, list[int]] = {}
        kinds = vocabulary.packed.kinds.tolist()
        for i, token in enumerate(vocabulary.packed.tolist()):
            if is_candidate(kinds[i], self._unit):
                ids = self._ids.setdefault(token, [])
                if len(ids) < self._top_k:
                    ids.append(i)

    def related(self, tokens: Iterable[bytes]) -> dict[bytes, list[_Related]]:
        """The nearest `top_k` prefixes and extensions of each of `tokens`, the nearest first."""
        extensions = self._extensions(tokens)
        lengths = sorted(set(map(len, self._ids)))
        return {
            token: nsmallest(self._top_k, [*self._prefixes(token, lengths), *extensions[token]])
            for token in tokens
        }

    def _prefixes(self, token: bytes, lengths: list[int]) -> list[_Related]:
        """The prefixes of `token`, the longest and therefore the nearest first."""
        size, found, only_spaces = self._size(token), [], not token.strip(b" ")
        for length in reversed(lengths[: bisect_left(lengths, len(token))]):
            prefix = token[:length]
            if prefix in self._ids and (only_spaces or prefix != b" "):
                distance = size - self._size(prefix)
                found += [(distance, i) for i in self._ids[prefix]]
                if len(found) >= self._top_k:
                    break
        return found

    def _extensions(self, tokens: Iterable[bytes]) -> dict[bytes, list[_Related]]:
        """The extensions of each of `tokens`: each candidate is offered to all that it begins with.

        The shortest is offered first, so that what is full has the nearest.
        """
        found: dict[bytes, list[_Related]] = {token: [] for token in tokens}
        sizes = {token: self._size(token) for token in found}
        lengths = sorted(set(map(len, found)))
        for size, i, candidate in self._by_size():
            for length in lengths[: bisect_left(lengths, len(candidate))]:
                beginning = candidate[:length]
                related = found.get(beginning)
                if related is not None and len(related) < self._top_k:
                    related.append((size - sizes[beginning], i))
        return found

    def _by_size(self) -> Iterator[tuple[int, int, bytes]]:
        """Size, id and bytes of each candidate, the shortest first, then by id."""
        sizes = ((self._size(token), i, token) for token, ids in self._ids.items() for i in ids)
        return iter(sorted(sizes))

    def _size(self, token: bytes) -> int:
        return len(token if token.isascii() else symbols_of(token, self._unit))
