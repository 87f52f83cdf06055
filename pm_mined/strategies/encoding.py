"""Strategies that ask a tokenizer: how it writes the text of the other vocabulary's tokens.

A token with the same bytes on the other side counts as written by that one token, even where the
tokenizer would cut it up.
"""

import numpy as np

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import UNMAPPED, Choices, Kind, Matches, Rule
from pm_mined.vocabulary import Vocabulary

from .base import Matched, Options
from .candidates import Destination, Found, Related, Subject
from .encoded_tokens import Encodings, Ids, encode_tokens, offsets_of
from .spelling import exact, related_by_spelling


def _written(src: Vocabulary, dst: Vocabulary, options: Options) -> tuple[Matches, Encodings]:
    """The exact matches, and how `dst` writes each token: by its match, else by its encoding."""
    matches = exact(src, dst, options).matches
    mapped = matches.dst_id != UNMAPPED
    rows = np.flatnonzero(~mapped & (src.packed.kinds == Kind.TEXT))
    encodings = encode_tokens(src, rows, dst)
    lengths = np.diff(encodings.offsets) + mapped
    ids = np.empty(lengths.sum(), np.int64)
    of_matches = np.repeat(mapped, lengths)
    ids[of_matches], ids[~of_matches] = matches.dst_id[mapped], encodings.ids
    return matches, Encodings(offsets_of(lengths), ids)


def _put(
    matches: Matches, rule: Rule, dst_of: Ids, src: Vocabulary, dst: Vocabulary, options: Options
) -> None:
    """Let `rule` map what is unmapped yet; `dst_of` has an id, or -1, for each source token."""
    from pm_mined.kernels.edit_distance import edit_distances

    rows = np.flatnonzero((matches.dst_id == UNMAPPED) & (dst_of != UNMAPPED))
    found = dst_of[rows]
    matches.dst_id[rows] = found
    matches.rule[rows] = rule
    matches.distance[rows] = edit_distances(
        src.packed.take(rows), dst.packed.take(found), options.unit
    )


def first_token(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """The same bytes, else the token that the destination tokenizer's encoding begins with.

    Raises:
        VocabularyError: `dst` has no tokenizer, or one that cannot be used.
    """
    matches, written = _written(src, dst, options)
    _put(matches, Rule.ENCODING, written.first(), src, dst, options)
    return Matched(matches)


def distribute(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """The tokens of the destination tokenizer's encoding, all of the same weight.

    Of an encoding the first `top_k` tokens count; one that occurs twice has twice the weight.

    Raises:
        VocabularyError: `dst` has no tokenizer, or one that cannot be used.
    """
    return _weighted(src, dst, options, 1.0)


def decay(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """The tokens of the destination tokenizer's encoding, each of `decay` times the last's weight.

    Of an encoding the first `top_k` tokens count. With a decay of 0.1 they weigh 0.9, 0.09,
    0.009 ..., as in X-Token of NVIDIA's NeMo RL.

    Raises:
        VocabularyError: `dst` has no tokenizer, or one that cannot be used.
    """
    return _weighted(src, dst, options, options.decay)


def _weighted(src: Vocabulary, dst: Vocabulary, options: Options, ratio: float) -> Matched:
    matches, written = _written(src, dst, options)
    owners, positions = written.owners(), written.positions()
    counted = positions < options.top_k
    owners, ids = owners[counted], written.ids[counted]
    unique, which = _unique(owners, ids)
    shares = ratio ** positions[counted]
    weights = np.bincount(which, shares, minlength=len(unique)).astype(np.float64)
    _put(matches, Rule.ENCODING, written.first(), src, dst, options)
    return Matched(matches, Choices.of(len(src), owners[unique], ids[unique], weights))


def both_ways(src: Vocabulary, dst: Vocabulary, options: Options) -> Matched:
    """Groups: the first token of the encoding, and all whose own encoding begins with the token.

    The first choice of a source token is that of `first_token`; those that the source tokenizer
    writes with the token first follow in id order.

    Raises:
        VocabularyError: one of the two has no tokenizer, or one that cannot be used.
    """
    matches, written = _written(src, dst, options)
    _put(matches, Rule.ENCODING, written.first(), src, dst, options)
    heads = _written(dst, src, options)[1].first()
    behind = np.flatnonzero((heads != UNMAPPED) & (dst.packed.kinds == Kind.TEXT))
    lowest = np.full(len(src), UNMAPPED, np.int64)
    lowest[heads[behind][::-1]] = behind[::-1]
    _put(matches, Rule.EXTENSION, lowest, src, dst, options)

    own = np.flatnonzero(matches.dst_id != UNMAPPED)
    owners = np.concatenate([own, heads[behind]])
    ids = np.concatenate([matches.dst_id[own], behind])
    order = np.argsort(owners, kind="stable")
    owners, ids = owners[order], ids[order]
    unique, _ = _unique(owners, ids)
    return Matched(matches, Choices.of(len(src), owners[unique], ids[unique]))


def _unique(owners: Ids, ids: Ids) -> tuple[Ids, Ids]:
    """Where each pair occurs first, in that order; and for each pair, which of those it is."""
    pairs = owners * 2**32 + ids
    _, first, which = np.unique(pairs, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[which]


# --- The candidates, for explanations ------------------------------------------------------------

BEGINS = "its own encoding begins with it"


def explain_first_token(
    subject: Subject, dst: Destination, _options: Options, _limit: int
) -> Found:
    """The first token of the encoding."""
    return _by_encoding(subject, dst, 1, "the tokenizer does not write it first")


def explain_weighted(subject: Subject, dst: Destination, options: Options, _limit: int) -> Found:
    """The first `top_k` tokens of the encoding."""
    count = options.top_k
    lost = f"not among the first {count} that the tokenizer writes"
    return _by_encoding(subject, dst, count, lost)


def explain_both_ways(subject: Subject, dst: Destination, _options: Options, _limit: int) -> Found:
    """The first token of the encoding; of those that begin the other way, the one of the map."""
    found = _by_encoding(subject, dst, 1, "neither encoding begins with the other")
    if found.decided:
        return found
    unknown = found.unknown
    if subject.rule == Rule.OVERRIDE:
        unknown = unknown or "whose encoding begins with it, only the source tokenizer tells"
    return found._replace(
        related=_with(found.related, _as_mapped(subject, Rule.EXTENSION, BEGINS)),
        nothing=f"{found.nothing}; no other token's encoding begins with it",
        unknown=unknown,
    )


def _by_encoding(subject: Subject, dst: Destination, count: int, not_written: str) -> Found:
    """The first `count` tokens of the encoding, and why others that are spelled like it lost."""
    found = Found(related_by_spelling(subject, dst, lambda *_: not_written), _nothing(subject))
    if found.decided or subject.kind != Kind.TEXT:
        return found
    try:
        encoding = dst.encode(subject.token)
    except VocabularyError as error:
        mapped = _as_mapped(subject, Rule.ENCODING, "encoding")
        unknown = f"its encoding cannot be shown: {error}"
        return found._replace(related=_with(found.related, mapped), unknown=unknown)
    distinct = dict.fromkeys(encoding[:count])
    written = [_written_at(subject, dst, place, dst_id) for place, dst_id in enumerate(distinct)]
    return found._replace(related=_with(found.related, written), encoding=encoding)


def _nothing(subject: Subject) -> str:
    if subject.kind != Kind.TEXT:
        kind = subject.kind.name.lower()
        return f"no token has the same bytes, and {kind} tokens have no encoding"
    return "no token has the same bytes, and its encoding begins with none that has bytes"


def _written_at(subject: Subject, dst: Destination, place: int, dst_id: int) -> Related:
    distance = None if place else dst.distance(subject.token, dst_id)
    return Related((0, place, dst_id), Rule.ENCODING, "encoding", distance, "")


def _as_mapped(subject: Subject, rule: Rule, relation: str) -> list[Related]:
    """The map's own match, if it is by this rule: it cannot be derived again."""
    if subject.rule != rule:
        return []
    return [Related((0, 0, subject.dst_id), rule, relation, subject.distance, "")]


def _with(spelled: list[Related], others: list[Related]) -> list[Related]:
    """`others` after those of `spelled` that are not among them."""
    ids = {one.dst_id for one in others}
    return [one for one in spelled if one.dst_id not in ids] + others
