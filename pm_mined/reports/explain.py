"""Why a source token maps to what it maps to: what else it might map to, and why that lost."""

from contextlib import suppress
from heapq import nsmallest
from typing import NamedTuple, get_args

from pm_mined.display import display_token
from pm_mined.errors import OptionError, PmMinedError
from pm_mined.kernels.tokens import UNMAPPED, Kind, Rule, Unit
from pm_mined.maps.lookup import choices_of
from pm_mined.maps.token_map import Row, TokenMap
from pm_mined.strategies.base import Options
from pm_mined.strategies.candidates import (
    SAME_BYTES,
    UNUSED,
    Destination,
    Found,
    Related,
    Subject,
)
from pm_mined.strategies.encoding import BEGINS
from pm_mined.strategies.registry import STRATEGIES, metadata_of, options_of, without_end
from pm_mined.strategies.special import explain_special_token
from pm_mined.tokenizer.special_tokens import written_like_marker
from pm_mined.version import __version__
from pm_mined.vocabulary import Vocabulary


class Candidate(NamedTuple):
    """A destination token that a source token maps to, or might map to."""

    dst_id: int
    token: bytes
    kind: str
    relation: str  # to the source token: "same bytes", "prefix", "same role end_of_turn", ...
    distance: int | None  # in the map's unit; None where no spelling is measured
    reason: str  # why it lost; empty for the match


class Explanation(NamedTuple):
    """Why one source token maps to what it maps to."""

    match: Candidate | None  # the first choice; None: unmapped
    by_rules: int | None  # what the rules choose, with no override; -1: nothing; None: not known
    why: str  # one sentence on what only the token itself can tell: why it is unmapped; or empty
    runners_up: list[Candidate]  # the first of them, as they would win were each a candidate
    runners_up_count: int  # of all
    nearest: list[Candidate]  # of an unmapped token: no candidates, but spelled most like it
    choices: list[Candidate]  # all that it maps to, the match first
    encoding: list[tuple[int, bytes]] | None  # how the dst tokenizer writes it, where it was asked


class Explainer:
    """Explains the rows of a map; `dst` is its destination vocabulary, as `vocabulary_of` has it.

    Raises:
        PmMinedError: the map's strategy is not known here.

    >>> from pm_mined import Kind, Vocabulary, build_map
    >>> src = Vocabulary.from_tokens([b" cats"], [Kind.TEXT])
    >>> dst = Vocabulary.from_tokens([b" ca", b" cat"], [Kind.TEXT] * 2)
    >>> (lost,) = Explainer(build_map(src, dst), dst).explain(0).runners_up
    >>> lost.dst_id, lost.relation, lost.distance, lost.reason
    (0, 'prefix', 2, 'farther: the match has 1')
    """

    def __init__(self, token_map: TokenMap, dst: Vocabulary) -> None:
        self._options = check_strategy(token_map)
        self._map = token_map
        self._dst = Destination(dst, self._options.unit)
        self._strategy = STRATEGIES[token_map.info.strategy["name"]]

    def explain(self, src_id: int, limit: int = 5) -> Explanation:
        """Explain one source token, with at most `limit` runners-up; with 0, no hints, too."""
        row = self._map.row(src_id)
        found = self._found(row, limit)
        chosen = min((one for one in found.related if not one.barred), default=None)
        overruled = self._overruled(row, chosen)
        choices = self._choices(row, found.related, overruled)
        chosen_ids = {one.dst_id for one in choices}
        losers = [one for one in found.related if one.dst_id not in chosen_ids]
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

    def _found(self, row: Row, limit: int) -> Found:
        kind = Kind[row.src_kind.upper()]
        rule = Rule.NONE if self._is_end(row) else Rule[row.rule.upper()]
        subject = Subject(row.src_token, kind, row.dst_id, rule, row.distance)
        if kind == Kind.UNUSED:
            return Found([], UNUSED)
        if kind == Kind.SPECIAL or rule == Rule.SPECIAL:
            return explain_special_token(subject, self._dst)
        found = self._strategy.explain(subject, self._dst, self._options, limit)
        if _is_marker(subject, found):
            return explain_special_token(subject, self._dst)
        same = [one for one in found.related if one.relation == SAME_BYTES]
        if all(one.barred for one in same):
            return found
        return Found(same)  # then nothing else is looked at

    def _overruled(self, row: Row, chosen: Related | None) -> str:
        """The reason that no rule known here decided; empty where one did."""
        if row.rule == "override":
            return "an override decided"
        by_rules = (
            (UNMAPPED, Rule.NONE, -1)
            if chosen is None
            else (chosen.dst_id, chosen.rule, chosen.distance)
        )
        if (row.dst_id, Rule[row.rule.upper()], row.distance) == by_rules:
            return ""
        if self._is_end(row):
            return "it ends a text, and maps to the token with which the delta's texts end"
        return f"the map decided by other rules, those of pm-mined {self._map.info.tool_version}"

    def _is_end(self, row: Row) -> bool:
        """True if it maps to the token to which ends of texts do: see `map_ends`."""
        to = row.dst_token.decode(errors="backslashreplace")
        return row.rule == "special" and to == self._map.info.strategy.get("end")

    def _choices(self, row: Row, related: list[Related], overruled: str) -> list[Candidate]:
        """All that the map has for a token, in its order; what they are to it, by the rules."""
        by_id = {} if overruled else {one.dst_id: one for one in related if not one.barred}
        beside = BEGINS if self._map.form == "grouped" else row.rule
        found = []
        for place, (dst_id, _) in enumerate(choices_of(self._map, row.src_id)):
            one = by_id.get(dst_id)
            relation = one.relation if one else beside if place else row.rule
            distance = row.distance if place == 0 else one.distance if one else None
            found.append(self._candidate_of(dst_id, relation, distance, ""))
        return found

    def _candidate(self, one: Related, reason: str) -> Candidate:
        return self._candidate_of(one.dst_id, one.relation, one.distance, reason)

    def _candidate_of(
        self, dst_id: int, relation: str, distance: int | None, reason: str
    ) -> Candidate:
        kind = self._dst.kinds[dst_id].name.lower()
        return Candidate(dst_id, self._dst.tokens[dst_id], kind, relation, distance, reason)

    def _named(self, ids: list[int] | None) -> list[tuple[int, bytes]] | None:
        return None if ids is None else [(i, self._dst.tokens[i]) for i in ids]

    def _why(self, row: Row, chosen: Related | None, found: Found, overruled: str) -> str:
        if not overruled:
            return found.unknown or ("" if chosen else found.nothing)
        if chosen is None:
            return f"{overruled}; by the rules alone: {found.unknown or found.nothing}"
        if chosen.dst_id == row.dst_id:
            return f"{overruled}; the rules alone choose the same token"
        token = display_token(self._dst.tokens[chosen.dst_id])
        how = describe(chosen.relation, chosen.distance)
        return f"{overruled}; the rules alone choose {token} ({chosen.dst_id}): {how}"

    def _nearest(self, row: Row, limit: int) -> list[Candidate]:
        if limit == 0 or row.src_kind not in ("text", "special"):  # nobody misspells the others
            return []
        literal = row.src_token.decode(errors="replace")
        return [
            self._candidate_of(i, "similar spelling", None, "only a hint")
            for i in self._dst.vocabulary.nearest(literal, min(limit, 3))
        ]

    def _why_lost(self, one: Related, chosen: Related | None, found: Found, overruled: str) -> str:
        """Why a token lost against the one that the rules chose."""
        if one.barred:
            return one.barred
        if chosen is None or overruled:
            return f"{overruled}; the rules alone choose it" if one == chosen else overruled
        if one.rule == Rule.SPECIAL:
            kinds = self._dst.kinds[one.dst_id], self._dst.kinds[chosen.dst_id]
            return _why_meaning_lost(one, chosen, kinds)
        if one.relation == SAME_BYTES:
            if one.rule != chosen.rule:
                return "same bytes, but of another kind: the same kind goes first"
            return "same bytes, higher id"
        if self._map.form == "weighted":
            return self._why_no_choice(one, found)
        if one.distance == chosen.distance:
            return "same distance, higher id"
        return f"farther: the match has {chosen.distance}"

    def _why_no_choice(self, one: Related, found: Found) -> str:
        before = sum(other < one for other in found.related if not other.barred)
        if before < self._options.top_k:
            return "its weight is too small to count"
        return f"not among the first {self._options.top_k}"


def _is_marker(subject: Subject, found: Found) -> bool:
    """True for an added text token that matched as special ones do, by literal or role.

    A map does not tell which tokens were added: but that one is unmapped which `found` would map.
    """
    literal = subject.token.decode(errors="replace")
    looks_so = written_like_marker(literal)
    passed_over = subject.rule == Rule.NONE and found.decided
    by_hand = subject.rule == Rule.OVERRIDE
    return subject.kind == Kind.TEXT and looks_so and (passed_over or by_hand)


def _needs_hints(choices: list[Candidate], found: Found) -> bool:
    """True if a token is unmapped, and its runners-up are not the nearest by edit distance."""
    return not choices and all(one.barred and one.rule != Rule.EDIT for one in found.related)


def _by_rules(chosen: Related | None, found: Found) -> int | None:
    if chosen is not None:
        return chosen.dst_id
    return None if found.unknown else UNMAPPED


def _why_meaning_lost(one: Related, chosen: Related, kinds: tuple[Kind, Kind]) -> str:
    if kinds == (Kind.TEXT, Kind.SPECIAL):
        return "special tokens go before text"
    if one.relation == chosen.relation:
        return f"{one.relation}, higher id"
    if chosen.relation == "identical literal":
        return "the identical literal goes first"
    if one.relation == "identical literal":
        return "tokens that were added go before other text"
    return f"role {chosen.relation.rpartition(' ')[-1]} goes first"


def describe(relation: str, distance: int | None) -> str:
    """A relation with its distance, where it has one of interest.

    >>> describe("prefix", 4), describe("same bytes", 0)
    ('prefix, distance 4', 'same bytes')
    """
    return f"{relation}, distance {distance}" if distance else relation


def check_strategy(token_map: TokenMap) -> Options:
    """The options of a map's strategy, if it is one that can be explained.

    Raises:
        PmMinedError: it is of a newer pm-mined.
    """
    strategy = without_end(token_map.info.strategy)
    name, unit = strategy.get("name"), strategy.get("unit")
    if name in list(STRATEGIES) and unit in get_args(Unit):
        with suppress(OptionError):
            options = options_of(name, {key: strategy[key] for key in strategy if key != "name"})
            if metadata_of(name, options) == strategy:
                return options
    raise PmMinedError(
        f"pm-mined {__version__} cannot explain strategy {name!r} with unit {unit!r}, by "
        f"which pm-mined {token_map.info.tool_version} made the map; upgrade with "
        "`pip install -U pm-mined`"
    )
