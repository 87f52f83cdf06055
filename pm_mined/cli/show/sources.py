"""The source tokens that map to a destination token: `pm-mined show --reverse`."""

from functools import partial
from typing import Any

import typer

from pm_mined.cli.output import print_json, print_table, say, table
from pm_mined.display import display_token, name_token, printable
from pm_mined.errors import PmMinedError
from pm_mined.maps.lookup import Source, first_choices, sources_of
from pm_mined.maps.token_map import TokenMap
from pm_mined.vocabulary import Vocabulary

from .documents import sources_document, token_document
from .find import destination_of, find_ids, ids_in


def show_sources(
    token_map: TokenMap, tokens: list[str], dst: str | None, limit: int, *, as_json: bool
) -> None:
    """Show the source tokens that map to each of the destination tokens that `tokens` name."""
    vocabulary = destination_of(token_map, dst, "tokens that nothing maps to are not known")
    ids = [i for token in tokens for i in _destination_ids(token_map, vocabulary, token)]
    if as_json:
        print_json({"tokens": [_document(token_map, vocabulary, i, limit) for i in ids]})
        return
    for place, dst_id in enumerate(ids):
        if place:
            typer.echo()
        _print_sources(token_map, vocabulary, dst_id, limit)


def _destination_ids(token_map: TokenMap, vocabulary: Vocabulary | None, token: str) -> list[int]:
    if vocabulary is not None:
        return ids_in(vocabulary, token)
    info = token_map.info.dst
    ids = find_ids(token, info.size, partial(first_choices, token_map))
    if not ids:
        raise PmMinedError(
            f"no source token maps to {token!r} (ids are 0 to {info.size - 1}); whether "
            f"{info.name} has such a token is known with --dst only"
        )
    return ids


def _document(
    token_map: TokenMap, vocabulary: Vocabulary | None, dst_id: int, limit: int
) -> dict[str, Any]:
    token, kind = _destination_token(token_map, vocabulary, dst_id)
    read_by = sources_document(token_map, dst_id, limit)
    return {**token_document(dst_id, token), "dst_kind": kind, "read_by": read_by}


def _destination_token(
    token_map: TokenMap, vocabulary: Vocabulary | None, dst_id: int
) -> tuple[bytes | None, str | None]:
    """Bytes and kind, as far as they are known: a map holds the bytes of first choices."""
    if vocabulary is not None:
        return vocabulary[dst_id], vocabulary.kind(dst_id).name.lower()
    first = [one.src_id for one in sources_of(token_map, dst_id) if one.place == 1]
    return (token_map.row(first[0]).dst_token if first else None), None


def _print_sources(
    token_map: TokenMap, vocabulary: Vocabulary | None, dst_id: int, limit: int
) -> None:
    token, kind = _destination_token(token_map, vocabulary, dst_id)
    found = sources_of(token_map, dst_id)
    name = f"token {dst_id}" if token is None else name_token(token, dst_id, kind)
    plural = "s" if len(found) > 1 else ""
    count = f"{len(found):,} source token{plural}" if found else "no source token"
    print_table(table(printable(f"{name} is mapped from {count}")))
    columns = ["src id", "token", "kind", "rule", "distance"]
    columns += [] if token_map.form == "one" else ["choice"]
    columns += ["weight"] if token_map.form == "weighted" else []
    made = table(*columns, right=("src id", "distance", "choice", "weight"))
    for source in found[:limit]:
        made.add_row(*_cells(token_map, source)[: len(columns)])
    if made.row_count:
        print_table(made)
    if len(found) > limit > 0:
        say(f"and {len(found) - limit:,} more: --limit {len(found)} lists them all")


def _cells(token_map: TokenMap, source: Source) -> list[str]:
    row = token_map.row(source.src_id)
    how = [row.rule, str(row.distance)] if source.place == 1 else ["", ""]
    weight = "" if source.weight is None else f"{source.weight:.4g}"
    shown = [str(row.src_id), display_token(row.src_token), row.src_kind, *how]
    return [*shown, str(source.place), weight]
