"""`pm-mined show`."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import DstSpec, MapFile
from .output import AsJson, note, print_json, print_table, say, table, working

if TYPE_CHECKING:
    from pm_mined.explain import Candidate, Explainer, Explanation
    from pm_mined.token_map import Row, TokenMap
    from pm_mined.vocabulary import Vocabulary

_NUMBER = re.compile("[0-9]{1,9}")
_WIDEST = 40  # columns; a longer token shifts what is beside it


def show(
    map_file: MapFile,
    tokens: Annotated[
        list[str],
        typer.Argument(
            metavar="TOKEN...", help="Tokens: text, id, or bytes as 0x2068.", show_default=False
        ),
    ],
    reverse: Annotated[
        bool, typer.Option("--reverse", help="TOKENs are destination tokens: show who reads them.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=0, help="Runners-up and readers to list; 0: only what is read.")
    ] = 5,
    dst: DstSpec = None,
    as_json: AsJson = False,
) -> None:
    """Show what source tokens read, and why nothing else.

    With --json, each of "rows" holds the columns of the map, "by_rules" (the id that the rules
    choose without an override), "why" (a sentence, where the token is unmapped or an override
    decided), "runners_up", "nearest" (in spelling, of what is unmapped), and "read_by": the source
    tokens that read the same. The middle four are null where the destination vocabulary is not
    here. With --reverse, each of "tokens" is a destination token with its "read_by".
    """
    from pm_mined.token_map import load_map

    token_map = load_map(map_file)
    if reverse:
        _show_readers(token_map, tokens, dst, limit, as_json=as_json)
    else:
        _show_matches(token_map, tokens, dst, limit, as_json=as_json)


# --- What source tokens read ---------------------------------------------------------------------


def _show_matches(
    token_map: "TokenMap", tokens: list[str], dst: str | None, limit: int, *, as_json: bool
) -> None:
    source = token_map.source
    rows = [token_map.row(i) for token in tokens for i in _ids_in(source, token)]
    explainer = _explainer(token_map, dst) if limit or dst is not None else None
    why = [explainer.explain(row.src_id, limit) if explainer else None for row in rows]
    if as_json:
        documents = [
            _document(token_map, row, explanation, limit)
            for row, explanation in zip(rows, why, strict=True)
        ]
        print_json({"rows": documents})
        return
    several = len(rows) > 1
    if several or not limit:
        _print_rows(rows)
    for row, explanation in zip(rows, why, strict=True) if limit else ():
        if several:
            typer.echo()
        _print_block(_headline(row, explanation), _details(token_map, row, explanation, limit))


def _ids_in(vocabulary: "Vocabulary", token: str) -> list[int]:
    ids = _ids_of(token, len(vocabulary), vocabulary.find)
    if not ids:
        raise _not_found(vocabulary, token)
    return ids


def _ids_of(token: str, size: int, find: Callable[[bytes], list[int]]) -> list[int]:
    """All ids that a person may mean: a number is an id and may be a text, too."""
    ids = set(find(os.fsencode(token)))
    if _NUMBER.fullmatch(token) and int(token) < size:
        ids.add(int(token))
    if token.startswith("0x"):
        with suppress(ValueError):  # then it is only a text
            ids.update(find(bytes.fromhex(token[2:])))
    return sorted(ids)


def _not_found(vocabulary: "Vocabulary", token: str) -> Exception:
    from pm_mined.display import display_token
    from pm_mined.errors import PmMinedError
    from pm_mined.overrides import nearest

    hint = ""
    spaced = b" " + os.fsencode(token)
    if found := vocabulary.find(spaced):
        hint = f"; {display_token(spaced)} has id {found[0]}"
    elif not _NUMBER.fullmatch(token):
        text = os.fsencode(token).decode(errors="replace")
        near = [_named(vocabulary[i], i) for i in nearest(text, vocabulary)]
        hint = f"; the nearest are {', '.join(near)}" if near else ""
    last = len(vocabulary) - 1
    return PmMinedError(f"{vocabulary.name} has no token {token!r} (ids are 0 to {last}){hint}")


def _explainer(token_map: "TokenMap", dst: str | None) -> "Explainer | None":
    """What explains the map; without it, a note has said why."""
    from pm_mined.errors import PmMinedError
    from pm_mined.explain import Explainer, check_strategy

    try:
        check_strategy(token_map)
    except PmMinedError as error:
        note(f"no runners-up: {error}")
        return None
    vocabulary = _vocabulary(token_map, dst, "no runners-up")
    return Explainer(token_map, vocabulary) if vocabulary else None


def _vocabulary(token_map: "TokenMap", dst: str | None, without: str) -> "Vocabulary | None":
    """The destination; where it is not found, a note says what is missing without it."""
    from pm_mined.errors import VocabularyError
    from pm_mined.verify import vocabulary_of

    try:
        with working(f"Reading {dst or token_map.info.dst.name}"):
            return vocabulary_of(token_map, "dst", dst)
    except VocabularyError as error:
        if dst is not None:
            raise
        note(f"{without}: {error}")
        return None


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


def _headline(row: "Row", explanation: "Explanation | None") -> str:
    src = _named(row.src_token, row.src_id, row.src_kind)
    if row.dst_id < 0:
        return f"{src} reads nothing"
    how = [row.rule]
    kind = None
    if explanation and explanation.match:
        kind, relation = explanation.match.kind, explanation.match.relation
        how += [relation] if row.rule in ("special", "byte") and relation != row.rule else []
    how += [f"distance {row.distance}"] if row.distance else []
    other = kind if kind != row.src_kind else None
    return f"{src} reads {_named(row.dst_token, row.dst_id, other)}: {', '.join(how)}"


def _named(token: bytes, token_id: int, more: str | None = None) -> str:
    """A token as a person refers to it: its text, its id, and what else is to be known."""
    from pm_mined.display import display_token

    return f"{display_token(token)} ({token_id}{f', {more}' if more else ''})"


def _print_block(headline: str, lines: list[tuple[str, str]]) -> None:
    from pm_mined.display import printable

    print_table(table(printable(headline)))
    made = table("", "")
    made.show_header = False
    for label, text in lines:
        made.add_row(f"  {label}", printable(text))
    print_table(made)


def _details(
    token_map: "TokenMap", row: "Row", explanation: "Explanation | None", limit: int
) -> list[tuple[str, str]]:
    """What stands below the headline of one token: a label and a text each."""
    lines = []
    if explanation is not None:
        lines += [("why", explanation.why)] if explanation.why else []
        lines += _labelled("lost", _runners_up(row, explanation))
        near = ", ".join(_named(one.token, one.dst_id, one.kind) for one in explanation.nearest)
        lines += [("nearest", f"{near}; spelled alike, but no candidates")] if near else []
    if row.dst_id >= 0:
        lines.append(("read by", _readers_in_a_line(token_map, row.dst_id, limit)))
    return lines


def _labelled(label: str, texts: list[str]) -> list[tuple[str, str]]:
    return [("" if i else label, text) for i, text in enumerate(texts)]


def _runners_up(row: "Row", explanation: "Explanation") -> list[str]:
    from pm_mined.explain import describe

    lines = _aligned(
        [
            (
                _named(one.token, one.dst_id, one.kind if one.kind != row.src_kind else None),
                describe(one.relation, one.distance),
                one.reason,
            )
            for one in explanation.runners_up
        ]
    )
    more = explanation.runners_up_count - len(explanation.runners_up)
    return [*lines, f"and {more:,} more"] if more else lines


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """The cells of each row side by side, each column as wide as a terminal shows it."""
    from rich.cells import cell_len

    widths = [min(_WIDEST, max(map(cell_len, column))) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _readers_in_a_line(token_map: "TokenMap", dst_id: int, limit: int) -> str:
    from pm_mined.explain import readers

    ids = readers(token_map, dst_id)
    if len(ids) == 1:
        return "no other token"
    first = [token_map.row(i) for i in ids[:limit]]
    named = [_named(row.src_token, row.src_id, _rule_and_distance(row)) for row in first]
    more = [f"and {len(ids) - limit:,} more"] if len(ids) > limit else []
    return f"{len(ids):,} tokens: {', '.join(named + more)}"


def _rule_and_distance(row: "Row") -> str:
    return f"{row.rule} {row.distance}" if row.distance else row.rule


def _document(
    token_map: "TokenMap", row: "Row", explanation: "Explanation | None", limit: int
) -> dict[str, Any]:
    document = row.to_json()
    for key in ("by_rules", "why", "runners_up_count"):
        document[key] = getattr(explanation, key, None)
    for key in ("runners_up", "nearest"):
        found = getattr(explanation, key, None)
        document[key] = None if found is None else [_candidate_document(one) for one in found]
    mapped = row.dst_id >= 0
    document["read_by"] = _readers_document(token_map, row.dst_id, limit) if mapped else None
    return document


def _candidate_document(one: "Candidate") -> dict[str, Any]:
    from pm_mined.display import token_json

    return {**one._asdict(), **token_json("token", one.token)}


def _readers_document(token_map: "TokenMap", dst_id: int, limit: int) -> dict[str, Any]:
    from pm_mined.explain import readers

    ids = readers(token_map, dst_id)
    keys = ("src_id", "src_token", "src_token_hex", "src_kind", "rule", "distance")
    rows = [token_map.row(i).to_json() for i in ids[:limit]]
    return {"count": len(ids), "first": [{key: row[key] for key in keys} for row in rows]}


# --- Who reads destination tokens ----------------------------------------------------------------


def _show_readers(
    token_map: "TokenMap", tokens: list[str], dst: str | None, limit: int, *, as_json: bool
) -> None:
    vocabulary = _vocabulary(token_map, dst, "tokens that nobody reads are not known")
    ids = [i for token in tokens for i in _destination_ids(token_map, vocabulary, token)]
    if as_json:
        print_json({"tokens": [_reverse_document(token_map, vocabulary, i, limit) for i in ids]})
        return
    for place, dst_id in enumerate(ids):
        if place:
            typer.echo()
        _print_readers(token_map, vocabulary, dst_id, limit)


def _destination_ids(
    token_map: "TokenMap", vocabulary: "Vocabulary | None", token: str
) -> list[int]:
    from pm_mined.errors import PmMinedError
    from pm_mined.explain import ids_read

    if vocabulary is not None:
        return _ids_in(vocabulary, token)
    info = token_map.info.dst
    ids = _ids_of(token, info.size, partial(ids_read, token_map))
    if not ids:
        raise PmMinedError(
            f"no source token reads {token!r} (ids are 0 to {info.size - 1}); whether "
            f"{info.name} has such a token is known with --dst only"
        )
    return ids


def _reverse_document(
    token_map: "TokenMap", vocabulary: "Vocabulary | None", dst_id: int, limit: int
) -> dict[str, Any]:
    from pm_mined.display import token_json

    token, kind = _destination_token(token_map, vocabulary, dst_id)
    shown = {"dst_token": None} if token is None else token_json("dst_token", token)
    read_by = _readers_document(token_map, dst_id, limit)
    return {"dst_id": dst_id, "dst_kind": kind, **shown, "read_by": read_by}


def _destination_token(
    token_map: "TokenMap", vocabulary: "Vocabulary | None", dst_id: int
) -> tuple[bytes | None, str | None]:
    """Bytes and kind, as far as they are known: a map holds the bytes of what is read."""
    from pm_mined.explain import readers

    if vocabulary is not None:
        return vocabulary[dst_id], vocabulary.kind(dst_id).name.lower()
    ids = readers(token_map, dst_id)
    return (token_map.row(ids[0]).dst_token if ids else None), None


def _print_readers(
    token_map: "TokenMap", vocabulary: "Vocabulary | None", dst_id: int, limit: int
) -> None:
    from pm_mined.display import display_token, printable
    from pm_mined.explain import readers

    token, kind = _destination_token(token_map, vocabulary, dst_id)
    ids = readers(token_map, dst_id)
    name = f"token {dst_id}" if token is None else _named(token, dst_id, kind)
    count = f"{len(ids):,} source token{'s' if len(ids) > 1 else ''}" if ids else "no source token"
    print_table(table(printable(f"{name} is read by {count}")))
    made = table("src id", "token", "kind", "rule", "distance", right=("src id", "distance"))
    for row in map(token_map.row, ids[:limit]):
        shown = display_token(row.src_token)
        made.add_row(str(row.src_id), shown, row.src_kind, row.rule, str(row.distance))
    if made.row_count:
        print_table(made)
    if len(ids) > limit > 0:
        say(f"and {len(ids) - limit:,} more: --limit {len(ids)} lists them all")
