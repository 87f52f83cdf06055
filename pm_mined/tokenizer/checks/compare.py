"""The comparison of a vocabulary with its library, id by id."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import MATCHABLE, Kind
from pm_mined.tokenizer.errors_of_libraries import library_errors
from pm_mined.vocabulary import Vocabulary

from .libraries import Library
from .pieces import completion

_BATCH = 4096  # sequences

_NO_TEXT = "bytes that are in no text"
_ALONE = "pieces of a character, where no tokens of single bytes complete them"
_NO_NEIGHBOURS = "no tokens of ASCII signs to write them between"
_FAILS = "the library fails on them"


class Difference(NamedTuple):
    """An id for which the vocabulary has one text, and the library another."""

    token_id: int
    ours: str
    theirs: str


class _Sequence(NamedTuple):
    """The ids to write for one of them, and the text that is expected."""

    token_id: int
    ids: list[int]
    expected: str


class _Neighbours(NamedTuple):
    """Two tokens to write others between, and what they are themselves written as."""

    first: int
    last: int
    before: str
    after: str


class Comparison:
    """The differences of a vocabulary from what a library writes, and the ids not compared."""

    def __init__(self, vocabulary: Vocabulary, library: Library) -> None:
        self.vocabulary = vocabulary
        self._library = library
        self.differences: list[Difference] = []
        self.unchecked: defaultdict[str, list[int]] = defaultdict(list)
        self._neighbours = _find_neighbours(vocabulary, library)

    def compare(self, ids: Iterable[int]) -> None:
        """Compare these ids."""
        written = [one for token_id in ids if (one := self._prepare(token_id)) is not None]
        for start in range(0, len(written), _BATCH):
            self._write(written[start : start + _BATCH])
        self.differences.sort()

    def _prepare(self, token_id: int) -> _Sequence | None:
        """Prepare what has to be written for an id; None for one that is decided without."""
        if token_id >= self._library.size and self._library.beyond:
            self.unchecked[self._library.beyond].append(token_id)
            return None
        theirs = self._library.literal(token_id) if token_id < self._library.size else None
        if token_id >= len(self.vocabulary) or theirs is None:
            ours = self.vocabulary[token_id] if token_id < len(self.vocabulary) else b""
            self._expect(token_id, ours.decode(errors="replace"), theirs or "")
            return None
        token, kind = self.vocabulary[token_id], self.vocabulary.kind(token_id)
        if token and kind not in MATCHABLE:
            self._expect(token_id, token.decode(errors="replace"), theirs)
            return None
        spaces = token.isspace() or theirs.isspace()
        if kind == Kind.TEXT and self._library.is_special(token_id) and not spaces:
            self._differ(token_id, f"the text {token.decode()}", f"the special token {theirs}")
            return None
        return self._between(token_id, token)

    def _between(self, token_id: int, token: bytes) -> _Sequence | None:
        """A token between two others; a piece of a character with those that complete it."""
        whole = completion(token)
        if self._neighbours is None or whole is None:
            reason = _NO_TEXT if whole is None else _NO_NEIGHBOURS
            self.unchecked[reason].append(token_id)
            return None
        before, after = (self._ids_of_bytes(part) for part in whole)
        if before is None or after is None:
            self.unchecked[_ALONE].append(token_id)
            return None
        first, last, start, end = self._neighbours
        text = (whole[0] + token + whole[1]).decode()
        return _Sequence(token_id, [first, *before, token_id, *after, last], start + text + end)

    def _ids_of_bytes(self, part: bytes) -> list[int] | None:
        """The ids of tokens of one byte each; None if a byte has none."""
        found = [self.vocabulary.find(bytes([byte])) for byte in part]
        return [ids[0] for ids in found] if all(found) else None

    def _write(self, batch: list[_Sequence]) -> None:
        try:
            with library_errors(_FAILS):
                texts = self._library.write([one.ids for one in batch])
        except VocabularyError:
            if len(batch) == 1:
                self.unchecked[_FAILS].append(batch[0].token_id)
            else:
                for one in batch:
                    self._write([one])
            return
        for one, text in zip(batch, texts, strict=True):
            self._expect(one.token_id, one.expected, text)

    def _expect(self, token_id: int, ours: str, theirs: str) -> None:
        if ours != theirs:
            self._differ(token_id, ours, theirs)

    def _differ(self, token_id: int, ours: str, theirs: str) -> None:
        self.differences.append(Difference(token_id, ours, theirs))


def _find_neighbours(vocabulary: Vocabulary, library: Library) -> _Neighbours | None:
    """The two shortest tokens of letters, or of other signs; one twice if there is no other."""
    words = sorted(_words(vocabulary, library))[:2]
    if not words:
        return None
    first, last = words[0][-1], words[-1][-1]
    alone, both = library.write([[first], [first, last]])
    return _Neighbours(first, last, alone, both[len(alone) :]) if both.startswith(alone) else None


def _words(vocabulary: Vocabulary, library: Library) -> Iterator[tuple[bool, int, int]]:
    """(not of letters, length, id) of each text token that stands for itself everywhere."""
    for token_id in vocabulary.ids_of_kind(Kind.TEXT):
        token = vocabulary[token_id]
        if token.isascii() and len(token.split()) == 1 and not library.is_special(token_id):
            yield not (token.isalpha() and token.islower()), len(token), token_id
