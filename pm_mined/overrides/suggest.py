"""Suggestions for a person who corrects a map by hand, as an override table to edit.

What is unmapped or reads the wrong thing, and what it might read, best first. Nothing of this is
ever matched by itself: a suggestion is a comment in the table until a person uncomments it.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pm_mined.display import display_token, printable
from pm_mined.kernels.tokens import UNMAPPED, Kind, Rule
from pm_mined.maps.file import VocabularyInfo
from pm_mined.maps.reading import choices_of, readers
from pm_mined.maps.token_map import TokenMap
from pm_mined.strategies.registry import describe_strategy
from pm_mined.tokenizer.special_tokens import literals_of, looks_special, role_of, roles_to_try
from pm_mined.vocabulary import Vocabulary

from .table import OverrideRow, row_text, token_text

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
    "image": ("image_start", "video"),
    "image_start": ("image",),
    "image_end": ("image",),
    "video": ("image",),
}


class Suggestion(NamedTuple):
    """A destination token that a source token might read."""

    dst_id: int
    why: str
    likeness: int  # of the spellings, from 0 to 100


class Undecided(NamedTuple):
    """A source token for a person to decide, and what it might read, best first."""

    src_id: int
    suggestions: list[Suggestion]
    uses: int | None = None  # in a text, if there is one


class Suggester:
    """What the source tokens of a map might read instead, or at all."""

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
        and read a token of another spelling. What an override decided is decided.
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
        """What the override table of the map decided."""
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
        literal, role = _literal(token), role_of(_literal(token))
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
        """The first few candidates that are not what the token reads already, and only that."""
        from rapidfuzz import fuzz

        read = self._only_choice(src_id)
        spelling = spelled(_literal(self.src[src_id]))
        found: dict[int, Suggestion] = {}
        for dst_id, why in candidates:
            if dst_id not in found and dst_id != read:
                likeness = fuzz.ratio(spelling, spelled(_literal(self.dst[dst_id])))
                found[dst_id] = Suggestion(dst_id, why, round(likeness))
            if len(found) == _COUNT:
                break
        return list(found.values())

    def _only_choice(self, src_id: int) -> int:
        """What a token reads, if it is one destination token; else -1."""
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
        return sorted(special) + sorted(text)

    @cached_property
    def _texts(self) -> dict[int, str]:
        tokens, kinds = self.dst.packed.tolist(), self.dst.packed.kinds.tolist()
        return {i: tokens[i].decode() for i, kind in enumerate(kinds) if kind == Kind.TEXT}

    @cached_property
    def _special_words(self) -> dict[int, str]:
        return {i: _words(_literal(self.dst[i])) for i in self.dst.ids_of_kind(Kind.SPECIAL)}

    @cached_property
    def _text_words(self) -> dict[int, str]:
        return {i: _words(text) for i, text in self._texts.items() if looks_special(text)}


def _literal(token: bytes) -> str:
    return token.decode(errors="backslashreplace")


def _characters(token: bytes) -> int:
    return len(token.decode(errors="replace"))


def _numbered_runs(vocabulary: Vocabulary, ids: list[int]) -> list[list[int]]:
    runs: dict[str, list[int]] = {}
    for i in ids:
        literal = _literal(vocabulary[i])
        if re.search("[0-9]", literal) and not role_of(literal):
            runs.setdefault(re.sub("[0-9]+", "0", literal), []).append(i)
    return [run for run in runs.values() if len(run) >= _RUN]


def _is_text(token: bytes) -> bool:
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False


def _words(literal: str) -> str:
    """What a literal says without brackets and bars, which say only that it is special."""
    return re.sub(r"[\W_]+", " ", literal.lower()).strip() or literal


def _alike(text: str, choices: dict[int, str]) -> list[int]:
    from rapidfuzz import fuzz, process

    found = process.extract(text, choices, scorer=fuzz.ratio, limit=_COUNT + 1, score_cutoff=_ALIKE)
    return [token_id for _, _, token_id in found]


def override_table(suggester: Suggester, unmapped: list[Undecided], header: Iterable[str]) -> str:
    """The table to edit: valid as it is, and then a build with it is the build that was.

    `header` is put on top, a comment.
    """
    lines = [f"# {line}".rstrip() for line in map(printable, header)]
    lines += ["", "override = ["]
    for title, blocks in _sections(suggester, unmapped):
        lines += [f"    # --- {title}", ""]
        lines += [f"    {line}".rstrip() for block in blocks for line in [*block, ""]]
    while lines[-1] == "":
        lines.pop()
    return "\n".join([*lines, "]", ""])


def _sections(
    suggester: Suggester, unmapped: list[Undecided]
) -> Iterator[tuple[str, list[list[str]]]]:
    decided = [f"{row_text(row, suggester.src, suggester.dst)}," for row in suggester.overridden()]
    if decided:
        yield "Decided by the override table of this map", [decided]
    special = [_block(suggester, undecided) for undecided in suggester.special_tokens]
    special += [_numbered(suggester, run) for run in suggester.numbered_tokens]
    if special:
        yield "Special tokens, and text that looks special, without a counterpart", special
    else:
        yield "Every special token has a counterpart", []
    if unmapped:
        used = [_block(suggester, undecided) for undecided in unmapped]
        yield "Unmapped tokens that matter most to the text", used
    if special and suggester.targets:
        yield "What the destination has to choose from", [_targets(suggester)]


def _block(suggester: Suggester, undecided: Undecided) -> list[str]:
    """A token and its suggestions, each a row behind a comment sign."""
    src_id, suggestions, _ = undecided
    rows = [OverrideRow(src_id, i, why, "") for i, why, _ in suggestions]
    rows.append(OverrideRow(src_id, UNMAPPED, "", ""))
    remarks = [_remark(suggester.dst, suggestion) for suggestion in suggestions] + ["never map"]
    texts = [f"# {row_text(row, suggester.src, suggester.dst)}," for row in rows]
    return [_heading(suggester, undecided), *_aligned(texts, remarks)]


def _aligned(texts: list[str], remarks: list[str]) -> list[str]:
    width = max(map(len, texts))
    return [f"{text:{width}}  # {remark}" for text, remark in zip(texts, remarks, strict=True)]


def _remark(dst: Vocabulary, suggestion: Suggestion) -> str:
    dst_id, _, likeness = suggestion
    by_id = token_text(dst_id, "dst", dst).startswith("dst_id")
    token = display_token(dst[dst_id]) if by_id else str(dst_id)
    return f"{token} ({dst.kind(dst_id).name.lower()}), {likeness}% alike"


def _heading(suggester: Suggester, undecided: Undecided) -> str:
    row = suggester.token_map.row(undecided.src_id)
    role = role_of(_literal(row.src_token))
    says = "unmapped"
    if row.dst_id != UNMAPPED:
        others = len(choices_of(suggester.token_map, row.src_id)) - 1
        more = f" and {others:,} more" if others else ""
        says = f"reads {display_token(row.dst_token)} ({row.dst_id}){more} by {row.rule}"
    used = f", uses in the text: {undecided.uses:,}" if undecided.uses is not None else ""
    kind = row.src_kind + (f", role {role}" if role else "")
    return f"# {row.src_id} {display_token(row.src_token)} ({kind}): {says}{used}"


def _targets(suggester: Suggester) -> list[str]:
    texts = [f"# {token_text(i, 'dst', suggester.dst)}" for i in suggester.targets]
    return _aligned(texts, [_about_target(suggester, i) for i in suggester.targets])


def _about_target(suggester: Suggester, dst_id: int) -> str:
    role = role_of(_literal(suggester.dst[dst_id]))
    kind = suggester.dst.kind(dst_id).name.lower() + (f", role {role}" if role else "")
    ids = sorted(reader.src_id for reader in readers(suggester.token_map, dst_id))
    return f"{dst_id} ({kind}), {_read_by(suggester.src, ids)}"


def _read_by(src: Vocabulary, ids: list[int]) -> str:
    shown = ", ".join(display_token(src[i]) for i in ids[:3])
    return f"read by {shown}{', ...' if len(ids) > 3 else ''}" if ids else "read by none"


def _numbered(suggester: Suggester, run: list[int]) -> list[str]:
    first, last = (f"{display_token(suggester.src[i])} ({i})" for i in (run[0], run[-1]))
    return [f"# {len(run):,} numbered tokens are left out, unmapped: {first} to {last}"]


def header_lines(
    token_map: TokenMap, map_file: Path, table: Path, src: str | None, dst: str | None
) -> list[str]:
    """What the head of a table says: of which map it is, how to edit it, what to run then.

    `src` and `dst` say where the vocabularies are; without them, the map does.
    """
    info = token_map.info
    pair = f"--src {shlex.quote(src or info.src.place)} --dst {shlex.quote(dst or info.dst.place)}"
    options = "".join(f"{option} " for option in _build_options(info.strategy))
    edited = map_file.with_name(f"{map_file.name.removesuffix('.arrow')}.edited.arrow")
    old, new, by_hand = (shlex.quote(str(path)) for path in (map_file, edited, table))
    return [
        f"Overrides for {info.src.name} -> {info.dst.name}",
        "",
        f"map          {map_file}, {describe_strategy(info.strategy)}",
        f"source       {_described(info.src)}",
        f"destination  {_described(info.dst)}",
        "",
        "To decide a token, uncomment one of its rows: delete the `# ` before the brace. To let it",
        "read another token, change dst (its text), or write dst_id = its id; false is never. What",
        "stays a comment changes nothing, and a token has one row at most. Then run:",
        "",
        f"  pm-mined overrides check {by_hand} {pair}",
        f"  pm-mined build {pair} {options}--overrides {by_hand} -o {new}",
        f"  pm-mined compare {old} {new}",
    ]


def _build_options(strategy: dict[str, Any]) -> list[str]:
    """How to tell `pm-mined build` the strategy of a map, unless it is the default."""
    if strategy == {"name": "pm-mined", "unit": "char"}:
        return []
    flags = {"name": "--strategy"}
    return [
        f"{flags.get(key, '--' + key.replace('_', '-'))} {shlex.quote(str(value))}"
        for key, value in strategy.items()
    ]


def _described(info: VocabularyInfo) -> str:
    return f"{info.name}, {info.size:,} tokens, fingerprint {info.fingerprint[:12]}"
