"""Suggestions for a person who corrects a map by hand.

They are for tokens that are unmapped or may map to the wrong one, with what each might map to,
best first. No suggestion is ever matched by itself: a person decides.
"""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pm_mined.kernels.tokens import UNMAPPED, Kind, Rule
from pm_mined.maps.lookup import choices_of
from pm_mined.maps.token_map import TokenMap
from pm_mined.tokenizer.special_tokens import (
    literals_of,
    looks_special,
    role_in,
    role_of,
    roles_to_try,
)
from pm_mined.vocabulary import Vocabulary

from .table import OverrideRow

_COUNT = 4  # suggestions for one token
_ALIKE = 70  # of 100; below that two spellings share an `end` or a `start`
_RUN = 10  # tokens that differ in a number only: placeholders, not that many decisions
_DOUBTFUL = (Rule.PREFIX, Rule.EXTENSION, Rule.EDIT, Rule.ENCODING, Rule.NONE)
_ORDINARY = (Kind.TEXT, Kind.BYTE, Kind.FRAGMENT)

# Roles worth a look where the destination has none of the same. Not in special_tokens.toml, for
# its `fallback` matches unasked and these never do.
_RELATED = {
    "bos": ("eos", "cls"),
    "eos": ("end_of_turn", "sep"),
    "pad": ("eos", "unk"),
    "cls": ("bos",),
    "sep": ("eos",),
    "start_of_turn": ("instruction_start",),
    "end_of_header": ("instruction_end",),
    "instruction_start": ("start_of_turn",),
    "instruction_end": ("end_of_header", "end_of_turn"),
    "system_start": ("start_of_turn", "instruction_start"),
    "system_end": ("end_of_turn", "instruction_end"),
    "tool_call_end": ("end_of_message",),
    "user": ("start_of_turn", "instruction_start"),
    "assistant": ("start_of_turn", "instruction_end"),
    "system": ("start_of_turn", "system_start"),
    "fim_pad": ("pad",),
    "image": ("image_start", "video"),
    "image_start": ("image",),
    "image_end": ("image",),
    "video": ("image",),
}


class Suggestion(NamedTuple):
    """A destination token that a source token might map to."""

    dst_id: int
    why: str
    likeness: int  # of the spellings, from 0 to 100


class Undecided(NamedTuple):
    """A source token for a person to decide, and what it might map to, best first."""

    src_id: int
    suggestions: list[Suggestion]
    uses: int | None = None  # in a text, if there is one


class Suggester:
    """Suggests what the source tokens of a map might map to instead, or at all."""

    def __init__(self, token_map: TokenMap, dst: Vocabulary) -> None:
        self.token_map = token_map
        self.src = token_map.source
        self.dst = dst
        self._undecided = (token_map.dst_id == UNMAPPED) & (token_map.rule != Rule.OVERRIDE)

    @cached_property
    def special_tokens(self) -> list[Undecided]:
        """The special tokens to decide, in id order.

        These are the special tokens of the source that are unmapped (without the long runs of
        `numbered_tokens`), and its text tokens that look special, or are so in the destination,
        and map to a token of another spelling. What an override decided is decided.
        """
        left_out = {i for run in self.numbered_tokens for i in run}
        special = [i for i in self._unmapped_special_ids if i not in left_out]
        ids = sorted(special + self._doubtful_text_ids())
        return [Undecided(i, self._best(i, self._for_special(self.src[i]), _words)) for i in ids]

    @cached_property
    def numbered_tokens(self) -> list[list[int]]:
        """Runs of unmapped special tokens that differ in a number only, and have no role."""
        return _numbered_runs(self.src, self._unmapped_special_ids)

    @cached_property
    def targets(self) -> list[int]:
        """The destination tokens that are special or look so, without runs of numbered ones."""
        ids = sorted([*self._special_words, *self._text_words])
        left_out = {i for run in _numbered_runs(self.dst, ids) for i in run}
        return [i for i in ids if i not in left_out]

    def unmapped_tokens(self, uses: NDArray[np.int64], limit: int) -> list[Undecided]:
        """The unmapped ordinary tokens that matter most to a text: by uses times characters.

        `uses` int64 [source ids]: how often the text uses each source token.
        """
        ordinary = np.isin(self.src.packed.kinds, _ORDINARY)
        ids = np.flatnonzero(self._undecided & ordinary & (uses > 0)).tolist()
        ids.sort(key=lambda i: (-uses[i] * _characters(self.src[i]), i))
        return [
            Undecided(i, self._best(i, self._for_ordinary(self.src[i]), str), int(uses[i]))
            for i in ids[:limit]
        ]

    def overridden(self) -> list[OverrideRow]:
        """The decisions of the map's override table."""
        ids = np.flatnonzero(self.token_map.rule == Rule.OVERRIDE).tolist()
        return [OverrideRow(i, int(self.token_map.dst_id[i]), "", "") for i in ids]

    @cached_property
    def _unmapped_special_ids(self) -> list[int]:
        special = self.src.packed.kinds == Kind.SPECIAL
        ids: list[int] = np.flatnonzero(self._undecided & special).tolist()
        return ids

    def _doubtful_text_ids(self) -> list[int]:
        text = self.src.packed.kinds == Kind.TEXT
        ids = np.flatnonzero(text & np.isin(self.token_map.rule, _DOUBTFUL)).tolist()
        special = {self.dst[i] for i in self.dst.ids_of_kind(Kind.SPECIAL)}
        tokens = self.src.packed.tolist()
        return [i for i in ids if tokens[i] in special or looks_special(tokens[i].decode())]

    def _for_special(self, token: bytes) -> Iterator[tuple[int, str]]:
        """The identical literal, then by role, then by spelling: special before text."""
        literal, role = literal_of(token), role_of(literal_of(token))
        yield from ((i, "identical literal") for i in self._usable(token))
        for same in roles_to_try(role):
            yield from ((i, f"role {same}") for i in self._with_role(same))
        for related in _RELATED.get(role or "", ()):
            yield from ((i, f"related role {related}") for i in self._with_role(related))
        for words in (self._special_words, self._text_words):
            yield from ((i, "spelled alike") for i in _alike(_words(literal), words))

    def _for_ordinary(self, token: bytes) -> Iterator[tuple[int, str]]:
        """The first piece that the destination has, then by spelling."""
        prefixes = (token[:stop] for stop in range(len(token) - 1, 0, -1))
        pieces = (i for prefix in prefixes if prefix != b" " for i in self._usable(prefix))
        ordinary = (i for i in pieces if self.dst.kind(i) in _ORDINARY)
        yield from ((i, "first piece") for i in islice(ordinary, 1))
        if _is_text(token):
            yield from ((i, "spelled alike") for i in _alike(token.decode(), self._texts))

    def _best(
        self, src_id: int, candidates: Iterator[tuple[int, str]], spelled: Callable[[str], str]
    ) -> list[Suggestion]:
        """The first few candidates, without what is already the only choice of the token."""
        from rapidfuzz import fuzz

        only = self._only_choice(src_id)
        spelling = spelled(literal_of(self.src[src_id]))
        found: dict[int, Suggestion] = {}
        for dst_id, why in candidates:
            if dst_id not in found and dst_id != only:
                likeness = fuzz.ratio(spelling, spelled(literal_of(self.dst[dst_id])))
                found[dst_id] = Suggestion(dst_id, why, round(likeness))
            if len(found) == _COUNT:
                break
        return list(found.values())

    def _only_choice(self, src_id: int) -> int:
        """The one destination token that a token maps to; -1 if there is none, or several."""
        choices = choices_of(self.token_map, src_id)
        return choices[0][0] if len(choices) == 1 else UNMAPPED

    def _usable(self, token: bytes) -> list[int]:
        return [i for i in self.dst.find(token) if self.dst.kind(i) is not Kind.UNUSED]

    def _with_role(self, role: str) -> list[int]:
        """The destination tokens of a role: special ones first, then text."""
        special, text = [], []
        for literal in literals_of(role):
            for i in self._usable(literal.encode()):
                if self.dst.kind(i) is Kind.SPECIAL:
                    special.append(i)
                elif looks_special(literal):
                    text.append(i)
        named = (i for i, name in self.dst.roles.items() if name == role == role_in(self.dst, i))
        special += [i for i in named if i not in special]
        return sorted(special) + sorted(text)

    @cached_property
    def _texts(self) -> dict[int, str]:
        tokens, kinds = self.dst.packed.tolist(), self.dst.packed.kinds.tolist()
        return {i: tokens[i].decode() for i, kind in enumerate(kinds) if kind == Kind.TEXT}

    @cached_property
    def _special_words(self) -> dict[int, str]:
        return {i: _words(literal_of(self.dst[i])) for i in self.dst.ids_of_kind(Kind.SPECIAL)}

    @cached_property
    def _text_words(self) -> dict[int, str]:
        return {i: _words(text) for i, text in self._texts.items() if looks_special(text)}


def literal_of(token: bytes) -> str:
    """A token as text; bytes that are not UTF-8 escaped."""
    return token.decode(errors="backslashreplace")


def _characters(token: bytes) -> int:
    return len(token.decode(errors="replace"))


def _numbered_runs(vocabulary: Vocabulary, ids: list[int]) -> list[list[int]]:
    runs: dict[str, list[int]] = {}
    for i in ids:
        literal = literal_of(vocabulary[i])
        if re.search("[0-9]", literal) and not role_of(literal):
            runs.setdefault(re.sub("[0-9]+", "0", literal), []).append(i)
    return [run for run in runs.values() if len(run) >= _RUN]


def _is_text(token: bytes) -> bool:
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False


def _words(literal: str) -> str:
    """The words of a literal, without the brackets and bars that mark it as special."""
    return re.sub(r"[\W_]+", " ", literal.lower()).strip() or literal


def _alike(text: str, choices: dict[int, str]) -> list[int]:
    from rapidfuzz import fuzz, process

    found = process.extract(text, choices, scorer=fuzz.ratio, limit=_COUNT + 1, score_cutoff=_ALIKE)
    return [token_id for _, _, token_id in found]
