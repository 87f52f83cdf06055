"""`pm-mined audit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Field, MapFile, SrcSpec, TextFiles
from .output import AsJson, print_json, print_table, say, table, token_cell, working
from .text import usage_of

if TYPE_CHECKING:
    from pm_mined.reports.audit import Audit

_BAR = 40  # columns
_SCRIPTS = 12


def audit(
    map_file: MapFile,
    text: TextFiles = None,
    field: Field = None,
    src: SrcSpec = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with charts and a table of all tokens to this file."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows of each list of tokens.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Report how tokens are mapped, and which are not.

    With --text, everything is weighted by how often the text uses each token.

    A token is exact at distance 0, near at 1 or 2, else far. For a token that maps to several, the
    figures are those of the first. The cost of a token in text is its uses times its distance, or
    times its length if it is unmapped. docs/audit.schema.json describes the output of --json.
    """
    from pm_mined.inputs import refuse_inputs
    from pm_mined.maps.token_map import load_map
    from pm_mined.maps.verify import files_of
    from pm_mined.reports.audit import Audit

    token_map = load_map(map_file)
    if html is not None:
        refuse_inputs([html], [map_file, *(text or ()), *files_of(token_map, "src", src)])
    made = Audit(token_map, usage_of(token_map, text, field, src))
    if html is not None:
        _write_page(made, html, limit)
    if as_json:
        print_json(made.to_json(limit))
    else:
        _print_audit(made.to_json(limit))
        if html is not None:
            say(f"\n{html}  {html.stat().st_size / 1e6:.1f} MB")


def _write_page(made: "Audit", path: Path, limit: int) -> None:
    from pm_mined.atomic_file import write_atomically
    from pm_mined.errors import PmMinedError
    from pm_mined.reports.page import render_page

    with working("Writing the page"):
        page = render_page(made, limit)
        try:
            write_atomically(path, page)
        except OSError as error:
            reason = error.strerror or error
            raise PmMinedError(f"{path}: cannot write the page: {reason}") from error


def _print_audit(document: dict[str, Any]) -> None:
    from pm_mined.strategies.registry import describe_strategy

    src, dst = document["map"]["src"], document["map"]["dst"]
    say(
        f"{src['name']} ({src['size']:,} tokens) -> {dst['name']} ({dst['size']:,} tokens), "
        f"{describe_strategy(document['map']['strategy'])}"
    )
    text = document["text"]
    if text is not None:
        say(
            f"text: {', '.join(text['files'])}: {text['tokens']:,} tokens, "
            f"{text['characters']:,} characters, documents: {text['documents']:,}"
        )
    weight = "tokens" if text is None else "uses"
    if document["choices"]["form"] != "one":
        _print_choices(document["choices"], "share" if text is None else "use_share")
    for title in ("matches", "rules", "kinds"):
        _print_groups(title, [g for g in document[title] if g["tokens"]], weight)
    _print_groups("scripts", [g for g in document["scripts"] if g[weight]], weight)
    _print_histogram([g for g in document["distances"] if g[weight]], weight)
    _print_most_read(document["most_read"])
    for title in ("unmapped", "most_distant") if text is None else ("costliest", "unmapped"):
        _print_rows(title.replace("_", " "), document[title])
    _print_rows("unmapped special", document["unmapped_special"])


def _print_choices(choices: dict[str, Any], share: str) -> None:
    of = "" if share == "share" else " of the uses"
    several = choices["several"]
    say(
        f"{choices['form']}: {several['tokens']:,} tokens ({_percent(several[share])}{of}) map to "
        f"several, up to {choices['max']:,}; {choices['mean']:.2f} on average where mapped\n"
        "all figures below are of the first token that each maps to"
    )


def _print_groups(title: str, groups: list[dict[str, Any]], weight: str) -> None:
    """Print the tokens in each group, and the share of them in each class of distance."""
    from pm_mined.reports.audit import MATCHES

    shares = {"share": "share"}
    if weight == "uses":
        shares |= {"use_share": "in text", "character_share": "characters"}
    across = [] if title in ("matches", "rules") else [*MATCHES]
    counted = ("tokens", *shares.values(), *across)
    made = table(title, *counted, right=counted)
    for group in groups[:_SCRIPTS]:
        parts = (group["by_match"][match][weight] for match in across)
        made.add_row(
            group["name"],
            f"{group['tokens']:,}",
            *(_percent(group[key]) for key in shares),
            *(_percent(part / group[weight]) if group[weight] else "" for part in parts),
        )
    say("")
    print_table(made)
    if len(groups) > _SCRIPTS:
        say(f"and {len(groups) - _SCRIPTS} more")


def _percent(share: float) -> str:
    return "<0.01%" if 0 < share < 0.00005 else f"{share:.2%}"


def _print_histogram(groups: list[dict[str, Any]], weight: str) -> None:
    share = "use_share" if weight == "uses" else "share"
    made = table("distance", weight, "share", "", right=("distance", weight, "share"))
    largest = max((group[weight] for group in groups), default=1)
    for group in groups:
        bar = "█" * round(_BAR * group[weight] / largest)
        made.add_row(str(group["distance"]), f"{group[weight]:,}", _percent(group[share]), bar)
    say("")
    print_table(made)


def _print_most_read(entries: list[dict[str, Any]]) -> None:
    uses = ["uses"] if entries and "uses" in entries[0] else []
    counted = ("dst id", "by source tokens", *uses)
    made = table("most mapped to", *counted, right=counted)
    for entry in entries:
        numbers = (f"{entry[key]:,}" for key in ("readers", *uses))
        made.add_row(
            token_cell(bytes.fromhex(entry["dst_token_hex"])), str(entry["dst_id"]), *numbers
        )
    say("")
    print_table(made)


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    weighted = "uses" in rows[0]
    extra = ["uses", "cost"] if weighted else []
    made = table(
        title, "src id", "kind", "script", "rule", "distance", *extra, "dst id", "dst token",
        right=("src id", "distance", "dst id", *extra),
    )  # fmt: skip
    for row in rows:
        mapped = row["dst_id"] >= 0
        made.add_row(
            token_cell(bytes.fromhex(row["src_token_hex"])),
            str(row["src_id"]),
            row["src_kind"],
            row["script"],
            row["rule"],
            str(row["distance"]) if mapped else "",
            *(f"{row[key]:,}" for key in extra),
            str(row["dst_id"]) if mapped else "",
            token_cell(bytes.fromhex(row["dst_token_hex"])) if mapped else "(unmapped)",
        )
    say("")
    print_table(made)
