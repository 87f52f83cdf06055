"""The delta model's context: what the user model has written, in the delta model's own tokens.

The context of a request is a function of its prompt and of the user tokens generated so far: it
always equals what encoding everything from scratch gives, whatever way led there. Everything is:

- Special tokens of the user model split what was generated into segments. In their place stands
  the delta token that the map gives them, or nothing where it gives none.
- The other tokens of a segment write bytes, their canonical ones; unused ids and padding write
  none. A segment is encoded on its own, as text in the middle of a longer one, so that the
  literal of a special token written in letters stays letters.
- A character of which the last bytes are missing is held back until they come.
- Bytes that can no longer become a character also end a segment: each becomes the delta token
  of that very byte (`<0xE4>`, or the byte-level token), so that nothing is lost and a delta model
  that can write such bytes reads them as it would write them. Only a delta vocabulary without
  the byte gets the encoding of U+FFFD, once for each such byte.

Only the end of a segment is encoded again when text comes, from a place some way back where the
tokens on both sides do not depend on each other. Such a cut is made where encoding the text
before it and the text behind it gives the same as encoding both at once; and it is used only
while encoding from the cut before it still gives the known tokens up to it, else the encoding
starts further back, at worst with the segment.

For BPE that is exact: two encodings that share the token where they meet are together that of the
whole text (corollary III in github.com/github/rust-gems, crates/bpe/README.md), and the known
tokens between the two cuts are shared. What is done to text before BPE, and Unigram, have in
theory no such limit to how far a letter reaches. So cuts are made first where words begin, never
in a run of spaces, and within a word or a run of signs only if it is very long. A tokenizer that
lets a letter change tokens before a cut, but none of those between that cut and the next
(`_OVERLAP` characters or more), would be misread.
"""

import re
from codecs import utf_8_decode
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple, Self
from unicodedata import combining

import numpy as np
from numpy.typing import NDArray

from pm_mined import Kind, Vocabulary
from pm_mined.tokenizer.encoders.libraries import Encode

from .context import Change, Context

_NOTHING = -1  # what a special token becomes that is not mapped

# In characters. Windows of an eighth of these gave no wrong id either, in 29,000 tokens of text in
# many scripts, of runs and of noise, by seven tokenizers.
_OVERLAP = 32  # at least, from one cut to the next
_MARGIN = 16  # at least, from a cut to the end of the text when it is made
_STEP = 8  # more text, before a cut is looked for again
_LONG = 256  # without a place to cut, so that any will do

# Where a cut most likely lies between two tokens: before a word, a line, a sign.
_LIKELY = [re.compile(p) for p in (r"(?<=\w)(?= \w)", r"(?<=\S\n)(?=\w)", r"(?<=\w)(?=[^\w\s])")]


@dataclass(frozen=True, eq=False)
class ContextTables:
    """The part that requests share: what each user token writes, and the delta tokenizer."""

    pieces: list[bytes | int]  # [user tokens], bytes, or the delta id of a special token or -1
    strays: list[list[int]]  # [256], the delta ids of a byte that is no part of a character
    encode: Encode

    @classmethod
    def of(
        cls,
        src: Vocabulary,
        dst: Vocabulary,
        dst_id: NDArray[np.integer[Any]],
        encode: Encode,
        ends: Sequence[int] = (),
    ) -> Self:
        """The tables for user model `src` and delta model `dst`.

        `dst_id` (int [at least user tokens], -1 where unmapped) is the map's; it is used for
        special tokens only, and for `ends`, the tokens that end a text. `encode` is
        `load_encoder(..., inside=True)` of the delta tokenizer.

        Raises:
            ValueError: `dst_id` has fewer entries than `src` has tokens.
        """
        if len(dst_id) < len(src):
            raise ValueError(f"{src.name} has {len(src)} tokens, but the map {len(dst_id)}")
        pieces: list[bytes | int] = list(src.packed.tolist())
        for token_id in src.ids_of_kind(Kind.UNUSED):
            pieces[token_id] = b""
        for token_id in (*src.ids_of_kind(Kind.SPECIAL), *ends):
            pieces[token_id] = int(dst_id[token_id])
        return cls(pieces, _byte_ids(dst, encode), encode)

    def begin(self, prompt_ids: Sequence[int]) -> "ReencodedContext":
        """The context of a request that has nothing but its prompt, in the delta model's ids."""
        return ReencodedContext(self, prompt_ids)

    def piece(self, src_id: int) -> bytes | int:
        """The bytes that a user token writes, or its delta id; padding writes nothing."""
        if src_id < 0:
            raise IndexError(f"token id {src_id} is negative")
        return self.pieces[src_id] if src_id < len(self.pieces) else b""


def _byte_ids(dst: Vocabulary, encode: Encode) -> list[list[int]]:
    """The ids of each byte on its own: of the byte's token, or else of U+FFFD."""
    (replacement,) = encode(["\ufffd"])
    ids = []
    for byte in range(256):
        found = dst.find(bytes([byte]))
        kinds = {dst.kind(token_id): token_id for token_id in reversed(found)}
        own = kinds.get(Kind.BYTE, kinds.get(Kind.FRAGMENT))
        ids.append(replacement.tolist() if own is None else [own])
    return ids


class _Cut(NamedTuple):
    """A place between two tokens: so much text of the segment, so many ids of the context."""

    chars: int
    ids: int


class ReencodedContext(Context):
    """The delta model's ids for one request: its prompt, then what the user model has written.

    The text of a segment is kept in pieces, from one cut to the next: a token adds to the last
    piece, and what it costs does not grow with the text.
    """

    def __init__(self, tables: ContextTables, prompt_ids: Sequence[int]) -> None:
        self.ids = [int(token_id) for token_id in prompt_ids]
        self._tables = tables
        self._held = b""  # the beginning of a character
        self._begin_segment()

    def copy(self) -> Self:
        """See `Context`."""
        other = copy(self)
        other.ids = self.ids.copy()
        other._cuts, other._pieces = self._cuts.copy(), self._pieces.copy()
        return other

    def append(self, src_id: int) -> Change:
        """See `Context`."""
        piece = self._tables.piece(src_id)
        if isinstance(piece, bytes):
            keep = self._append_bytes(piece)
        else:
            keep = len(self.ids)
            self._end_segment(self._held, [piece] if piece != _NOTHING else [])
        return Change(keep, self.ids[keep:])

    def _append_bytes(self, piece: bytes) -> int:
        """Add bytes, and return how many ids at the beginning have stayed."""
        keep, rest = len(self.ids), self._held + piece
        while True:
            text, stray, rest = _decode(rest)
            if text:
                keep = min(keep, self._append_text(text))
            if not stray:
                self._held = rest
                return keep
            self._end_segment(stray, [])

    def _begin_segment(self) -> None:
        self._cuts = [_Cut(0, len(self.ids))]
        self._pieces = [""]  # of the text, one from each cut on
        self._next_cut = _OVERLAP + _MARGIN  # how long the text has to be

    @property
    def _length(self) -> int:
        """The length of the segment, in characters."""
        return self._cuts[-1].chars + len(self._pieces[-1])

    def _end_segment(self, stray: bytes, ids: list[int]) -> None:
        """Put bytes that are no text, and then `ids`, between this segment and the next."""
        for byte in stray:
            self.ids += self._tables.strays[byte]
        self.ids += ids
        self._held = b""
        self._begin_segment()

    def _append_text(self, text: str) -> int:
        """Add text, and return how many ids at the beginning have stayed."""
        self._pieces[-1] += text
        start, tail, ids = self._encode_tail()
        keep = start.ids + _common_prefix(self.ids[start.ids :], ids)
        self.ids[keep:] = ids[keep - start.ids :]
        if self._length >= self._next_cut:
            self._cut(start, tail, ids)
        return keep

    def _encode_tail(self) -> tuple[_Cut, str, list[int]]:
        """A cut, the text from there on and its ids: the last cut but one if it still holds."""
        while True:
            start, check = self._cuts[max(len(self._cuts) - 2, 0)], self._cuts[-1]
            text = "".join(self._pieces[-2:])
            (ids,) = self._encode(text)
            if ids[: check.ids - start.ids] == self.ids[start.ids : check.ids]:
                return start, text, ids
            self._cuts.pop()
            self._pieces[-2:] = [text]

    def _cut(self, start: _Cut, text: str, ids: list[int]) -> None:
        """Look for another cut in `text`, the text from `start` on, whose encoding is `ids`."""
        last = self._cuts[-1].chars - start.chars
        for cut in _candidates(text, last + _OVERLAP):
            left, right = self._encode(text[:cut], text[cut:])
            if left + right == ids:
                self._cuts.append(_Cut(start.chars + cut, start.ids + len(left)))
                self._pieces[-1:] = [text[last:cut], text[cut:]]
                self._next_cut = start.chars + cut + _OVERLAP + _MARGIN
                return
        self._next_cut = self._length + _STEP

    def _encode(self, *texts: str) -> list[list[int]]:
        return [ids.tolist() for ids in self._tables.encode(texts)]


def _decode(data: bytes) -> tuple[str, bytes, bytes]:
    """The text that `data` begins with, the bytes after it that are none, and what follows.

    Without such bytes, what follows is the beginning of a character.
    """
    try:
        text, used = utf_8_decode(data, "strict", False)
    except UnicodeDecodeError as error:
        start, end = error.start, error.end
        return data[:start].decode(), data[start:end], data[end:]
    return text, b"", data[used:]


def _common_prefix(left: list[int], right: list[int]) -> int:
    """Count the ids at the beginning that are the same."""
    for i, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return i
    return min(len(left), len(right))


def _candidates(text: str, first: int) -> list[int]:
    """Places to cut `text`, from `first` on, best first; never before a combining mark."""
    end = len(text) - _MARGIN
    found = [[match.start() for match in cut.finditer(text, first, end)] for cut in _LIKELY]
    places = [starts[-1] for starts in found if starts]
    if len(text) > _LONG:
        tried = range(end, max(first, end - _STEP), -1)
        places += [cut for cut in tried if not text[cut - 1].isspace()]
    return [cut for cut in places if not combining(text[cut])]
