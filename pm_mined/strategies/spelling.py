"""Strategies that go by how tokens are spelled: `pm-mined`, `exact` and `mined`."""

from collections.abc import Callable

import numpy as np

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import UNMAPPED, Kind, Matches, Rule, Unit, is_candidate, length
from pm_mined.vocabulary import Vocabulary

from .base import Matched, Options
from .candidates import SAME_BYTES, UNUSED, Destination, Found, Related, Subject


def pm_mined(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """Exact bytes, else the nearest prefix or extension; with a fallback, else the nearest."""
    from pm_mined.kernels.prefix_match import prefix_match

    try:
        matches = prefix_match(src.packed, dst.packed, options.unit)
    except ValueError as error:
        raise VocabularyError(f"the destination vocabulary is too large: {error}") from error
    if options.fallback == "edit":
        _put_nearest(matches, src, dst, options.unit, options.max_distance)
    return Matched(matches)


def exact(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """Exact bytes only."""
    matches = pm_mined(src, dst, options._replace(fallback=None)).matches
    inexact = matches.rule > Rule.BYTE
    matches.dst_id[inexact] = UNMAPPED
    matches.rule[inexact] = Rule.NONE
    matches.distance[inexact] = -1
    return Matched(matches)


def mined(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """Exact bytes, else the nearest of all destination tokens by edit distance."""
    matches = exact(src, dst, options).matches
    _put_nearest(matches, src, dst, options.unit, None)
    return Matched(matches)


def _put_nearest(
    matches: Matches, src: Vocabulary, dst: Vocabulary, unit: Unit, max_distance: int | None
) -> None:
    """Let edit distance decide what is not mapped yet."""
    from pm_mined.kernels.nearest import nearest

    rows = np.flatnonzero(matches.dst_id == UNMAPPED)
    dst_id, distance = nearest(src.packed.take(rows), dst.packed, unit, max_distance)
    matches.dst_id[rows] = dst_id
    matches.distance[rows] = distance
    matches.rule[rows] = np.where(dst_id == UNMAPPED, Rule.NONE, Rule.EDIT)


# --- The candidates, for explanations ------------------------------------------------------------

Bar = Callable[[Subject, int, Destination], str]
"""Why a destination token that is spelled like a source token is no candidate for it; or empty."""


def explain_pm_mined(subject: Subject, dst: Destination, options: Options, limit: int) -> Found:
    """The prefixes and extensions; with a fallback, where there is none, the nearest tokens."""
    related = related_by_spelling(subject, dst, _barred_by_spelling)
    found = Found(related, _nothing_near(subject, options))
    if options.fallback is None or found.decided:
        return found
    return _by_edits(subject, dst, found, limit, options.max_distance)


def explain_exact(subject: Subject, dst: Destination, _options: Options, _limit: int) -> Found:
    """The tokens of the same bytes; prefixes and extensions are barred."""
    nothing = "no token has the same bytes, and strategy exact takes no others"
    return Found(related_by_spelling(subject, dst, _barred_from_exact), nothing)


def explain_mined(subject: Subject, dst: Destination, options: Options, limit: int) -> Found:
    """The tokens of the same bytes, and where there is none, the nearest tokens."""
    nothing = _nothing_of_kind(subject, options) or "the destination has no candidate at all"
    found = Found(related_by_spelling(subject, dst, _barred_by_kind), nothing)
    if any(one.relation == SAME_BYTES and not one.barred for one in found.related):
        return found
    return _by_edits(subject, dst, found, limit, None)


def related_by_spelling(subject: Subject, dst: Destination, bar: Bar) -> list[Related]:
    """Each token that is spelled like an ordinary one; `bar` judges those of other bytes.

    What has the same bytes goes first, and then the nearest, as in strategy pm-mined.
    """
    ids = dst.by_spelling.spelled_like(subject.token)
    return [_related(subject, dst_id, dst, bar) for dst_id in ids]


def _related(subject: Subject, dst_id: int, dst: Destination, bar: Bar) -> Related:
    token, kind = dst.tokens[dst_id], dst.kinds[dst_id]
    barred = _reserved(kind)
    if token == subject.token:
        rule = Rule.EXACT if subject.kind == kind else Rule.BYTE
        return Related((rule, 0, dst_id), rule, SAME_BYTES, 0, barred)
    rule = Rule.PREFIX if len(token) < len(subject.token) else Rule.EXTENSION
    distance = abs(length(subject.token, dst.unit) - length(token, dst.unit))
    shown = None if _barred_by_kind(subject, dst_id, dst) else distance
    barred = barred or bar(subject, dst_id, dst)
    return Related((Rule.PREFIX, distance, dst_id), rule, rule.name.lower(), shown, barred)


def _reserved(kind: Kind) -> str:
    """Why a token of this kind is no candidate for an ordinary one; or empty."""
    if kind == Kind.SPECIAL:
        return "special tokens match by role or literal, never by spelling"
    return UNUSED if kind == Kind.UNUSED else ""


def _barred_by_kind(subject: Subject, dst_id: int, dst: Destination) -> str:
    for one in (subject.kind, dst.kinds[dst_id]):
        if not is_candidate(one, dst.unit):
            return f"in code points, {one.name.lower()} tokens match the same bytes only"
    return ""


def _barred_by_spelling(subject: Subject, dst_id: int, dst: Destination) -> str:
    if barred := _barred_by_kind(subject, dst_id, dst):
        return barred
    if dst.tokens[dst_id] == b" " and subject.token.strip(b" "):
        return "the bare space is a candidate only for tokens of spaces"
    return ""


def _barred_from_exact(subject: Subject, dst_id: int, dst: Destination) -> str:
    barred = _barred_by_spelling(subject, dst_id, dst)
    return barred or "strategy exact takes the same bytes only"


def _by_edits(
    subject: Subject, dst: Destination, spelled: Found, limit: int, max_distance: int | None
) -> Found:
    """The nearest tokens by edit distance, as many as are shown, behind what is never among them.

    The token that the map has is among them, too, as far away as it may be.
    """
    if not is_candidate(subject.kind, dst.unit):
        return spelled
    distances = dst.distances(subject.token)
    places = np.argsort(distances, kind="stable")[: limit + 1].tolist()
    shown = {dst.candidates[place]: int(distances[place]) for place in places}
    if subject.dst_id not in shown and subject.dst_id in dst.candidates:
        shown[subject.dst_id] = int(distances[dst.candidates.index(subject.dst_id)])
    never = [one for one in spelled.related if not is_candidate(dst.kinds[one.dst_id], dst.unit)]
    near = [_edited(dst_id, distance, max_distance) for dst_id, distance in shown.items()]
    return spelled._replace(related=never + near, more=len(dst.candidates) - len(near))


def _edited(dst_id: int, distance: int, max_distance: int | None) -> Related:
    too_far = max_distance is not None and distance > max_distance
    barred = f"farther than {max_distance}" if too_far else ""
    return Related((Rule.EDIT, distance, dst_id), Rule.EDIT, "edit", distance, barred)


def _nothing_of_kind(subject: Subject, options: Options) -> str:
    """Why a token of this kind is unmapped, if it takes the same bytes only; or empty."""
    if is_candidate(subject.kind, options.unit):
        return ""
    kind = subject.kind.name.lower()
    return f"no token has the same bytes, and in code points {kind} tokens match no others"


def _nothing_near(subject: Subject, options: Options) -> str:
    relations = ["has the same bytes", "is a prefix of it", "begins with it"]
    if options.fallback is not None:
        relations.append(f"is within distance {options.max_distance}")
    *others, last = relations
    return _nothing_of_kind(subject, options) or f"no candidate {', '.join(others)} or {last}"
