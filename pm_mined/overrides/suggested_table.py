"""Suggestions as an override table to edit: each is a comment until a person uncomments it."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pm_mined.display import display_token, name_token, printable
from pm_mined.kernels.tokens import UNMAPPED
from pm_mined.maps.info import VocabularyInfo
from pm_mined.maps.lookup import choices_of, sources_of
from pm_mined.maps.token_map import TokenMap
from pm_mined.strategies.registry import describe_strategy, without_end
from pm_mined.tokenizer.special_tokens import role_in, role_of
from pm_mined.vocabulary import Vocabulary

from .suggest import Suggester, Suggestion, Undecided, literal_of
from .table import OverrideRow
from .writing import row_text, token_text


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
    role = role_of(literal_of(row.src_token))
    says = "unmapped"
    if row.dst_id != UNMAPPED:
        others = len(choices_of(suggester.token_map, row.src_id)) - 1
        more = f" and {others:,} more" if others else ""
        says = f"maps to {name_token(row.dst_token, row.dst_id)}{more} by {row.rule}"
    used = f", uses in the text: {undecided.uses:,}" if undecided.uses is not None else ""
    kind = row.src_kind + (f", role {role}" if role else "")
    return f"# {row.src_id} {display_token(row.src_token)} ({kind}): {says}{used}"


def _targets(suggester: Suggester) -> list[str]:
    texts = [f"# {token_text(i, 'dst', suggester.dst)}" for i in suggester.targets]
    return _aligned(texts, [_about_target(suggester, i) for i in suggester.targets])


def _about_target(suggester: Suggester, dst_id: int) -> str:
    role = role_in(suggester.dst, dst_id)
    kind = suggester.dst.kind(dst_id).name.lower() + (f", role {role}" if role else "")
    ids = sorted(one.src_id for one in sources_of(suggester.token_map, dst_id))
    return f"{dst_id} ({kind}), {_mapped_from(suggester.src, ids)}"


def _mapped_from(src: Vocabulary, ids: list[int]) -> str:
    shown = ", ".join(display_token(src[i]) for i in ids[:3])
    return f"mapped from {shown}{', ...' if len(ids) > 3 else ''}" if ids else "mapped from none"


def _numbered(suggester: Suggester, run: list[int]) -> list[str]:
    first, last = (name_token(suggester.src[i], i) for i in (run[0], run[-1]))
    return [f"# {len(run):,} numbered tokens are left out, unmapped: {first} to {last}"]


def header_lines(
    token_map: TokenMap, map_file: Path, table: Path, src: str | None, dst: str | None
) -> list[str]:
    """The head of a table: its map, how to edit it, and the next command.

    `src` and `dst` say where the vocabularies are; without them, the map does.
    """
    info = token_map.info
    pair = f"--src {shlex.quote(src or info.src.place)} --dst {shlex.quote(dst or info.dst.place)}"
    options = "".join(f"{option} " for option in _build_options(without_end(info.strategy)))
    edited = map_file.with_name(f"{map_file.name.removesuffix('.arrow')}.edited.arrow")
    old, new, by_hand = (shlex.quote(str(path)) for path in (map_file, edited, table))
    return [
        f"Overrides for {info.src.name} -> {info.dst.name}",
        "",
        f"map          {map_file}, {describe_strategy(info.strategy)}",
        f"source       {_described(info.src)}",
        f"destination  {_described(info.dst)}",
        "",
        "To decide a token, uncomment one of its rows: delete the `# ` before the brace. To map it",
        "to another token, change dst (its text), or write dst_id = its id; false is never. What",
        "stays a comment changes nothing, and a token has one row at most. Then run:",
        "",
        f"  pm-mined overrides check {by_hand} {pair}",
        f"  pm-mined build {pair} {options}--overrides {by_hand} -o {new}",
        f"  pm-mined compare {old} {new}",
    ]


def _build_options(strategy: dict[str, Any]) -> list[str]:
    """The options of `pm-mined build` for a map's strategy, unless it is the default."""
    if strategy == {"name": "pm-mined", "unit": "char"}:
        return []
    flags = {"name": "--strategy"}
    return [
        f"{flags.get(key, '--' + key.replace('_', '-'))} {shlex.quote(str(value))}"
        for key, value in strategy.items()
    ]


def _described(info: VocabularyInfo) -> str:
    return f"{info.name}, {info.size:,} tokens, fingerprint {info.fingerprint[:12]}"
