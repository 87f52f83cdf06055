"""`pm-mined audit`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Field, MapFile, SrcSpec, TextFiles
from .output import AsJson, print_json, print_table, say, table, token_cell, working
from .text import usage_of

if TYPE_CHECKING:
    from pm_mined.audit import Audit

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
    """Show what is mapped how, and what is not.

    With --text, everything is weighted by how often the text uses each token.

    A token is exact at distance 0, near at 1 or 2, else far. The cost of a token in text is its
    uses times its distance, or times its length where it is unmapped. docs/audit.schema.json
    describes what --json prints.
    """
    from pm_mined.audit import Audit
    from pm_mined.token_map import load_map

    token_map = load_map(map_file)
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
    from pm_mined.page import render_page

    with working("Writing the page"):
        page = render_page(made, limit)
        try:
            write_atomically(path, page)
        except OSError as error:
            reason = error.strerror or error
            raise PmMinedError(f"{path}: cannot write the page: {reason}") from error


def _print_audit(document: dict[str, Any]) -> None:
    from pm_mined.display import describe_strategy

    src, dst = document["map"]["src"], document["map"]["dst"]
    say(
        f"{src['name']} ({src['size']:,} tokens) -> {dst['name']} ({dst['size']:,} tokens), "
        f"{describe_strategy(document['map']['strategy'])}"
    )
    text = document["text"]
    if text is not None:
        say(
            f"text: {', '.join(text['files'])}: {text['documents']:,} documents, "
            f"{text['tokens']:,} tokens, {text['characters']:,} characters"
        )
    for title in ("matches", "rules", "kinds", "scripts"):
        _print_groups(title, document[title], weighted=text is not None)
    _print_histogram(document["distances"], weighted=text is not None)
    _print_most_read(document["most_read"])
    for title in ("unmapped", "most_distant", "costliest"):
        _print_rows(title.replace("_", " "), document.get(title, []))


def _print_groups(title: str, groups: list[dict[str, Any]], *, weighted: bool) -> None:
    """How many tokens are in each group, and how many of those match how well."""
    from pm_mined.audit import MATCHES

    counted = ["tokens", "share", *(["in text", "characters"] if weighted else [])]
    across = [] if title in ("matches", "rules") else [*MATCHES]
    made = table(title, *counted, *across, right=(*counted, *across))
    shown = [group for group in groups if group["tokens"]]
    for group in shown[:_SCRIPTS]:
        weights = ("use_share", "character_share") if weighted else ()
        total = group["uses"] if weighted else group["tokens"]
        parts = (group["by_match"][match] for match in across)
        made.add_row(
            group["name"],
            f"{group['tokens']:,}",
            *(f"{group[key]:.2%}" for key in ("share", *weights)),
            *(_percent(part["uses" if weighted else "tokens"], total) for part in parts),
        )
    say("")
    print_table(made)
    if len(shown) > _SCRIPTS:
        say(f"and {len(shown) - _SCRIPTS} more")


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _print_histogram(groups: list[dict[str, Any]], *, weighted: bool) -> None:
    counted, share = ("uses", "use_share") if weighted else ("tokens", "share")
    made = table("distance", counted, "share", "", right=("distance", counted, "share"))
    shown = [group for group in groups if group[counted]]
    largest = max((group[counted] for group in shown), default=1)
    for group in shown:
        bar = "█" * round(_BAR * group[counted] / largest)
        made.add_row(str(group["distance"]), f"{group[counted]:,}", f"{group[share]:.2%}", bar)
    say("")
    print_table(made)


def _print_most_read(entries: Iterable[dict[str, Any]]) -> None:
    made = table("most read", "dst id", "by source tokens", right=("dst id", "by source tokens"))
    for entry in entries:
        token = bytes.fromhex(entry["dst_token_hex"])
        made.add_row(token_cell(token), str(entry["dst_id"]), str(entry["readers"]))
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
