"""Tokens to text: the bytes that they write, not what a tokenizer's `decode` tidies up.

`decode` drops the space that a text begins with, which a completion needs.
"""

from codecs import getincrementaldecoder
from collections.abc import Iterable

from pm_mined import Kind, Vocabulary

_WRITTEN = {Kind.TEXT, Kind.BYTE, Kind.FRAGMENT}


class TokenText:
    r"""The text of tokens as they come; the beginning of a character is held back.

    Special and unused tokens write nothing, nor does padding beyond the vocabulary.

    >>> vocabulary = Vocabulary.from_tokens([b" a", b"\xc3", b"\xa9"], [0, 2, 2])
    >>> text = TokenText(vocabulary)
    >>> text.append([0, 1]), text.append([2, 1]), text.end()
    (' a', 'é', '\ufffd')
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def append(self, token_ids: Iterable[int]) -> str:
        """Add tokens, and return the text that is complete now."""
        return self._decoder.decode(b"".join(map(self._written, token_ids)))

    def end(self) -> str:
        """Return U+FFFD for the beginning of a character that did not go on, else nothing."""
        return self._decoder.decode(b"", final=True)

    def _written(self, token_id: int) -> bytes:
        if token_id >= len(self._vocabulary) or self._vocabulary.kind(token_id) not in _WRITTEN:
            return b""
        return self._vocabulary[token_id]


def text_of(vocabulary: Vocabulary, token_ids: Iterable[int]) -> str:
    """The text of tokens; bytes that are no character become U+FFFD."""
    text = TokenText(vocabulary)
    return text.append(token_ids) + text.end()
