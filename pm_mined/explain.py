"""Why a source token reads what it reads: the tokens that it might have read, and why it did not.

All of it follows from the definition of the map's strategy, in plain Python; no kernel is asked.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property
from heapq import nsmallest
from typing import NamedTuple, get_args

import numpy as np

from . import __version__
from .arrow_columns import packed_tokens
from .display import display_token
from .errors import PmMinedError
from .kernels.reference import is_candidate, length
from .kernels.tokens import UNMAPPED, Kind, Rule, Unit
from .overrides import nearest
from .special_tokens import literals_of, role_of, roles_to_try
from .token_map import Row, TokenMap
from .vocabulary import Vocabulary

_SAME_BYTES = "same bytes"
_UNUSED = "unused tokens never match"
_EXACT = "strategy exact takes the same bytes only"


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

    match: Candidate | None  # None: unmapped
    by_rules: int  # the id that the rules choose, with no override; -1 for none
    why: str  # one sentence on what only the token itself can tell: why it is unmapped; or empty
    runners_up: list[Candidate]  # the first of them, as they would win were each a candidate
    runners_up_count: int  # of all
    nearest: list[Candidate]  # of an unmapped token: no candidates, but spelled most like it


class _Related(NamedTuple):
    """A destination token that one of the rules has to look at."""

    rank: tuple[int, int, int]  # the rule's turn, the distance and the id: the lowest wins
    rule: Rule
    relation: str
    distance: int | None
    barred: str  # why it is no candidate; empty for a candidate

    @property
    def dst_id(self) -> int:
        return self.rank[-1]


class _Destination:
    """The destination vocabulary, with its tokens found by their beginning and by their role."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.tokens = vocabulary.packed.tolist()
        self.kinds = [Kind(code) for code in vocabulary.packed.kinds.tolist()]

    @cached_property
    def _sorted_ids(self) -> list[int]:
        return sorted(range(len(self.tokens)), key=self.tokens.__getitem__)

    def _beginning_with(self, token: bytes) -> list[int]:
        ids = self._sorted_ids
        first = bisect_left(ids, token, key=self.tokens.__getitem__)
        last = bisect_right(ids, token, lo=first, key=lambda i: self.tokens[i][: len(token)])
        return ids[first:last]

    def _equal_to(self, token: bytes) -> list[int]:
        first = bisect_left(self._sorted_ids, token, key=self.tokens.__getitem__)
        last = bisect_right(self._sorted_ids, token, lo=first, key=self.tokens.__getitem__)
        return self._sorted_ids[first:last]

    def spelled_like(self, token: bytes) -> Iterator[int]:
        """The ids of all tokens that begin with `token` or that it begins with."""
        if token:
            yield from self._beginning_with(token)
        for stop in range(1, len(token)):
            yield from self._equal_to(token[:stop])

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


def _ranked_by_spelling(row: Row, dst: _Destination, unit: Unit) -> Iterator[_Related]:
    """How strategy pm-mined looks at each token that is spelled like an ordinary one."""
    src, kind = row.src_token, Kind[row.src_kind.upper()]
    units = length(src, unit)
    for dst_id in dst.spelled_like(src):
        token, dst_kind = dst.tokens[dst_id], dst.kinds[dst_id]
        barred = _barred(src, kind, token, dst_kind, unit)
        if token == src:
            rule = Rule.EXACT if kind == dst_kind else Rule.BYTE
            turn, relation, distance = int(rule), _SAME_BYTES, 0
        else:
            rule = Rule.PREFIX if len(token) < len(src) else Rule.EXTENSION
            turn, relation = int(Rule.PREFIX), rule.name.lower()
            distance = abs(units - length(token, unit))
        measured = token == src or (is_candidate(kind, unit) and is_candidate(dst_kind, unit))
        shown = distance if measured else None
        yield _Related((turn, distance, dst_id), rule, relation, shown, barred)


def _barred(src: bytes, kind: Kind, token: bytes, dst_kind: Kind, unit: Unit) -> str:
    """Why a token that is spelled like an ordinary source token is no candidate; or empty."""
    if dst_kind == Kind.SPECIAL:
        return "special tokens match by role or literal, never by spelling"
    if dst_kind == Kind.UNUSED:
        return _UNUSED
    if token == src:
        return ""
    for one in (kind, dst_kind):
        if not is_candidate(one, unit):
            return f"in code points, {one.name.lower()} tokens match the same bytes only"
    if token == b" " and src.strip(b" "):
        return "the bare space is a candidate only for tokens of spaces"
    return ""


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
    """How a strategy looks at the tokens that are spelled like an ordinary one."""

    related: Callable[[Row, _Destination, Unit], Iterator[_Related]]
    nothing: Callable[[Row, Unit], str]  # why it finds none for an ordinary token


def _pm_mined_nothing(row: Row, unit: Unit) -> str:
    if is_candidate(Kind[row.src_kind.upper()], unit):
        return "no candidate has the same bytes, is a prefix of it or begins with it"
    return f"no token has the same bytes, and in code points {row.src_kind} tokens match no others"


def _exact_related(row: Row, dst: _Destination, unit: Unit) -> Iterator[_Related]:
    for related in _ranked_by_spelling(row, dst, unit):
        other = related.relation != _SAME_BYTES and not related.barred
        yield related._replace(barred=_EXACT) if other else related


def _exact_nothing(_row: Row, _unit: Unit) -> str:
    return "no token has the same bytes, and strategy exact takes no others"


_STRATEGIES = {
    "pm-mined": _Strategy(_ranked_by_spelling, _pm_mined_nothing),
    "exact": _Strategy(_exact_related, _exact_nothing),
}
"""A strategy that has no entry is not explained; what it might have done is never guessed."""


def check_strategy(token_map: TokenMap) -> None:
    """Make sure that the strategy of a map is one that can be explained.

    Raises:
        PmMinedError: it is of a newer pm-mined.
    """
    name, unit = (token_map.info.strategy.get(key) for key in ("name", "unit"))
    if name not in list(_STRATEGIES) or unit not in get_args(Unit):
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
        check_strategy(token_map)
        self._map = token_map
        self._dst = _Destination(dst)
        self._strategy = _STRATEGIES[token_map.info.strategy["name"]]
        self._unit: Unit = token_map.info.strategy["unit"]

    def explain(self, src_id: int, limit: int = 5) -> Explanation:
        """Explain one source token, with at most `limit` runners-up; with 0, no hints, too."""
        row = self._map.row(src_id)
        related = list(self._related(row))
        chosen = min((one for one in related if not one.barred), default=None)
        overruled = self._overruled(row, chosen)
        if chosen and chosen.relation == _SAME_BYTES:  # then nothing else is looked at
            related = [one for one in related if one.relation == _SAME_BYTES]
        losers = [one for one in related if one.dst_id != row.dst_id]
        return Explanation(
            match=self._match(row, chosen, overruled),
            by_rules=UNMAPPED if chosen is None else chosen.dst_id,
            why=self._why(row, chosen, overruled),
            runners_up=[
                self._candidate(one, _why_lost(one, chosen, overruled))
                for one in nsmallest(limit, losers)
            ],
            runners_up_count=len(losers),
            nearest=self._nearest(row, limit) if chosen is None and row.dst_id == UNMAPPED else [],
        )

    def _related(self, row: Row) -> Iterator[_Related]:
        if row.src_kind == "unused":
            return iter(())
        if row.src_kind == "special":
            return _ranked_by_meaning(row, self._dst)
        return self._strategy.related(row, self._dst, self._unit)

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

    def _match(self, row: Row, chosen: _Related | None, overruled: str) -> Candidate | None:
        if row.dst_id == UNMAPPED:
            return None
        kind = self._dst.kinds[row.dst_id].name.lower()
        relation = row.rule if overruled or chosen is None else chosen.relation
        return Candidate(row.dst_id, row.dst_token, kind, relation, row.distance, "")

    def _candidate(self, one: _Related, reason: str) -> Candidate:
        kind = self._dst.kinds[one.dst_id].name.lower()
        token = self._dst.tokens[one.dst_id]
        return Candidate(one.dst_id, token, kind, one.relation, one.distance, reason)

    def _why(self, row: Row, chosen: _Related | None, overruled: str) -> str:
        if overruled:
            if chosen is None:
                return f"{overruled}; by the rules alone: {self._nothing(row)}"
            if chosen.dst_id == row.dst_id:
                return f"{overruled}; the rules alone choose the same token"
            token = display_token(self._dst.tokens[chosen.dst_id])
            how = describe(chosen.relation, chosen.distance)
            return f"{overruled}; the rules alone choose {token} ({chosen.dst_id}): {how}"
        return "" if chosen else self._nothing(row)

    def _nothing(self, row: Row) -> str:
        """Why the rules leave a token unmapped."""
        if row.src_kind == "unused":
            return _UNUSED
        if row.src_kind == "special":
            roles = roles_to_try(role_of(row.src_token.decode(errors="replace")))
            also = f" or the role {' or '.join(roles)}" if roles else ""
            return f"no special token has this literal{also}"
        return self._strategy.nothing(row, self._unit)

    def _nearest(self, row: Row, limit: int) -> list[Candidate]:
        if limit == 0 or row.src_kind not in ("text", "special"):  # nobody misspells the others
            return []
        literal, vocabulary = row.src_token.decode(errors="replace"), self._dst.vocabulary
        tokens, kinds = self._dst.tokens, self._dst.kinds
        return [
            Candidate(i, tokens[i], kinds[i].name.lower(), "similar spelling", None, "only a hint")
            for i in nearest(literal, vocabulary, min(limit, 3))
        ]


def _why_lost(one: _Related, chosen: _Related | None, overruled: str) -> str:
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
    if one.distance == chosen.distance:
        return "same distance, higher id"
    return f"farther: the match has {chosen.distance}"


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


def readers(token_map: TokenMap, dst_id: int) -> list[int]:
    """The source ids that read a destination token, the nearest first, then by id."""
    ids = np.flatnonzero(token_map.dst_id == dst_id)
    return [int(i) for i in ids[np.argsort(token_map.distance[ids], kind="stable")]]


def ids_read(token_map: TokenMap, dst_token: bytes) -> list[int]:
    """The ids of the destination tokens with these bytes that are read, ascending."""
    tokens = packed_tokens(token_map.column("dst_token")).tolist()
    pairs = zip(token_map.dst_id.tolist(), tokens, strict=True)
    return sorted({i for i, token in pairs if i != UNMAPPED and token == dst_token})
