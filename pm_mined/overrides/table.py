"""The hand-editable table of overrides: TOML, one `[[override]]` per source token.

[[override]]
src = "<|eot_id|>"     # or src_id = 128009
dst = "<|im_end|>"     # or dst_id = 151645, or dst = false: never map
note = "end of turn"   # for people

The same rows may stand in one list, a line each: `override = [ { src = ..., dst = ... }, ... ]`.
"""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from pm_mined.display import display_token, name_token
from pm_mined.errors import OverridesError
from pm_mined.kernels.tokens import UNMAPPED, Kind
from pm_mined.tokenizer.special_tokens import looks_special
from pm_mined.vocabulary import Vocabulary

_KEYS = ("src", "src_id", "dst", "dst_id", "note")
_MAX_BYTES = 2**21  # some 50,000 rows
_MAX_DOTS = 1000  # in keys, which have none; parsing dotted keys is quadratic
# Each begins with a quotation mark or `#` and goes on to its end, or that of the line or the file.
_TEXT_OR_COMMENT = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?(?:\"{3}|\Z)|"(?:\\.|[^"\\\n])*"?"""
    r"""|'{3}.*?(?:'{3}|\Z)|'[^'\n]*'?|\#[^\n]*""",
    re.DOTALL,
)
_ROW = re.compile(r"[ \t]*(?:\[\[\s*override\s*\]\]|\{)")
_LIST = re.compile(r"^[ \t]*override[ \t]*=", re.MULTILINE)


class OverrideRow(NamedTuple):
    """One decision of a table."""

    src_id: int
    dst_id: int  # -1: never map
    note: str
    where: str  # which row of the file, for messages


@dataclass(frozen=True)
class Overrides:
    """A checked table, in the order of the file."""

    rows: tuple[OverrideRow, ...]
    sha256: str  # of the file's bytes

    @cached_property
    def dst_of(self) -> dict[int, int]:
        """Source id -> destination id, -1 for "never map"."""
        return {row.src_id: row.dst_id for row in self.rows}


def read_overrides(path: str | PathLike[str], src: Vocabulary, dst: Vocabulary) -> Overrides:
    """Read a table and find its tokens in both vocabularies.

    Raises:
        OverridesError: the table cannot be read, or a row is wrong; it names file and row.
    """
    text, content = _read_text(path)
    lines = [number for number, line in enumerate(text.split("\n"), 1) if _ROW.match(line)]
    documents = _rows(path, _parse(path, text))
    rows: dict[int, OverrideRow] = {}
    for number, document in enumerate(documents, 1):
        # Where the rows found in the text are not those of the document, no line is better.
        line = f" (line {lines[number - 1]})" if len(lines) == len(documents) else ""
        where = f"override {number}{line}"
        try:
            row = _read_row(document, where, src, dst)
            if row.src_id in rows:
                token = display_token(src[row.src_id])
                raise OverridesError(f"token {row.src_id} ({token}) already has an override above")
        except OverridesError as error:
            raise OverridesError(f"{path}: {where}: {error}") from error
        rows[row.src_id] = row
    return Overrides(tuple(rows.values()), hashlib.sha256(content).hexdigest())


def _read_text(path: str | PathLike[str]) -> tuple[str, bytes]:
    try:
        content = _read_table(Path(path))
        return content.decode("utf-8-sig"), content
    except OSError as error:
        raise OverridesError(f"{path}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OverridesError(f"{path}: not UTF-8 text: {error}") from error


def _read_table(path: Path) -> bytes:
    if path.exists() and not path.is_dir() and not path.is_file():
        raise OverridesError(f"{path}: not a regular file")
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OverridesError(f"{path}: more than {_MAX_BYTES} bytes are no table for people")
    return content


def _parse(path: str | PathLike[str], text: str) -> dict[str, Any]:
    if _TEXT_OR_COMMENT.sub("", text).count(".") > _MAX_DOTS:
        raise OverridesError(f"{path}: more than {_MAX_DOTS} dots are in its keys, which have none")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        mixed = _LIST.search(text) and "[[override]]" in text
        hint = "; write all rows as [[override]] or all in `override = [ ]`" if mixed else ""
        raise OverridesError(f"{path}: not TOML: {error}{hint}") from error


def _rows(path: str | PathLike[str], document: dict[str, Any]) -> list[Any]:
    unknown = [key for key in document if key != "override"]
    rows = document.get("override", [])
    if unknown or not isinstance(rows, list):
        found = f"found {unknown[0]!r}" if unknown else "`override` is not a list of tables"
        raise OverridesError(f"{path}: expected [[override]] tables only, {found}")
    return rows


def _read_row(row: Any, where: str, src: Vocabulary, dst: Vocabulary) -> OverrideRow:
    if not isinstance(row, dict):
        raise OverridesError(f"expected a table, found {row!r}")
    for key in row:
        if key not in _KEYS:
            near = get_close_matches(key[:64], _KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(_KEYS)}"
            raise OverridesError(f"unknown key {key!r}{hint}")
    note = row.get("note", "")
    if not isinstance(note, str):
        raise OverridesError(f"note must be a string, found {note!r}")
    src_id = _token_id(row, "src", src)
    never = row.get("dst") is False and "dst_id" not in row
    return OverrideRow(src_id, UNMAPPED if never else _token_id(row, "dst", dst), note, where)


def _token_id(row: dict[str, Any], side: str, vocabulary: Vocabulary) -> int:
    """The token that `src`/`src_id` (or `dst`/`dst_id`) names."""
    by_text, by_id = row.get(side), row.get(f"{side}_id")
    if (by_text is None) == (by_id is None):
        raise OverridesError(f"give {side} (the token) or {side}_id (its id), one of the two")
    if by_id is not None:
        if type(by_id) is not int:
            raise OverridesError(f"{side}_id must be a whole number, found {by_id!r}")
        if not 0 <= by_id < len(vocabulary):
            raise OverridesError(
                f"{side}_id {by_id} is not in {vocabulary.name} (0 to {len(vocabulary) - 1})"
            )
        return by_id
    if not isinstance(by_text, str):
        also = " or false" if side == "dst" else ""
        raise OverridesError(f"{side} must be a string{also}, found {by_text!r}")
    return _find(by_text, side, vocabulary)


def _find(text: str, side: str, vocabulary: Vocabulary) -> int:
    ids = vocabulary.find(text.encode())
    if len(ids) == 1:
        return ids[0]
    if ids:
        listed = ", ".join(f"{i} ({vocabulary.kind(i).name.lower()})" for i in ids[:5])
        raise OverridesError(
            f"{vocabulary.name} has {len(ids)} tokens {text!r}: {listed}; say which by {side}_id"
        )
    near = " or ".join(name_token(vocabulary[i], i) for i in vocabulary.nearest(text))
    hint = f"; the nearest are {near}" if near else ""
    raise OverridesError(f"{vocabulary.name} has no token {text!r}{hint}")


def doubts(row: OverrideRow, src: Vocabulary, dst: Vocabulary, otherwise: int) -> list[str]:
    """Doubts about the intent of a row; without it, the token maps to `otherwise`."""
    found = []
    if row.dst_id == otherwise:
        mapped = otherwise != UNMAPPED
        maps = f"it maps to {display_token(dst[otherwise])}" if mapped else "it is unmapped"
        found.append(f"changes nothing: without it, too, {maps}")
    if src.kind(row.src_id) is Kind.UNUSED:
        found.append("is for a reserved token, which no text contains")
    if row.dst_id != UNMAPPED:
        found += _doubts_of_target(src[row.src_id], src.kind(row.src_id), row.dst_id, dst)
    return found


def _doubts_of_target(token: bytes, kind: Kind, dst_id: int, dst: Vocabulary) -> list[str]:
    target, dst_kind = dst[dst_id], dst.kind(dst_id)
    if dst_kind is Kind.UNUSED:
        return [f"maps to {display_token(target)}, which is reserved: no model learned it"]
    special, dst_special = kind is Kind.SPECIAL, dst_kind is Kind.SPECIAL
    ordinary = target if special else token
    if (
        special == dst_special
        or token == target
        or looks_special(ordinary.decode(errors="replace"))
    ):
        return []
    if special:
        return [f"maps a special token to ordinary text, {display_token(target)}"]
    return [f"maps ordinary text to a special token, {display_token(target)}"]
