"""Override tables as text: rows and tokens in TOML, and files that no edit is lost in."""

import unicodedata
from pathlib import Path

from pm_mined.atomic_file import write_atomically
from pm_mined.errors import OverridesError
from pm_mined.kernels.tokens import UNMAPPED
from pm_mined.vocabulary import Vocabulary

from .table import OverrideRow

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def row_text(row: OverrideRow, src: Vocabulary, dst: Vocabulary) -> str:
    """The row as an inline table of TOML: one line that `read_overrides` reads back."""
    parts = [token_text(row.src_id, "src", src)]
    parts.append("dst = false" if row.dst_id == UNMAPPED else token_text(row.dst_id, "dst", dst))
    if row.note:
        parts.append(f"note = {toml_string(row.note)}")
    return f"{{ {', '.join(parts)} }}"


def token_text(token_id: int, side: str, vocabulary: Vocabulary) -> str:
    """`src = "..."`, or `src_id = ...` where no text names this token only."""
    token = vocabulary[token_id]
    if vocabulary.find(token) == [token_id]:
        try:
            return f"{side} = {toml_string(token.decode())}"
        except UnicodeDecodeError:
            pass
    return f"{side}_id = {token_id}"


def toml_string(text: str) -> str:
    r"""`text` as a basic string of TOML, with all escaped that an editor might not show.

    >>> print(toml_string('<|"▁|>'), toml_string("a\x00\u202e"), toml_string("\u0301"))
    "<|\"▁|>" "a\u0000\u202E" "\u0301"
    """
    # A combining mark would join the quotation mark before it.
    joins = unicodedata.category(text[:1] or " ").startswith("M")
    first = _escape(text[0]) if joins else ""
    return f'"{first}{"".join(map(_escaped, text[joins:]))}"'


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() and letter not in '"\\' else _escape(letter)


def _escape(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    return f"\\u{ord(letter):04X}" if letter <= "\uffff" else f"\\U{ord(letter):08X}"


def check_new(path: Path) -> None:
    """Make sure that no file is replaced that a person may have edited.

    Raises:
        OverridesError: there is one.
    """
    if path.exists() or path.is_symlink():
        raise OverridesError(
            f"{path}: is there already and may hold edits; name another file with -o, or replace "
            "it with --force"
        )


def write_table(path: Path, content: str, *, force: bool) -> None:
    """Write a table for a person to edit; an old one is replaced by force only.

    Raises:
        OverridesError: there is a file already, or it cannot be written.
    """
    if not force:
        check_new(path)
    try:
        write_atomically(path, content.encode())
    except OSError as error:
        raise OverridesError(f"{path}: cannot write: {error.strerror or error}") from error
