"""Tokens found by how they begin."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence


class SortedTokens:
    """The tokens of `ids`, sorted by their bytes; what is found are their ids."""

    def __init__(self, tokens: Sequence[bytes], ids: Sequence[int]) -> None:
        self._tokens = tokens
        self._ids = sorted(ids, key=tokens.__getitem__)

    def beginning_with(self, token: bytes) -> list[int]:
        """All that begin with `token`, itself among them."""
        first = bisect_left(self._ids, token, key=self._tokens.__getitem__)
        last = bisect_right(self._ids, token, lo=first, key=lambda i: self._tokens[i][: len(token)])
        return self._ids[first:last]

    def equal_to(self, token: bytes) -> list[int]:
        """All with the same bytes, ascending."""
        first = bisect_left(self._ids, token, key=self._tokens.__getitem__)
        last = bisect_right(self._ids, token, lo=first, key=self._tokens.__getitem__)
        return self._ids[first:last]

    def spelled_like(self, token: bytes) -> Iterator[int]:
        """All that begin with `token` or that it begins with; none without bytes."""
        if token:
            yield from self.beginning_with(token)
        for stop in range(1, len(token)):
            yield from self.equal_to(token[:stop])
