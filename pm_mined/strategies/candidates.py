"""A source token and the candidates for it, by which strategies explain their matches."""

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind, Rule, Unit, is_candidate, symbols_of
from pm_mined.vocabulary import Vocabulary

from .base import Options
from .sorted_tokens import SortedTokens

if TYPE_CHECKING:
    from pm_mined.tokenizer.encoders.libraries import Encode

SAME_BYTES = "same bytes"
UNUSED = "unused tokens never match"


class Subject(NamedTuple):
    """The source token that is explained, and what the map has for it."""

    token: bytes
    kind: Kind
    dst_id: int
    rule: Rule
    distance: int


class Related(NamedTuple):
    """A destination token that one of the rules has to look at."""

    rank: tuple[int, int, int]  # the rule's turn, the distance or place, the id: the lowest wins
    rule: Rule
    relation: str  # to the source token
    distance: int | None
    barred: str  # why it is no candidate; empty for a candidate

    @property
    def dst_id(self) -> int:
        """The id of the destination token."""
        return self.rank[-1]


class Found(NamedTuple):
    """The tokens that the rules find for one source token."""

    related: list[Related]
    nothing: str = ""  # why the token is unmapped, if none of `related` is a candidate
    more: int = 0  # candidates that are not in `related`, and lose against all that are
    encoding: list[int] | None = None
    unknown: str = ""  # why the rules cannot be followed to the end

    @property
    def decided(self) -> bool:
        """True if one of the tokens is a candidate."""
        return not all(one.barred for one in self.related)


class Destination:
    """The destination vocabulary; finds tokens by beginning, by literal and by distance."""

    def __init__(self, vocabulary: Vocabulary, unit: Unit) -> None:
        self.vocabulary = vocabulary
        self.unit: Unit = unit
        self.tokens = vocabulary.packed.tolist()
        self.kinds = [Kind(code) for code in vocabulary.packed.kinds.tolist()]

    @cached_property
    def by_spelling(self) -> SortedTokens:
        """All tokens, of whatever kind."""
        return SortedTokens(self.tokens, range(len(self.tokens)))

    def with_literals(self, literals: list[str]) -> Iterator[int]:
        """The ids of all tokens spelled like one of `literals`, of whatever kind."""
        for literal in literals:
            yield from self._by_literal.get(literal, [])

    @cached_property
    def _by_literal(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for token_id, token in enumerate(self.tokens):
            found.setdefault(token.decode(errors="surrogateescape"), []).append(token_id)
        return found

    @cached_property
    def candidates(self) -> list[int]:
        """The ids of all tokens that edit distance may choose."""
        return [i for i, kind in enumerate(self.kinds) if is_candidate(kind, self.unit)]

    @cached_property
    def _candidate_symbols(self) -> list[bytes | str]:
        return [symbols_of(self.tokens[i], self.unit) for i in self.candidates]

    def distances(self, token: bytes) -> NDArray[np.int32]:
        """int32 [candidates]: the edits from `token` to each of them."""
        from rapidfuzz import process
        from rapidfuzz.distance import Levenshtein

        query = [symbols_of(token, self.unit)]
        found: NDArray[np.int32] = process.cdist(
            query, self._candidate_symbols, scorer=Levenshtein.distance, dtype=np.int32
        )[0]
        return found

    def distance(self, token: bytes, dst_id: int) -> int:
        """The edits from `token` to one token."""
        from rapidfuzz.distance import Levenshtein

        pair = (symbols_of(one, self.unit) for one in (token, self.tokens[dst_id]))
        return Levenshtein.distance(*pair)

    def encode(self, token: bytes) -> list[int]:
        """Encode a text token by the tokenizer, up to the first id that stands for no text.

        Raises:
            VocabularyError: there is no tokenizer, or one that cannot be used.
        """
        (ids,) = self._encode([token.decode()])
        return list(takewhile(self._has_bytes, ids.tolist()))

    def _has_bytes(self, dst_id: int) -> bool:
        return dst_id < len(self.kinds) and self.kinds[dst_id] <= Kind.FRAGMENT

    @cached_property
    def _encode(self) -> "Encode":
        from pm_mined.tokenizer.encoders.load import encoder_of

        encode = encoder_of(self.vocabulary)
        if encode is None:
            raise VocabularyError(f"{self.vocabulary.name} is a vocabulary without its tokenizer")
        return encode


Explain = Callable[[Subject, Destination, Options, int], Found]
"""Find what a strategy has to look at for one ordinary source token, and what bars the others.

All of it follows from the definition of the strategy, in plain Python; no kernel is asked. The
number says how many tokens are to be shown, for strategies that look at all there are.
"""
