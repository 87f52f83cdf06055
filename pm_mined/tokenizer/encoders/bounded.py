"""A bound on the memory that a tokenizer takes: on how long its normalizer can make a text."""

from collections.abc import Sequence

from pm_mined.errors import VocabularyError

from .libraries import Encode, Ids

_USUAL = 2**7  # bytes for one: the longest normal form of a letter, spaces written as `▁`
_MOST = 2**26  # bytes of normalised text; the library keeps 20 times as much


def bounded(encode: Encode, growth: int) -> Encode:
    """An encoder that refuses texts of which its normalizer, by `growth`, could fill the memory.

    The usual ones are returned as they are.
    """
    if growth <= _USUAL:
        return encode

    def encode_bounded(texts: Sequence[str]) -> list[Ids]:
        size = sum(len(text.encode()) for text in texts)
        if size * growth > _MOST:
            raise VocabularyError(
                f"its normalizer can make up to {float(growth):.1e} bytes of each one, too many "
                f"for {size:,} bytes of text: the file is damaged, or made to do harm"
            )
        return encode(texts)

    return encode_bounded
