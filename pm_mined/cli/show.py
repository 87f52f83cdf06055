"""`pm-mined show`."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import AsJson, print_json, print_table, table

if TYPE_CHECKING:
    from pm_mined.token_map import Row, TokenMap

_NUMBER = re.compile("[0-9]{1,9}")


def show(
    map_file: Annotated[Path, typer.Argument(metavar="MAP", help="A map file.")],
    tokens: Annotated[
        list[str],
        typer.Argument(metavar="TOKEN...", help="Source tokens: text, id, or bytes as 0x2068."),
    ],
    as_json: AsJson = False,
) -> None:
    """Show what single source tokens are mapped to, and by which rule."""
    from pm_mined.token_map import load_map

    token_map = load_map(map_file)
    rows = [token_map.row(i) for token in tokens for i in _ids_of(token_map, token)]
    if as_json:
        print_json({"rows": [_as_json(row) for row in rows]})
    else:
        _print_rows(rows)


def _ids_of(token_map: "TokenMap", token: str) -> list[int]:
    """All ids that a person may mean: a number is an id and may be a text, too."""
    ids = set(token_map.find(os.fsencode(token)))
    if _NUMBER.fullmatch(token) and int(token) < len(token_map):
        ids.add(int(token))
    if token.startswith("0x"):
        with suppress(ValueError):  # then it is only a text
            ids.update(token_map.find(bytes.fromhex(token[2:])))
    if not ids:
        raise _not_found(token_map, token)
    return sorted(ids)


def _not_found(token_map: "TokenMap", token: str) -> Exception:
    from pm_mined.display import display_token
    from pm_mined.errors import PmMinedError

    spaced = b" " + os.fsencode(token)
    found = token_map.find(spaced)
    hint = f"; {display_token(spaced)} has id {found[0]}" if found else ""
    name, last = token_map.info.src.name, len(token_map) - 1
    return PmMinedError(f"{name} has no token {token!r} (ids are 0 to {last}){hint}")


def _as_json(row: "Row") -> dict[str, Any]:
    """Bytes as text where they are text, and always as hexadecimal digits."""
    document = row._asdict()
    for key in ("src_token", "dst_token"):
        token = document[key]
        document[key] = token.decode(errors="backslashreplace")
        document[f"{key}_hex"] = token.hex()
    return document


def _print_rows(rows: "list[Row]") -> None:
    from pm_mined.display import display_token

    numbers = ("src id", "distance", "dst id")
    made = table(
        "src id", "token", "kind", "rule", "distance", "dst id", "dst token", right=numbers
    )
    for row in rows:
        mapped = row.dst_id >= 0
        made.add_row(
            str(row.src_id),
            display_token(row.src_token),
            row.src_kind,
            row.rule,
            str(row.distance) if mapped else "",
            str(row.dst_id) if mapped else "",
            display_token(row.dst_token) if mapped else "(unmapped)",
        )
    print_table(made)
