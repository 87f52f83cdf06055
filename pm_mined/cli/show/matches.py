"""The matches of source tokens, explained: `pm-mined show`."""

import typer
from rich.cells import cell_len

from pm_mined.cli.output import note, print_json, print_table, table
from pm_mined.display import display_token, name_token, printable
from pm_mined.errors import PmMinedError
from pm_mined.maps.lookup import Source, choices_of, sources_of
from pm_mined.maps.token_map import Row, TokenMap
from pm_mined.reports.explain import Explainer, Explanation, check_strategy, describe

from .documents import row_document
from .find import destination_of, ids_in

_WIDEST = 40  # columns; a longer token shifts what is beside it
_CHOICES = 24  # lines for the choices of one token
_IN_A_CELL = 8  # of them in a table of several tokens


def show_matches(
    token_map: TokenMap, tokens: list[str], dst: str | None, limit: int, *, as_json: bool
) -> None:
    """Show what each of the source tokens that `tokens` name maps to."""
    source = token_map.source
    rows = [token_map.row(i) for token in tokens for i in ids_in(source, token)]
    explainer = _explainer(token_map, dst) if limit or dst is not None else None
    explanations = [explainer.explain(row.src_id, limit) if explainer else None for row in rows]
    pairs = list(zip(rows, explanations, strict=True))
    if as_json:
        print_json({"rows": [row_document(token_map, *pair, limit) for pair in pairs]})
        return
    several = len(rows) > 1
    if several or not limit:
        _print_rows(token_map, rows)
    for row, explanation in pairs if limit else ():
        if several:
            typer.echo()
        _print_block(_headline(row, explanation), _details(token_map, row, explanation, limit))


def _explainer(token_map: TokenMap, dst: str | None) -> Explainer | None:
    """The explainer of the map; None after a note with the reason."""
    try:
        check_strategy(token_map)
    except PmMinedError as error:
        note(f"no runners-up: {error}")
        return None
    vocabulary = destination_of(token_map, dst, "no runners-up")
    return Explainer(token_map, vocabulary) if vocabulary else None


# --- A table of several tokens -------------------------------------------------------------------


def _print_rows(token_map: TokenMap, rows: list[Row]) -> None:
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


def _choices_in_a_cell(token_map: TokenMap, src_id: int) -> str:
    choices = choices_of(token_map, src_id)
    shown = [f"{i}{_weight(weight, ':')}" for i, weight in choices[:_IN_A_CELL]]
    return " ".join(shown) + (" ..." if len(choices) > _IN_A_CELL else "")


def _weight(weight: float | None, before: str) -> str:
    return "" if weight is None else f"{before}{weight:.4g}"


# --- One token -----------------------------------------------------------------------------------


def _headline(row: Row, explanation: Explanation | None) -> str:
    src = name_token(row.src_token, row.src_id, row.src_kind)
    if row.dst_id < 0:
        return f"{src} is unmapped"
    how = [row.rule]
    kind = None
    if explanation and explanation.match:
        kind, relation = explanation.match.kind, explanation.match.relation
        how += [relation] if row.rule in ("special", "byte") and relation != row.rule else []
    how += [f"distance {row.distance}"] if row.distance else []
    other = kind if kind != row.src_kind else None
    return f"{src} maps to {name_token(row.dst_token, row.dst_id, other)}: {', '.join(how)}"


def _print_block(headline: str, lines: list[tuple[str, str]]) -> None:
    print_table(table(printable(headline)))
    made = table("", "")
    made.show_header = False
    for label, text in lines:
        made.add_row(f"  {label}", printable(text))
    print_table(made)


def _details(
    token_map: TokenMap, row: Row, explanation: Explanation | None, limit: int
) -> list[tuple[str, str]]:
    """The details below the headline of one token: a label and a text each."""
    label = "weights" if token_map.form == "weighted" else "largest of"
    lines = _labelled(label, _choices(token_map, row, explanation))
    if explanation is not None:
        lines += [("why", explanation.why)] if explanation.why else []
        encoding = ", ".join(name_token(token, i) for i, token in explanation.encoding or [])
        lines += [("written", encoding)] if encoding else []
        lines += _labelled("lost", _runners_up(row, explanation))
        near = [name_token(one.token, one.dst_id, one.kind) for one in explanation.nearest]
        hint = f"{', '.join(near)}; spelled alike, but no candidates"
        lines += [("nearest", hint)] if near else []
    if row.dst_id >= 0:
        which = "the first choice: " if len(choices_of(token_map, row.src_id)) > 1 else ""
        lines.append(("mapped from", which + _sources_in_a_line(token_map, row.dst_id, limit)))
    return lines


def _labelled(label: str, texts: list[str]) -> list[tuple[str, str]]:
    return [("" if i else label, text) for i, text in enumerate(texts)]


def _choices(token_map: TokenMap, row: Row, explanation: Explanation | None) -> list[str]:
    """A line for each destination token, where there are several."""
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


def _choice_named(row: Row, dst_id: int, explanation: Explanation | None, place: int) -> str:
    """A choice by name, where it is known: a map holds the bytes of the first only."""
    if explanation is not None:
        return name_token(explanation.choices[place].token, dst_id)
    return f"token {dst_id}" if place else name_token(row.dst_token, dst_id)


def _runners_up(row: Row, explanation: Explanation) -> list[str]:
    lines = _aligned(
        [
            (
                name_token(one.token, one.dst_id, one.kind if one.kind != row.src_kind else None),
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
    widths = [min(_WIDEST, max(map(cell_len, column))) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _sources_in_a_line(token_map: TokenMap, dst_id: int, limit: int) -> str:
    found = sources_of(token_map, dst_id)
    if len(found) == 1:
        return "no other token"
    named = [_source_named(token_map, one) for one in found[:limit]]
    more = [f"and {len(found) - limit:,} more"] if len(found) > limit else []
    return f"{len(found):,} tokens: {', '.join(named + more)}"


def _source_named(token_map: TokenMap, source: Source) -> str:
    row = token_map.row(source.src_id)
    how = f"choice {source.place}"
    if source.place == 1:
        how = f"{row.rule} {row.distance}" if row.distance else row.rule
    return name_token(row.src_token, row.src_id, how + _weight(source.weight, ", weight "))
