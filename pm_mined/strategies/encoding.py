"""Strategies that ask a tokenizer: how it writes the text of the other vocabulary's tokens.

The text is encoded as it would be in the middle of a longer one. A token with the same bytes on
the other side counts as written by that one token, even where the tokenizer would cut it up.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import UNMAPPED, Choices, Kind, Matches, Rule
from pm_mined.tokenizer.encoders.libraries import Encode
from pm_mined.tokenizer.encoders.load import encoder_of
from pm_mined.vocabulary import Vocabulary

from .registry import STRATEGIES, Matched, Options, exact

Ids = NDArray[np.int64]


class Encodings(NamedTuple):
    """How each token of one vocabulary is written in those of another.

    Token `i` is written as `ids[offsets[i]:offsets[i + 1]]`: nothing, where it is not known.
    """

    offsets: Ids  # [tokens + 1]
    ids: Ids  # [tokens of all encodings]

    def owners(self) -> Ids:
        """int64 [tokens of all encodings]: the token that each of them helps to write."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def positions(self) -> Ids:
        """int64 [tokens of all encodings]: how many of the same encoding come before."""
        return np.arange(len(self.ids)) - self.offsets[self.owners()]

    def first(self) -> Ids:
        """int64 [tokens]: with which id each encoding begins, or -1."""
        padded = np.append(self.ids, UNMAPPED)
        return np.where(np.diff(self.offsets) > 0, padded[self.offsets[:-1]], UNMAPPED)


def encode_tokens(tokens: Vocabulary, rows: Ids, dst: Vocabulary) -> Encodings:
    """Encode the text tokens `rows` (ascending) by the tokenizer of `dst`; the others have none.

    An encoding ends before the first id that stands for no text: an unknown or control token,
    or one beyond the vocabulary.

    Raises:
        VocabularyError: `dst` has no tokenizer, or one that cannot be used.
    """
    encode = _encoder_of(dst)
    texts = [token.decode() for token in tokens.packed.take(rows).tolist()]
    encoded = encode(texts) if texts else []
    lengths = np.zeros(len(tokens), np.int64)
    lengths[rows] = [len(ids) for ids in encoded]
    ids = np.concatenate([np.zeros(0, np.int64), *encoded])
    return _known(Encodings(_offsets(lengths), ids), dst)


def _encoder_of(vocabulary: Vocabulary) -> Encode:
    others = ", ".join(name for name, one in STRATEGIES.items() if not one.asks_tokenizer)
    else_take = f"or take a strategy that needs no tokenizer: {others}"
    try:
        encode = encoder_of(vocabulary)
    except VocabularyError as error:
        raise VocabularyError(f"{error}; {else_take}") from error
    if encode is None:
        raise VocabularyError(
            f"{vocabulary.name}: this strategy needs its tokenizer, and a vocabulary in memory has "
            f"none; give a name of `pm-mined vocab list` or a tokenizer.json, {else_take}"
        )
    return encode


def _offsets(lengths: Ids) -> Ids:
    return np.concatenate([[0], np.cumsum(lengths)])


def _known(encodings: Encodings, dst: Vocabulary) -> Encodings:
    """Each encoding up to its first id that is no token with bytes."""
    inside = encodings.ids < len(dst)
    kinds = dst.packed.kinds[np.where(inside, encodings.ids, 0)]
    unknown = _offsets(~inside | (kinds > Kind.FRAGMENT))  # of the ids before each
    owners = encodings.owners()
    kept = unknown[1:] == unknown[encodings.offsets[owners]]
    lengths = np.bincount(owners[kept], minlength=len(encodings.offsets) - 1)
    return Encodings(_offsets(lengths), encodings.ids[kept])


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
    return matches, Encodings(_offsets(lengths), ids)


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
