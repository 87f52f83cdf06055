"""`pm-mined compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Field, SrcSpec, TextFiles
from .output import AsJson, print_json, print_table, say, table
from .shell import settings
from .text import usage_of

_FAILED = 2  # the exit status of a comparison that failed; 1 is that the maps differ


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A map file.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    text: TextFiles = None,
    field: Field = None,
    src: SrcSpec = None,
    limit: Annotated[int, typer.Option(min=0, help="Examples of each row of the table.")] = 3,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print nothing and read no text; the exit status tells."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show where two maps between the same vocabularies differ.

    Maps are equal if every token has the same destination, rule and distance, and the same
    choices with the same weights where it maps to several. The exit status is 0 if they are, 1 if
    they differ, and 2 if they cannot be compared.

    The keys of --json: equal; a and b (file, strategy, overrides_sha256, tool_version); src and
    dst; text; other_dst, the tokens that map to another token, otherwise, those that map to the
    same by another rule or at another distance, and other_choices, those with the same first
    choice and others beside it (each tokens and share; with --text, uses and use_share); groups
    (same_dst, same_match, rule_a, rule_b, these figures, and examples).
    """
    settings.failed = _FAILED
    from pm_mined.maps.token_map import load_map
    from pm_mined.reports.compare import Comparison

    maps = load_map(a), load_map(b)
    compared = Comparison(*maps)  # before any text is read, which takes its time
    if not quiet:
        compared = Comparison(*maps, usage_of(maps[0], text, field, src))
        document = compared.to_json(limit)
        for name, file in (("a", a), ("b", b)):
            document[name] = {"file": str(file), **document[name]}
        if as_json:
            print_json(document)
        else:
            _print_comparison(document)
    if not compared.equal:
        raise typer.Exit(1)


def _print_comparison(document: dict[str, Any]) -> None:
    for name in ("a", "b"):
        _print_map(name, document[name])
    src, dst, text = document["src"], document["dst"], document["text"]
    say(f"{src['name']} ({src['size']:,} tokens) -> {dst['name']} ({dst['size']:,} tokens)")
    if text is not None:
        files = ", ".join(text["files"])
        say(f"text: {files}: {text['documents']:,} documents, {text['tokens']:,} tokens")
    if document["equal"]:
        say("\nequal: every token has the same destination, rule and distance")
        return
    say("")
    _print_figures("map to another token", document["other_dst"], src["size"])
    what = "map to the same by another rule or distance"
    _print_figures(what, document["otherwise"], src["size"])
    if document["other_choices"]["tokens"]:
        what = "have the same first choice, and others beside it"
        _print_figures(what, document["other_choices"], src["size"])
    _print_groups(document["groups"], weighted=text is not None)
    for group in document["groups"]:
        if group["examples"]:
            say(f"\n{group['rule_a']} -> {group['rule_b']}, {_difference(group)}")
            show = _print_choices if group["same_match"] else _print_examples
            show(group["examples"], weighted=text is not None)


def _print_map(name: str, about: dict[str, Any]) -> None:
    from pm_mined.strategies.registry import describe_strategy

    digest = about["overrides_sha256"]
    overrides = f"overrides {digest[:12]}" if digest else "no overrides"
    how = describe_strategy(about["strategy"])
    say(f"{name.upper()}  {about['file']}: {how}, {overrides}")


def _print_figures(what: str, figures: dict[str, Any], size: int) -> None:
    weighted = f", {figures['use_share']:.2%} of the uses" if "uses" in figures else ""
    say(f"{figures['tokens']:,} of {size:,} tokens ({figures['share']:.2%}{weighted}) {what}")


def _print_groups(groups: list[dict[str, Any]], *, weighted: bool) -> None:
    figures = ("tokens", "share", *(("uses", "share of uses") if weighted else ()))
    made = table("rule in A", "in B", "maps to", *figures, right=figures)
    for group in groups:
        cells = [f"{group['tokens']:,}", f"{group['share']:.2%}"]
        if weighted:
            cells += [f"{group['uses']:,}", f"{group['use_share']:.2%}"]
        made.add_row(group["rule_a"], group["rule_b"], _difference(group), *cells)
    say("")
    print_table(made)


def _difference(group: dict[str, Any]) -> str:
    if group["same_match"]:
        return "other choices"
    return "the same" if group["same_dst"] else "another"


def _print_examples(examples: list[dict[str, Any]], *, weighted: bool) -> None:
    uses = ("uses",) if weighted else ()
    columns = ("src id", "token", "in A", "id", "distance", "in B", "id", "distance", *uses)
    made = table(*columns, right=("src id", "id", "distance", *uses))
    for example in examples:
        cells = [str(example["src_id"]), _shown(example["src_token_hex"])]
        for match in (example["a"], example["b"]):
            mapped = match["dst_id"] >= 0
            cells += [
                _shown(match["dst_token_hex"]) if mapped else "(unmapped)",
                str(match["dst_id"]) if mapped else "",
                str(match["distance"]) if mapped else "",
            ]
        made.add_row(*cells, *([f"{example['uses']:,}"] if weighted else []))
    print_table(made)


def _print_choices(examples: list[dict[str, Any]], *, weighted: bool) -> None:
    uses = ("uses",) if weighted else ()
    made = table("src id", "token", "in A", "in B", *uses, right=("src id", *uses))
    for example in examples:
        cells = [str(example["src_id"]), _shown(example["src_token_hex"])]
        cells += [_choices(example[of]) for of in "ab"]
        made.add_row(*cells, *([f"{example['uses']:,}"] if weighted else []))
    print_table(made)


def _choices(match: dict[str, Any]) -> str:
    """The ids of all choices, with their weights if they have any."""
    ids = match.get("dst_ids", [match["dst_id"]])
    if "weights" not in match:
        return " ".join(map(str, ids))
    pairs = zip(ids, match["weights"], strict=True)
    return " ".join(f"{dst_id}:{weight:.4g}" for dst_id, weight in pairs)


def _shown(token_hex: str) -> str:
    from pm_mined.display import display_token

    return display_token(bytes.fromhex(token_hex))
