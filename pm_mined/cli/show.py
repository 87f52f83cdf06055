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
    from pm_mined.maps.reading import Reader
    from pm_mined.maps.token_map import Row, TokenMap
    from pm_mined.reports.explain import Candidate, Explainer, Explanation
    from pm_mined.vocabulary import Vocabulary

_NUMBER = re.compile("[0-9]{1,9}")
_WIDEST = 40  # columns; a longer token shifts what is beside it
_CHOICES = 24  # lines for the choices of one token
_IN_A_CELL = 8  # of them in a table of several tokens


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

    With --json, each of "rows" holds the columns of the map, "choices" (all that the token reads,
    with the weights of a weighted map), "by_rules" (the id that the rules choose without an
    override), "why" (a sentence, where the token is unmapped or an override decided), "encoding"
    (how the destination tokenizer writes the token, where the strategy asks it), "runners_up",
    "nearest" (in spelling, of what is unmapped), and "read_by": the source tokens that read the
    first choice. "by_rules" to "nearest" are null where the destination vocabulary is not here.
    With --reverse, each of "tokens" is a destination token with its "read_by".
    """
    from pm_mined.maps.token_map import load_map

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
        _print_rows(token_map, rows)
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
    from pm_mined.overrides.table import nearest

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
    from pm_mined.reports.explain import Explainer, check_strategy

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
    from pm_mined.maps.verify import vocabulary_of

    try:
        with working(f"Reading {dst or token_map.info.dst.name}"):
            return vocabulary_of(token_map, "dst", dst)
    except VocabularyError as error:
        if dst is not None:
            raise
        note(f"{without}: {error}")
        return None


def _print_rows(token_map: "TokenMap", rows: "list[Row]") -> None:
    from pm_mined.display import display_token

    columns = ["src id", "token", "kind", "rule", "distance", "dst id", "dst token"]
    form = token_map.form
    columns += {"one": [], "weighted": ["all, by weight"], "grouped": ["largest of"]}[form]
    made = table(*columns, right=("src id", "distance", "dst id"))
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
            *([] if form == "one" else [_choices_in_a_cell(token_map, row.src_id)]),
        )
    print_table(made)


def _choices_in_a_cell(token_map: "TokenMap", src_id: int) -> str:
    from pm_mined.maps.reading import choices_of

    choices = choices_of(token_map, src_id)
    shown = [f"{i}{_weight(weight, ':')}" for i, weight in choices[:_IN_A_CELL]]
    return " ".join(shown) + (" ..." if len(choices) > _IN_A_CELL else "")


def _weight(weight: float | None, before: str) -> str:
    return "" if weight is None else f"{before}{weight:.4g}"


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
    from pm_mined.maps.reading import choices_of

    label = "weights" if token_map.form == "weighted" else "largest of"
    lines = _labelled(label, _choices(token_map, row, explanation))
    if explanation is not None:
        lines += [("why", explanation.why)] if explanation.why else []
        encoding = ", ".join(_named(token, i) for i, token in explanation.encoding or [])
        lines += [("written", encoding)] if encoding else []
        lines += _labelled("lost", _runners_up(row, explanation))
        near = ", ".join(_named(one.token, one.dst_id, one.kind) for one in explanation.nearest)
        lines += [("nearest", f"{near}; spelled alike, but no candidates")] if near else []
    if row.dst_id >= 0:
        which = "the first choice: " if len(choices_of(token_map, row.src_id)) > 1 else ""
        lines.append(("read by", which + _readers_in_a_line(token_map, row.dst_id, limit)))
    return lines


def _choices(token_map: "TokenMap", row: "Row", explanation: "Explanation | None") -> list[str]:
    """A line for each destination token, where there are several."""
    from pm_mined.maps.reading import choices_of
    from pm_mined.reports.explain import describe

    choices = choices_of(token_map, row.src_id)
    if len(choices) < 2:
        return []
    known = explanation.choices if explanation else []
    relations = [describe(one.relation, one.distance) for one in known] or [""] * len(choices)
    lines = _aligned(
        [
            (_choice_named(row, i, explanation, place), _weight(weight, ""), relations[place])
            for place, (i, weight) in enumerate(choices[:_CHOICES])
        ]
    )
    more = len(choices) - len(lines)
    return [*lines, f"and {more:,} more: --json lists them all"] if more else lines


def _choice_named(row: "Row", dst_id: int, explanation: "Explanation | None", place: int) -> str:
    """A choice by name, where it is known: a map holds the bytes of the first only."""
    if explanation is not None:
        return _named(explanation.choices[place].token, dst_id)
    return f"token {dst_id}" if place else _named(row.dst_token, dst_id)


def _labelled(label: str, texts: list[str]) -> list[tuple[str, str]]:
    return [("" if i else label, text) for i, text in enumerate(texts)]


def _runners_up(row: "Row", explanation: "Explanation") -> list[str]:
    from pm_mined.reports.explain import describe

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
    from pm_mined.maps.reading import readers

    found = readers(token_map, dst_id)
    if len(found) == 1:
        return "no other token"
    named = [_reader_named(token_map, one) for one in found[:limit]]
    more = [f"and {len(found) - limit:,} more"] if len(found) > limit else []
    return f"{len(found):,} tokens: {', '.join(named + more)}"


def _reader_named(token_map: "TokenMap", reader: "Reader") -> str:
    row = token_map.row(reader.src_id)
    how = f"choice {reader.place}"
    if reader.place == 1:
        how = f"{row.rule} {row.distance}" if row.distance else row.rule
    return _named(row.src_token, row.src_id, how + _weight(reader.weight, ", weight "))


def _document(
    token_map: "TokenMap", row: "Row", explanation: "Explanation | None", limit: int
) -> dict[str, Any]:
    document = {**row.to_json(), "choices": _choices_document(token_map, row, explanation)}
    for key in ("by_rules", "why", "runners_up_count"):
        document[key] = getattr(explanation, key, None)
    encoding = explanation.encoding if explanation else None
    document["encoding"] = encoding and [_token_document(i, token) for i, token in encoding]
    for key in ("runners_up", "nearest"):
        found = getattr(explanation, key, None)
        document[key] = None if found is None else [_candidate_document(one) for one in found]
    mapped = row.dst_id >= 0
    document["read_by"] = _readers_document(token_map, row.dst_id, limit) if mapped else None
    return document


def _choices_document(
    token_map: "TokenMap", row: "Row", explanation: "Explanation | None"
) -> list[dict[str, Any]]:
    from pm_mined.maps.reading import choices_of

    choices = choices_of(token_map, row.src_id)
    tokens: list[bytes | None] = [row.dst_token, *[None] * (len(choices) - 1)]
    if explanation is not None:
        tokens = [one.token for one in explanation.choices]
    return [
        {**_token_document(i, token), "weight": weight}
        for (i, weight), token in zip(choices, tokens, strict=False)
    ]


def _token_document(dst_id: int, token: bytes | None) -> dict[str, Any]:
    """A destination token; null where its bytes are not known."""
    from pm_mined.display import token_json

    unknown = {"dst_token": None, "dst_token_hex": None}
    return {"dst_id": dst_id, **(unknown if token is None else token_json("dst_token", token))}


def _candidate_document(one: "Candidate") -> dict[str, Any]:
    from pm_mined.display import token_json

    return {**one._asdict(), **token_json("token", one.token)}


def _readers_document(token_map: "TokenMap", dst_id: int, limit: int) -> dict[str, Any]:
    from pm_mined.maps.reading import readers

    found = readers(token_map, dst_id)
    first = [_reader_document(token_map, one) for one in found[:limit]]
    return {"count": len(found), "first": first}


def _reader_document(token_map: "TokenMap", reader: "Reader") -> dict[str, Any]:
    """Rule and distance are those of a first choice, and null for any other."""
    row = token_map.row(reader.src_id).to_json()
    keys = ("src_id", "src_token", "src_token_hex", "src_kind", "rule", "distance")
    document = {key: row[key] for key in keys}
    if reader.place > 1:
        document |= {"rule": None, "distance": None}
    return {**document, "choice": reader.place, "weight": reader.weight}


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
    from pm_mined.maps.reading import ids_read

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
    token, kind = _destination_token(token_map, vocabulary, dst_id)
    read_by = _readers_document(token_map, dst_id, limit)
    return {**_token_document(dst_id, token), "dst_kind": kind, "read_by": read_by}


def _destination_token(
    token_map: "TokenMap", vocabulary: "Vocabulary | None", dst_id: int
) -> tuple[bytes | None, str | None]:
    """Bytes and kind, as far as they are known: a map holds the bytes of first choices."""
    from pm_mined.maps.reading import readers

    if vocabulary is not None:
        return vocabulary[dst_id], vocabulary.kind(dst_id).name.lower()
    first = [one.src_id for one in readers(token_map, dst_id) if one.place == 1]
    return (token_map.row(first[0]).dst_token if first else None), None


def _print_readers(
    token_map: "TokenMap", vocabulary: "Vocabulary | None", dst_id: int, limit: int
) -> None:
    from pm_mined.display import printable
    from pm_mined.maps.reading import readers

    token, kind = _destination_token(token_map, vocabulary, dst_id)
    found = readers(token_map, dst_id)
    name = f"token {dst_id}" if token is None else _named(token, dst_id, kind)
    plural = "s" if len(found) > 1 else ""
    count = f"{len(found):,} source token{plural}" if found else "no source token"
    print_table(table(printable(f"{name} is read by {count}")))
    columns = ["src id", "token", "kind", "rule", "distance"]
    columns += [] if token_map.form == "one" else ["choice"]
    columns += ["weight"] if token_map.form == "weighted" else []
    made = table(*columns, right=("src id", "distance", "choice", "weight"))
    for reader in found[:limit]:
        made.add_row(*_reader_cells(token_map, reader)[: len(columns)])
    if made.row_count:
        print_table(made)
    if len(found) > limit > 0:
        say(f"and {len(found) - limit:,} more: --limit {len(found)} lists them all")


def _reader_cells(token_map: "TokenMap", reader: "Reader") -> list[str]:
    from pm_mined.display import display_token

    row = token_map.row(reader.src_id)
    how = [row.rule, str(row.distance)] if reader.place == 1 else ["", ""]
    shown = [str(row.src_id), display_token(row.src_token), row.src_kind, *how]
    return [*shown, str(reader.place), _weight(reader.weight, "")]
