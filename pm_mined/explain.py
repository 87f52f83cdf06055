"""Why a source token reads what it reads: the tokens that it might have read, and why it did not.

All of it follows from the definition of the map's strategy, in plain Python; no kernel is asked.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from heapq import nsmallest
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .arrow_columns import packed_tokens
from .display import display_token
from .errors import OptionError, PmMinedError, VocabularyError
from .kernels.reference import is_candidate, length, symbols_of
from .kernels.tokens import UNMAPPED, Kind, Rule, Unit
from .overrides import nearest
from .sorted_tokens import SortedTokens
from .special_tokens import literals_of, role_of, roles_to_try
from .strategies import Options, options_of
from .strategies import describe as describe_options
from .token_map import Row, TokenMap
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from .encoders import Encode

_SAME_BYTES = "same bytes"
_UNUSED = "unused tokens never match"
_EXACT = "strategy exact takes the same bytes only"
_BEGINS = "its own encoding begins with it"


class Candidate(NamedTuple):
    """A destination token that a source token reads, or might have read."""

    dst_id: int
    token: bytes
    kind: str
    relation: str  # to the source token: "same bytes", "prefix", "same role end_of_turn", ...
    distance: int | None  # in the map's unit; None where no spelling is measured
    reason: str  # why it lost; empty for the match


class Explanation(NamedTuple):
    """Why one source token reads what it reads."""

    match: Candidate | None  # the first choice; None: unmapped
    by_rules: int | None  # what the rules choose, with no override; -1: nothing; None: not known
    why: str  # one sentence on what only the token itself can tell: why it is unmapped; or empty
    runners_up: list[Candidate]  # the first of them, as they would win were each a candidate
    runners_up_count: int  # of all
    nearest: list[Candidate]  # of an unmapped token: no candidates, but spelled most like it
    choices: list[Candidate]  # all that it reads, the match first
    encoding: list[tuple[int, bytes]] | None  # how the dst tokenizer writes it, where it was asked


class _Related(NamedTuple):
    """A destination token that one of the rules has to look at."""

    rank: tuple[int, int, int]  # the rule's turn, the distance or place, the id: the lowest wins
    rule: Rule
    relation: str
    distance: int | None
    barred: str  # why it is no candidate; empty for a candidate

    @property
    def dst_id(self) -> int:
        return self.rank[-1]


class _Found(NamedTuple):
    """What the rules find for one source token."""

    related: list[_Related]
    more: int = 0  # candidates that are not in `related`, and lose against all that are
    encoding: list[int] | None = None
    unknown: str = ""  # why the rules cannot be followed to the end

    @property
    def decided(self) -> bool:
        return not all(one.barred for one in self.related)


class _Destination:
    """The destination vocabulary, with its tokens found by beginning, by role and by distance."""

    def __init__(self, vocabulary: Vocabulary, unit: Unit) -> None:
        self.vocabulary = vocabulary
        self.unit: Unit = unit
        self.tokens = vocabulary.packed.tolist()
        self.kinds = [Kind(code) for code in vocabulary.packed.kinds.tolist()]

    @cached_property
    def by_spelling(self) -> SortedTokens:
        return SortedTokens(self.tokens, range(len(self.tokens)))

    def with_literals(self, literals: list[str]) -> Iterator[int]:
        """The ids of all tokens that read like one of `literals`, of whatever kind."""
        for literal in literals:
            yield from self._by_literal.get(literal, [])

    @cached_property
    def _by_literal(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for token_id, token in enumerate(self.tokens):
            found.setdefault(token.decode(errors="replace"), []).append(token_id)
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
        from .encoders import load_encoder

        if self.vocabulary.tokenizer is None:
            raise VocabularyError(f"{self.vocabulary.name} is a vocabulary without its tokenizer")
        return load_encoder(self.vocabulary.tokenizer, inside=True)


# --- What each strategy has to look at -----------------------------------------------------------

# Why a destination token, spelled like a source token, is no candidate for it; or empty.
_Bar = Callable[[Row, int, _Destination], str]


def _spelled_like(row: Row, dst: _Destination, bar: _Bar) -> list[_Related]:
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
            turn, relation, distance = int(rule), _SAME_BYTES, 0
        else:
            rule = Rule.PREFIX if len(token) < len(src) else Rule.EXTENSION
            turn, relation = int(Rule.PREFIX), rule.name.lower()
            distance = abs(units - length(token, dst.unit))
        measured = token == src or not _barred_by_kind(row, dst_id, dst)
        shown = distance if measured else None
        found.append(_Related((turn, distance, dst_id), rule, relation, shown, barred))
    return found


def _kind(row: Row) -> Kind:
    return Kind[row.src_kind.upper()]


def _reserved(kind: Kind) -> str:
    """Why a token of this kind is no candidate for an ordinary one; or empty."""
    if kind == Kind.SPECIAL:
        return "special tokens match by role or literal, never by spelling"
    return _UNUSED if kind == Kind.UNUSED else ""


def _barred_by_kind(row: Row, dst_id: int, dst: _Destination) -> str:
    for one in (_kind(row), dst.kinds[dst_id]):
        if not is_candidate(one, dst.unit):
            return f"in code points, {one.name.lower()} tokens match the same bytes only"
    return ""


def _barred_by_spelling(row: Row, dst_id: int, dst: _Destination) -> str:
    if barred := _barred_by_kind(row, dst_id, dst):
        return barred
    if dst.tokens[dst_id] == b" " and row.src_token.strip(b" "):
        return "the bare space is a candidate only for tokens of spaces"
    return ""


def _pm_mined(row: Row, dst: _Destination, options: Options, limit: int) -> _Found:
    found = _Found(_spelled_like(row, dst, _barred_by_spelling))
    if options.fallback is None or found.decided:
        return found
    return _by_edits(row, dst, found.related, limit, options.max_distance)


def _exact(row: Row, dst: _Destination, _options: Options, _limit: int) -> _Found:
    return _Found(_spelled_like(row, dst, lambda *of: _barred_by_spelling(*of) or _EXACT))


def _mined(row: Row, dst: _Destination, _options: Options, limit: int) -> _Found:
    found = _Found(_spelled_like(row, dst, _barred_by_kind))
    if any(one.relation == _SAME_BYTES and not one.barred for one in found.related):
        return found
    return _by_edits(row, dst, found.related, limit, None)


def _by_edits(
    row: Row, dst: _Destination, spelled: list[_Related], limit: int, max_distance: int | None
) -> _Found:
    """The nearest tokens by edit distance, as many as are shown, behind what is never among them.

    What the map reads is among them, too, as far away as it may be.
    """
    if not is_candidate(_kind(row), dst.unit):
        return _Found(spelled)
    distances = dst.distances(row.src_token)
    places = np.argsort(distances, kind="stable")[: limit + 1].tolist()
    shown = {dst.candidates[place]: int(distances[place]) for place in places}
    if row.dst_id not in shown and row.dst_id in dst.candidates:
        shown[row.dst_id] = int(distances[dst.candidates.index(row.dst_id)])
    never = [one for one in spelled if not is_candidate(dst.kinds[one.dst_id], dst.unit)]
    near = [_edited(dst_id, distance, max_distance) for dst_id, distance in shown.items()]
    return _Found(never + near, more=len(dst.candidates) - len(near))


def _edited(dst_id: int, distance: int, max_distance: int | None) -> _Related:
    too_far = max_distance is not None and distance > max_distance
    barred = f"farther than {max_distance}" if too_far else ""
    return _Related((int(Rule.EDIT), distance, dst_id), Rule.EDIT, "edit", distance, barred)


def _first_token(row: Row, dst: _Destination, _options: Options, _limit: int) -> _Found:
    return _by_encoding(row, dst, 1, "the tokenizer does not write it first")


def _of_encoding(row: Row, dst: _Destination, options: Options, _limit: int) -> _Found:
    count = options.top_k
    return _by_encoding(row, dst, count, f"not among the first {count} that the tokenizer writes")


def _both_ways(row: Row, dst: _Destination, _options: Options, _limit: int) -> _Found:
    found = _by_encoding(row, dst, 1, "neither encoding begins with the other")
    if found.decided:
        return found
    unknown = found.unknown
    if row.rule == "override":
        unknown = unknown or "whose encoding begins with it, only the source tokenizer tells"
    mapped = _as_mapped(row, Rule.EXTENSION, _BEGINS)
    return found._replace(related=_without(found.related, mapped) + mapped, unknown=unknown)


def _by_encoding(row: Row, dst: _Destination, count: int, not_written: str) -> _Found:
    """The first `count` tokens of the encoding, and why others that are spelled like it lost."""
    spelled = _spelled_like(row, dst, lambda *_: not_written)
    found = _Found(spelled)
    if found.decided or _kind(row) != Kind.TEXT:
        return found
    try:
        encoding = dst.encode(row.src_token)
    except VocabularyError as error:
        mapped = _as_mapped(row, Rule.ENCODING, "encoding")
        unknown = f"its encoding cannot be shown: {error}"
        return _Found(_without(spelled, mapped) + mapped, unknown=unknown)
    distinct = dict.fromkeys(encoding[:count])
    written = [_written(row, dst, place, dst_id) for place, dst_id in enumerate(distinct)]
    return _Found(_without(spelled, written) + written, encoding=encoding)


def _written(row: Row, dst: _Destination, place: int, dst_id: int) -> _Related:
    distance = None if place else dst.distance(row.src_token, dst_id)
    return _Related((0, place, dst_id), Rule.ENCODING, "encoding", distance, "")


def _as_mapped(row: Row, rule: Rule, relation: str) -> list[_Related]:
    """What the map reads, where it says that it is by this rule: there is no other witness."""
    if row.rule != rule.name.lower():
        return []
    return [_Related((0, 0, row.dst_id), rule, relation, row.distance, "")]


def _without(spelled: list[_Related], others: list[_Related]) -> list[_Related]:
    ids = {one.dst_id for one in others}
    return [one for one in spelled if one.dst_id not in ids]


def _ranked_by_meaning(row: Row, dst: _Destination) -> Iterator[_Related]:
    """How a special token looks at each token of its literal, and then of each role to try."""
    literal = row.src_token.decode(errors="replace")
    groups = {"identical literal": [literal]}
    for step, role in enumerate(roles_to_try(role_of(literal))):
        others = [one for one in literals_of(role) if one != literal]
        groups[f"{'fallback' if step else 'same'} role {role}"] = others
    for turn, (relation, literals) in enumerate(groups.items()):
        for dst_id in dst.with_literals(literals):
            kind = dst.kinds[dst_id]
            distance = 0 if kind == Kind.SPECIAL else None
            barred = _barred_from_meaning(kind)
            yield _Related((turn, 0, dst_id), Rule.SPECIAL, relation, distance, barred)


def _barred_from_meaning(kind: Kind) -> str:
    if kind == Kind.SPECIAL:
        return ""
    if kind == Kind.UNUSED:
        return _UNUSED
    return f"a {kind.name.lower()} token, not a special one"


class _Strategy(NamedTuple):
    """How a strategy looks at the destination's tokens for an ordinary one."""

    find: Callable[[Row, _Destination, Options, int], _Found]
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


_STRATEGIES = {
    "pm-mined": _Strategy(_pm_mined, _nothing_near),
    "exact": _Strategy(_exact, _nothing_exact),
    "mined": _Strategy(_mined, _nothing_at_all),
    "first-token": _Strategy(_first_token, _nothing_written),
    "distribute": _Strategy(_of_encoding, _nothing_written),
    "decay": _Strategy(_of_encoding, _nothing_written),
    "prefixes": _Strategy(_pm_mined, _nothing_near),
    "both-ways": _Strategy(_both_ways, _nothing_either_way),
}
"""A strategy that has no entry is not explained; what it might have done is never guessed."""


def check_strategy(token_map: TokenMap) -> Options:
    """The options of a map's strategy, if it is one that can be explained.

    Raises:
        PmMinedError: it is of a newer pm-mined.
    """
    strategy = token_map.info.strategy
    name, unit = strategy.get("name"), strategy.get("unit")
    if name in list(_STRATEGIES) and unit in get_args(Unit):
        with suppress(OptionError):
            options = options_of(name, {key: strategy[key] for key in strategy if key != "name"})
            if describe_options(name, options) == strategy:
                return options
    raise PmMinedError(
        f"pm-mined {__version__} cannot explain strategy {name!r} with unit {unit!r}, by "
        f"which pm-mined {token_map.info.tool_version} made the map; upgrade with "
        "`pip install -U pm-mined`"
    )


class Explainer:
    """Explains the rows of a map; `dst` is its destination vocabulary, as `vocabulary_of` has it.

    Raises:
        PmMinedError: the map's strategy is not known here.

    >>> from pm_mined import Vocabulary, build_map
    >>> src = Vocabulary.from_tokens([b" cats"], [Kind.TEXT])
    >>> dst = Vocabulary.from_tokens([b" ca", b" cat"], [Kind.TEXT] * 2)
    >>> (lost,) = Explainer(build_map(src, dst), dst).explain(0).runners_up
    >>> lost.dst_id, lost.relation, lost.distance, lost.reason
    (0, 'prefix', 2, 'farther: the match has 1')
    """

    def __init__(self, token_map: TokenMap, dst: Vocabulary) -> None:
        self._options = check_strategy(token_map)
        self._map = token_map
        self._dst = _Destination(dst, self._options.unit)
        self._strategy = _STRATEGIES[token_map.info.strategy["name"]]

    def explain(self, src_id: int, limit: int = 5) -> Explanation:
        """Explain one source token, with at most `limit` runners-up; with 0, no hints, too."""
        row = self._map.row(src_id)
        found = self._found(row, limit)
        chosen = min((one for one in found.related if not one.barred), default=None)
        overruled = self._overruled(row, chosen)
        choices = self._choices(row, found.related, overruled)
        read = {one.dst_id for one in choices}
        losers = [one for one in found.related if one.dst_id not in read]
        return Explanation(
            match=choices[0] if choices else None,
            by_rules=_by_rules(chosen, found),
            why=self._why(row, chosen, found, overruled),
            runners_up=[
                self._candidate(one, self._why_lost(one, chosen, found, overruled))
                for one in nsmallest(limit, losers)
            ],
            runners_up_count=len(losers) + found.more,
            nearest=self._nearest(row, limit) if _needs_hints(choices, found) else [],
            choices=choices,
            encoding=self._named(found.encoding),
        )

    def _found(self, row: Row, limit: int) -> _Found:
        if row.src_kind == "unused":
            return _Found([])
        if row.src_kind == "special":
            return _Found(list(_ranked_by_meaning(row, self._dst)))
        found = self._strategy.find(row, self._dst, self._options, limit)
        same = [one for one in found.related if one.relation == _SAME_BYTES]
        if all(one.barred for one in same):
            return found
        return _Found(same)  # then nothing else is looked at

    def _overruled(self, row: Row, chosen: _Related | None) -> str:
        """What decided in place of the rules that are known here; empty where they did."""
        if row.rule == "override":
            return "an override decided"
        by_rules = (
            (UNMAPPED, Rule.NONE, -1)
            if chosen is None
            else (chosen.dst_id, chosen.rule, chosen.distance)
        )
        if (row.dst_id, Rule[row.rule.upper()], row.distance) == by_rules:
            return ""
        return f"the map decided by other rules, those of pm-mined {self._map.info.tool_version}"

    def _choices(self, row: Row, related: list[_Related], overruled: str) -> list[Candidate]:
        """All that the map has for a token, in its order; what they are to it, by the rules."""
        by_id = {} if overruled else {one.dst_id: one for one in related if not one.barred}
        beside = _BEGINS if self._map.form == "grouped" else row.rule
        found = []
        for place, (dst_id, _) in enumerate(choices_of(self._map, row.src_id)):
            one = by_id.get(dst_id)
            relation = one.relation if one else beside if place else row.rule
            distance = row.distance if place == 0 else one.distance if one else None
            found.append(self._candidate_of(dst_id, relation, distance, ""))
        return found

    def _candidate(self, one: _Related, reason: str) -> Candidate:
        return self._candidate_of(one.dst_id, one.relation, one.distance, reason)

    def _candidate_of(
        self, dst_id: int, relation: str, distance: int | None, reason: str
    ) -> Candidate:
        kind = self._dst.kinds[dst_id].name.lower()
        return Candidate(dst_id, self._dst.tokens[dst_id], kind, relation, distance, reason)

    def _named(self, ids: list[int] | None) -> list[tuple[int, bytes]] | None:
        return None if ids is None else [(i, self._dst.tokens[i]) for i in ids]

    def _why(self, row: Row, chosen: _Related | None, found: _Found, overruled: str) -> str:
        if overruled:
            if chosen is None:
                return f"{overruled}; by the rules alone: {self._nothing(row, found)}"
            if chosen.dst_id == row.dst_id:
                return f"{overruled}; the rules alone choose the same token"
            token = display_token(self._dst.tokens[chosen.dst_id])
            how = describe(chosen.relation, chosen.distance)
            return f"{overruled}; the rules alone choose {token} ({chosen.dst_id}): {how}"
        return found.unknown if chosen else self._nothing(row, found)

    def _nothing(self, row: Row, found: _Found) -> str:
        """Why the rules leave a token unmapped."""
        if row.src_kind == "unused":
            return _UNUSED
        if row.src_kind == "special":
            roles = roles_to_try(role_of(row.src_token.decode(errors="replace")))
            also = f" or the role {' or '.join(roles)}" if roles else ""
            return f"no special token has this literal{also}"
        return found.unknown or self._strategy.nothing(row, self._options)

    def _nearest(self, row: Row, limit: int) -> list[Candidate]:
        if limit == 0 or row.src_kind not in ("text", "special"):  # nobody misspells the others
            return []
        literal, vocabulary = row.src_token.decode(errors="replace"), self._dst.vocabulary
        return [
            self._candidate_of(i, "similar spelling", None, "only a hint")
            for i in nearest(literal, vocabulary, min(limit, 3))
        ]

    def _why_lost(
        self, one: _Related, chosen: _Related | None, found: _Found, overruled: str
    ) -> str:
        """Why a token lost against the one that the rules chose."""
        if one.barred:
            return one.barred
        if chosen is None or overruled:
            return f"{overruled}; the rules alone choose it" if one == chosen else overruled
        if one.rule == Rule.SPECIAL:
            return _why_meaning_lost(one, chosen)
        if one.relation == _SAME_BYTES:
            if one.rule != chosen.rule:
                return "same bytes, but of another kind: the same kind goes first"
            return "same bytes, higher id"
        if self._map.form == "weighted":
            return self._why_no_choice(one, found)
        if one.distance == chosen.distance:
            return "same distance, higher id"
        return f"farther: the match has {chosen.distance}"

    def _why_no_choice(self, one: _Related, found: _Found) -> str:
        before = sum(other < one for other in found.related if not other.barred)
        if before < self._options.top_k:
            return "its weight is too small to count"
        return f"not among the first {self._options.top_k}"


def _needs_hints(choices: list[Candidate], found: _Found) -> bool:
    """Whether a token is unmapped, and its runners-up are not the nearest by edit distance."""
    return not choices and all(one.barred and one.rule != Rule.EDIT for one in found.related)


def _by_rules(chosen: _Related | None, found: _Found) -> int | None:
    if chosen is not None:
        return chosen.dst_id
    return None if found.unknown else UNMAPPED


def _why_meaning_lost(one: _Related, chosen: _Related) -> str:
    if one.relation == chosen.relation:
        return f"{one.relation}, higher id"
    if chosen.relation == "identical literal":
        return "the identical literal goes first"
    return f"role {chosen.relation.rpartition(' ')[-1]} goes first"


def describe(relation: str, distance: int | None) -> str:
    """A relation with its distance, where it has one of interest.

    >>> describe("prefix", 4), describe("same bytes", 0)
    ('prefix, distance 4', 'same bytes')
    """
    return f"{relation}, distance {distance}" if distance else relation


def choices_of(token_map: TokenMap, src_id: int) -> list[tuple[int, float | None]]:
    """The destination ids that a source token reads, each with its weight if the map has weights.

    The first is that of the map's `dst_id`; there are none where the token is unmapped.
    """
    choices = token_map.choices
    if choices is None:
        dst_id = int(token_map.dst_id[src_id])
        return [] if dst_id == UNMAPPED else [(dst_id, None)]
    of = slice(*choices.offsets[src_id : src_id + 2])
    ids = choices.dst_id[of].tolist()
    weights = [None] * len(ids) if choices.weight is None else choices.weight[of].tolist()
    return list(zip(ids, weights, strict=True))


class Reader(NamedTuple):
    """A source token that reads a destination token."""

    src_id: int
    place: int  # of the destination token among the choices: 1 for the first
    weight: float | None


def readers(token_map: TokenMap, dst_id: int) -> list[Reader]:
    """Who reads a destination token: by weight, by its place among the choices, then the nearest.

    What is as near is in order of the ids.
    """
    choices = token_map.choices
    if choices is None:
        ids = np.flatnonzero(token_map.dst_id == dst_id)
        places, weights = np.ones_like(ids), None
    else:
        at = np.flatnonzero(choices.dst_id == dst_id)
        ids = np.searchsorted(choices.offsets, at, side="right") - 1
        places = at - choices.offsets[ids] + 1
        weights = None if choices.weight is None else choices.weight[at]
    nearness = np.where(places == 1, token_map.distance[ids], 0)
    heavy = np.zeros(len(ids)) if weights is None else -weights
    order = np.lexsort((nearness, places, heavy)).tolist()
    return [
        Reader(int(ids[i]), int(places[i]), None if weights is None else float(weights[i]))
        for i in order
    ]


def ids_read(token_map: TokenMap, dst_token: bytes) -> list[int]:
    """The ids of the destination tokens with these bytes that are first choices, ascending."""
    tokens = packed_tokens(token_map.column("dst_token")).tolist()
    pairs = zip(token_map.dst_id.tolist(), tokens, strict=True)
    return sorted({i for i, token in pairs if i != UNMAPPED and token == dst_token})
