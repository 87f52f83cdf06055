"""Tokens found by how they begin."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence


class SortedTokens:
    """The tokens of `ids`, sorted by their bytes; what is found are their ids."""

    def __init__(self, tokens: Sequence[bytes], ids: Sequence[int]) -> None:
        self._ids = sorted(ids, key=tokens.__getitem__)
        self._tokens = [tokens[i] for i in self._ids]
        self._lengths = sorted(set(map(len, self._tokens)))
        self._first: dict[bytes, int] = {}  # where the tokens with these bytes begin
        for place, token in enumerate(self._tokens):
            self._first.setdefault(token, place)

    def _beginning_with(self, token: bytes) -> Iterator[int]:
        for place in range(bisect_left(self._tokens, token), len(self._ids)):
            if not self._tokens[place].startswith(token):
                return
            yield self._ids[place]

    def _equal_to(self, token: bytes) -> Iterator[int]:
        for place in range(self._first.get(token, len(self._ids)), len(self._ids)):
            if self._tokens[place] != token:
                return
            yield self._ids[place]

    def spelled_like(self, token: bytes) -> Iterator[int]:
        """All that begin with `token` or that it begins with; none without bytes.

        >>> list(SortedTokens([b"ab", b"b", b"a", b"abc"], range(4)).spelled_like(b"ab"))
        [0, 3, 2]
        """
        if token:
            yield from self._beginning_with(token)
        for length in self._lengths:
            if 0 < length < len(token):
                yield from self._equal_to(token[:length])
