"""The tokens of one vocabulary, encoded by the tokenizer of another.

The text is encoded as it would be in the middle of a longer one.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import UNMAPPED, Kind
from pm_mined.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pm_mined.tokenizer.encoders.libraries import Encode

Ids = NDArray[np.int64]


class Encodings(NamedTuple):
    """The encoding of each token of one vocabulary in those of another.

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
    return _known(Encodings(offsets_of(lengths), ids), dst)


def _encoder_of(vocabulary: Vocabulary) -> "Encode":
    from pm_mined.tokenizer.encoders.load import encoder_of

    others = "or choose a strategy that needs no tokenizer, such as pm-mined"
    try:
        encode = encoder_of(vocabulary)
    except VocabularyError as error:
        raise VocabularyError(f"{error}; {others}") from error
    if encode is None:
        raise VocabularyError(
            f"{vocabulary.name}: this strategy needs its tokenizer, and a vocabulary in memory has "
            f"none; give a name of `pm-mined vocab list` or a tokenizer.json, {others}"
        )
    return encode


def offsets_of(lengths: Ids) -> Ids:
    """int64 [lengths + 1]: where each begins that has one of these lengths, and where all end."""
    return np.concatenate([[0], np.cumsum(lengths)])


def _known(encodings: Encodings, dst: Vocabulary) -> Encodings:
    """Each encoding up to its first id that is no token with bytes."""
    inside = encodings.ids < len(dst)
    kinds = dst.packed.kinds[np.where(inside, encodings.ids, 0)]
    unknown = offsets_of(~inside | (kinds > Kind.FRAGMENT))  # of the ids before each
    owners = encodings.owners()
    kept = unknown[1:] == unknown[encodings.offsets[owners]]
    lengths = np.bincount(owners[kept], minlength=len(encodings.offsets) - 1)
    return Encodings(offsets_of(lengths), encodings.ids[kept])
