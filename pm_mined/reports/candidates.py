"""What each strategy has to look at for a source token: the candidates, and what bars the others.

All of it follows from the definition of the strategy, in plain Python; no kernel is asked.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from pm_mined.errors import OptionError, PmMinedError, VocabularyError
from pm_mined.kernels.tokens import Kind, Rule, Unit, is_candidate, length, symbols_of
from pm_mined.maps.token_map import Row, TokenMap
from pm_mined.strategies.registry import Options, options_of
from pm_mined.strategies.registry import describe as describe_options
from pm_mined.strategies.sorted_tokens import SortedTokens
from pm_mined.tokenizer.special_tokens import literals_of, role_of, roles_to_try
from pm_mined.version import __version__
from pm_mined.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pm_mined.tokenizer.encoders.libraries import Encode

SAME_BYTES = "same bytes"
UNUSED = "unused tokens never match"
_EXACT = "strategy exact takes the same bytes only"
BEGINS = "its own encoding begins with it"


class Related(NamedTuple):
    """A destination token that one of the rules has to look at."""

    rank: tuple[int, int, int]  # the rule's turn, the distance or place, the id: the lowest wins
    rule: Rule
    relation: str
    distance: int | None
    barred: str  # why it is no candidate; empty for a candidate

    @property
    def dst_id(self) -> int:
        """The id of the destination token."""
        return self.rank[-1]


class Found(NamedTuple):
    """What the rules find for one source token."""

    related: list[Related]
    more: int = 0  # candidates that are not in `related`, and lose against all that are
    encoding: list[int] | None = None
    unknown: str = ""  # why the rules cannot be followed to the end

    @property
    def decided(self) -> bool:
        """Whether one of the tokens is a candidate."""
        return not all(one.barred for one in self.related)


class Destination:
    """The destination vocabulary, with its tokens found by beginning, by role and by distance."""

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
        """The ids of all tokens that read like one of `literals`, of whatever kind."""
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
        """How the tokenizer writes a text token, up to the first id that stands for no text.

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


# --- What each strategy has to look at -----------------------------------------------------------

# Why a destination token, spelled like a source token, is no candidate for it; or empty.
_Bar = Callable[[Row, int, Destination], str]


def _spelled_like(row: Row, dst: Destination, bar: _Bar) -> list[Related]:
    """Each token that is spelled like an ordinary one; `bar` judges those of other bytes.

    What has the same bytes goes first, and then the nearest, as in strategy pm-mined.
    """
    src, kind, found = row.src_token, _kind(row), []
    units = length(src, dst.unit)
    for dst_id in dst.by_spelling.spelled_like(src):
        token, dst_kind = dst.tokens[dst_id], dst.kinds[dst_id]
        barred = _reserved(dst_kind) or ("" if token == src else bar(row, dst_id, dst))
        if token == src:
            rule = Rule.EXACT if kind == dst_kind else Rule.BYTE
            turn, relation, distance = int(rule), SAME_BYTES, 0
        else:
            rule = Rule.PREFIX if len(token) < len(src) else Rule.EXTENSION
            turn, relation = int(Rule.PREFIX), rule.name.lower()
            distance = abs(units - length(token, dst.unit))
        measured = token == src or not _barred_by_kind(row, dst_id, dst)
        shown = distance if measured else None
        found.append(Related((turn, distance, dst_id), rule, relation, shown, barred))
    return found


def _kind(row: Row) -> Kind:
    return Kind[row.src_kind.upper()]


def _reserved(kind: Kind) -> str:
    """Why a token of this kind is no candidate for an ordinary one; or empty."""
    if kind == Kind.SPECIAL:
        return "special tokens match by role or literal, never by spelling"
    return UNUSED if kind == Kind.UNUSED else ""


def _barred_by_kind(row: Row, dst_id: int, dst: Destination) -> str:
    for one in (_kind(row), dst.kinds[dst_id]):
        if not is_candidate(one, dst.unit):
            return f"in code points, {one.name.lower()} tokens match the same bytes only"
    return ""


def _barred_by_spelling(row: Row, dst_id: int, dst: Destination) -> str:
    if barred := _barred_by_kind(row, dst_id, dst):
        return barred
    if dst.tokens[dst_id] == b" " and row.src_token.strip(b" "):
        return "the bare space is a candidate only for tokens of spaces"
    return ""


def _pm_mined(row: Row, dst: Destination, options: Options, limit: int) -> Found:
    found = Found(_spelled_like(row, dst, _barred_by_spelling))
    if options.fallback is None or found.decided:
        return found
    return _by_edits(row, dst, found.related, limit, options.max_distance)


def _exact(row: Row, dst: Destination, _options: Options, _limit: int) -> Found:
    return Found(_spelled_like(row, dst, lambda *of: _barred_by_spelling(*of) or _EXACT))


def _mined(row: Row, dst: Destination, _options: Options, limit: int) -> Found:
    found = Found(_spelled_like(row, dst, _barred_by_kind))
    if any(one.relation == SAME_BYTES and not one.barred for one in found.related):
        return found
    return _by_edits(row, dst, found.related, limit, None)


def _by_edits(
    row: Row, dst: Destination, spelled: list[Related], limit: int, max_distance: int | None
) -> Found:
    """The nearest tokens by edit distance, as many as are shown, behind what is never among them.

    What the map reads is among them, too, as far away as it may be.
    """
    if not is_candidate(_kind(row), dst.unit):
        return Found(spelled)
    distances = dst.distances(row.src_token)
    places = np.argsort(distances, kind="stable")[: limit + 1].tolist()
    shown = {dst.candidates[place]: int(distances[place]) for place in places}
    if row.dst_id not in shown and row.dst_id in dst.candidates:
        shown[row.dst_id] = int(distances[dst.candidates.index(row.dst_id)])
    never = [one for one in spelled if not is_candidate(dst.kinds[one.dst_id], dst.unit)]
    near = [_edited(dst_id, distance, max_distance) for dst_id, distance in shown.items()]
    return Found(never + near, more=len(dst.candidates) - len(near))


def _edited(dst_id: int, distance: int, max_distance: int | None) -> Related:
    too_far = max_distance is not None and distance > max_distance
    barred = f"farther than {max_distance}" if too_far else ""
    return Related((int(Rule.EDIT), distance, dst_id), Rule.EDIT, "edit", distance, barred)


def _first_token(row: Row, dst: Destination, _options: Options, _limit: int) -> Found:
    return _by_encoding(row, dst, 1, "the tokenizer does not write it first")


def _of_encoding(row: Row, dst: Destination, options: Options, _limit: int) -> Found:
    count = options.top_k
    return _by_encoding(row, dst, count, f"not among the first {count} that the tokenizer writes")


def _both_ways(row: Row, dst: Destination, _options: Options, _limit: int) -> Found:
    found = _by_encoding(row, dst, 1, "neither encoding begins with the other")
    if found.decided:
        return found
    unknown = found.unknown
    if row.rule == "override":
        unknown = unknown or "whose encoding begins with it, only the source tokenizer tells"
    mapped = _as_mapped(row, Rule.EXTENSION, BEGINS)
    return found._replace(related=_without(found.related, mapped) + mapped, unknown=unknown)


def _by_encoding(row: Row, dst: Destination, count: int, not_written: str) -> Found:
    """The first `count` tokens of the encoding, and why others that are spelled like it lost."""
    spelled = _spelled_like(row, dst, lambda *_: not_written)
    found = Found(spelled)
    if found.decided or _kind(row) != Kind.TEXT:
        return found
    try:
        encoding = dst.encode(row.src_token)
    except VocabularyError as error:
        mapped = _as_mapped(row, Rule.ENCODING, "encoding")
        unknown = f"its encoding cannot be shown: {error}"
        return Found(_without(spelled, mapped) + mapped, unknown=unknown)
    distinct = dict.fromkeys(encoding[:count])
    written = [_written(row, dst, place, dst_id) for place, dst_id in enumerate(distinct)]
    return Found(_without(spelled, written) + written, encoding=encoding)


def _written(row: Row, dst: Destination, place: int, dst_id: int) -> Related:
    distance = None if place else dst.distance(row.src_token, dst_id)
    return Related((0, place, dst_id), Rule.ENCODING, "encoding", distance, "")


def _as_mapped(row: Row, rule: Rule, relation: str) -> list[Related]:
    """What the map reads, where it says that it is by this rule: there is no other witness."""
    if row.rule != rule.name.lower():
        return []
    return [Related((0, 0, row.dst_id), rule, relation, row.distance, "")]


def _without(spelled: list[Related], others: list[Related]) -> list[Related]:
    ids = {one.dst_id for one in others}
    return [one for one in spelled if one.dst_id not in ids]


def ranked_by_meaning(row: Row, dst: Destination) -> Iterator[Related]:
    """How a special token looks at each token of its literal, and then of each role to try."""
    literal = row.src_token.decode(errors="surrogateescape")
    groups = {"identical literal": [literal]}
    for step, role in enumerate(roles_to_try(role_of(literal))):
        others = [one for one in literals_of(role) if one != literal]
        groups[f"{'fallback' if step else 'same'} role {role}"] = others
    for turn, (relation, literals) in enumerate(groups.items()):
        for dst_id in dst.with_literals(literals):
            kind = dst.kinds[dst_id]
            distance = 0 if kind == Kind.SPECIAL else None
            barred = _barred_from_meaning(kind)
            yield Related((turn, 0, dst_id), Rule.SPECIAL, relation, distance, barred)


def _barred_from_meaning(kind: Kind) -> str:
    if kind == Kind.SPECIAL:
        return ""
    if kind == Kind.UNUSED:
        return UNUSED
    return f"a {kind.name.lower()} token, not a special one"


class Look(NamedTuple):
    """How a strategy looks at the destination's tokens for an ordinary one."""

    find: Callable[[Row, Destination, Options, int], Found]
    nothing: Callable[[Row, Options], str]  # why it finds none


def _nothing_near(row: Row, options: Options) -> str:
    nothing = _nothing_of_kind(row, options)
    if nothing or options.fallback is None:
        return nothing or "no candidate has the same bytes, is a prefix of it or begins with it"
    return (
        "no candidate has the same bytes, is a prefix of it, begins with it or is within distance "
        f"{options.max_distance}"
    )


def _nothing_of_kind(row: Row, options: Options) -> str:
    if is_candidate(_kind(row), options.unit):
        return ""
    return f"no token has the same bytes, and in code points {row.src_kind} tokens match no others"


def _nothing_exact(_row: Row, _options: Options) -> str:
    return "no token has the same bytes, and strategy exact takes no others"


def _nothing_at_all(row: Row, options: Options) -> str:
    return _nothing_of_kind(row, options) or "the destination has no candidate at all"


def _nothing_written(row: Row, _options: Options) -> str:
    if row.src_kind != "text":
        return f"no token has the same bytes, and {row.src_kind} tokens have no encoding"
    return "no token has the same bytes, and its encoding begins with none that has bytes"


def _nothing_either_way(row: Row, options: Options) -> str:
    return f"{_nothing_written(row, options)}; no other token's encoding begins with it"


LOOKS = {
    "pm-mined": Look(_pm_mined, _nothing_near),
    "exact": Look(_exact, _nothing_exact),
    "mined": Look(_mined, _nothing_at_all),
    "first-token": Look(_first_token, _nothing_written),
    "distribute": Look(_of_encoding, _nothing_written),
    "decay": Look(_of_encoding, _nothing_written),
    "prefixes": Look(_pm_mined, _nothing_near),
    "both-ways": Look(_both_ways, _nothing_either_way),
}
"""A strategy that has no entry is not explained; what it might have done is never guessed."""


def check_strategy(token_map: TokenMap) -> Options:
    """The options of a map's strategy, if it is one that can be explained.

    Raises:
        PmMinedError: it is of a newer pm-mined.
    """
    strategy = token_map.info.strategy
    name, unit = strategy.get("name"), strategy.get("unit")
    if name in list(LOOKS) and unit in get_args(Unit):
        with suppress(OptionError):
            options = options_of(name, {key: strategy[key] for key in strategy if key != "name"})
            if describe_options(name, options) == strategy:
                return options
    raise PmMinedError(
        f"pm-mined {__version__} cannot explain strategy {name!r} with unit {unit!r}, by "
        f"which pm-mined {token_map.info.tool_version} made the map; upgrade with "
        "`pip install -U pm-mined`"
    )
