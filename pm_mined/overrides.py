"""The hand-editable table of overrides: TOML, one `[[override]]` per source token.

[[override]]
src = "<|eot_id|>"     # or src_id = 128009
dst = "<|im_end|>"     # or dst_id = 151645, or dst = false: never map
note = "end of turn"   # for people
"""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

from .display import display_token
from .errors import OverridesError
from .kernels.tokens import UNMAPPED
from .vocabulary import Vocabulary

_KEYS = ("src", "src_id", "dst", "dst_id", "note")
_MAX_BYTES = 2**24
_ROW = re.compile(r"^\s*\[\[\s*override\s*\]\]", re.MULTILINE)


@dataclass(frozen=True)
class Overrides:
    """A checked table: source id -> destination id, -1 for "never map"."""

    dst_of: dict[int, int]
    sha256: str  # of the file's bytes


def read_overrides(path: str | PathLike[str], src: Vocabulary, dst: Vocabulary) -> Overrides:
    """Read a table and find its tokens in both vocabularies.

    Raises:
        OverridesError: the table cannot be read, or a row is wrong; it names file and row.
    """
    try:
        content = _read_table(Path(path))
        text = content.decode("utf-8-sig")
        document = tomllib.loads(text)
    except OSError as error:
        raise OverridesError(f"{path}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OverridesError(f"{path}: not UTF-8 text: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OverridesError(f"{path}: not TOML: {error}") from error
    rows = _rows(path, document)
    lines = [text.count("\n", 0, found.start(0)) + 1 for found in _ROW.finditer(text)]
    dst_of: dict[int, int] = {}
    for number, row in enumerate(rows, 1):
        # Where the headers found in the text are not those of the rows, no line is better.
        line = f" (line {lines[number - 1]})" if len(lines) == len(rows) else ""
        try:
            src_id, dst_id = _read_row(row, src, dst)
            if src_id in dst_of:
                token = display_token(src[src_id])
                raise OverridesError(f"token {src_id} ({token}) already has an override above")
        except OverridesError as error:
            raise OverridesError(f"{path}: override {number}{line}: {error}") from error
        dst_of[src_id] = dst_id
    return Overrides(dst_of, hashlib.sha256(content).hexdigest())


def _read_table(path: Path) -> bytes:
    if path.exists() and not path.is_dir() and not path.is_file():
        raise OverridesError(f"{path}: not a regular file")
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OverridesError(f"{path}: more than {_MAX_BYTES} bytes are no table for people")
    return content


def _rows(path: str | PathLike[str], document: dict[str, Any]) -> list[Any]:
    unknown = [key for key in document if key != "override"]
    rows = document.get("override", [])
    if unknown or not isinstance(rows, list):
        found = f"found {unknown[0]!r}" if unknown else "`override` is not a list of tables"
        raise OverridesError(f"{path}: expected [[override]] tables only, {found}")
    return rows


def _read_row(row: Any, src: Vocabulary, dst: Vocabulary) -> tuple[int, int]:
    """The source and destination id of one row."""
    if not isinstance(row, dict):
        raise OverridesError(f"expected a table, found {row!r}")
    for key in row:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(_KEYS)}"
            raise OverridesError(f"unknown key {key!r}{hint}")
    if not isinstance(row.get("note", ""), str):
        raise OverridesError(f"note must be a string, found {row['note']!r}")
    src_id = _token_id(row, "src", src)
    if row.get("dst") is False and "dst_id" not in row:
        return src_id, UNMAPPED
    return src_id, _token_id(row, "dst", dst)


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
    near = " or ".join(f"{display_token(vocabulary[i])} ({i})" for i in nearest(text, vocabulary))
    hint = f"; the nearest are {near}" if near else ""
    raise OverridesError(f"{vocabulary.name} has no token {text!r}{hint}")


def nearest(text: str, vocabulary: Vocabulary, count: int = 3) -> list[int]:
    """The ids of the tokens that are spelled most like `text`."""
    from rapidfuzz import fuzz, process

    literals = {
        i: token.decode(errors="replace")
        for i, token in enumerate(vocabulary.packed.tolist())
        if token
    }
    # Ties, which are many, go to the lower id.
    found = process.extract(text, literals, scorer=fuzz.ratio, limit=count)
    return [token_id for _, _, token_id in found]
