"""`pm-mined overrides`: tables of tokens that a person maps by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import DstSpec, Field, MapFile, SrcSpec, TextFiles
from .output import AsJson, note, print_json, print_table, say, table, working
from .text import usage_of

if TYPE_CHECKING:
    from pm_mined.maps.token_map import TokenMap
    from pm_mined.overrides.table import Overrides
    from pm_mined.vocabulary import Vocabulary

app = typer.Typer(
    help="Tables of tokens that a person maps by hand.",
    no_args_is_help=True,
)

Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")]


@app.command("suggest")
def suggest(
    map_file: MapFile,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where to write the table; default: print it."),
    ] = None,
    force: Force = False,
    dst: DstSpec = None,
    src: SrcSpec = None,
    unmapped: Annotated[
        bool, typer.Option("--unmapped", help="Also the unmapped tokens that --text uses most.")
    ] = False,
    text: TextFiles = None,
    field: Field = None,
    limit: Annotated[
        int, typer.Option(min=1, help="How many unmapped tokens, by uses times characters.")
    ] = 20,
) -> None:
    """Suggest counterparts for special tokens, as a table to edit.

    It lists the special tokens without a counterpart, and text that looks special, each with what
    it might map to, best first. Every suggestion is a comment: as written, the table changes
    nothing.
    """
    if unmapped != bool(text):
        raise typer.BadParameter("--unmapped and --text belong together: give both, or neither")
    from pm_mined.inputs import refuse_inputs
    from pm_mined.maps.token_map import load_map
    from pm_mined.maps.verify import files_of, vocabulary_of
    from pm_mined.overrides.suggest import Suggester
    from pm_mined.overrides.suggested_table import header_lines, override_table
    from pm_mined.overrides.writing import check_new, write_table

    if output is not None and not force:
        check_new(output)
    token_map = load_map(map_file)
    if output is not None:
        read = [*files_of(token_map, "src", src), *files_of(token_map, "dst", dst)]
        refuse_inputs([output], [map_file, *(text or ()), *read])
    usage = usage_of(token_map, text, field, src)
    with working("Looking for counterparts"):
        suggester = Suggester(token_map, vocabulary_of(token_map, "dst", dst))
        used_most = suggester.unmapped_tokens(usage.uses, limit) if usage is not None else []
        header = header_lines(token_map, map_file, output or Path("overrides.toml"), src, dst)
        content = override_table(suggester, used_most, header)
    if output is None:
        typer.echo(content, nl=False)
        return
    write_table(output, content, force=force)
    count = len(suggester.special_tokens) + len(used_most)
    say(f"{output}  {count} tokens to decide; how to, and what to run then, is said in it")


@app.command("check")
def check(
    table_file: Annotated[Path, typer.Argument(metavar="TABLE", help="An override table.")],
    src: Annotated[str, typer.Option(help="Source vocabulary: name, path or Hub repository.")],
    dst: Annotated[str, typer.Option(help="Destination vocabulary, likewise.")],
    as_json: AsJson = False,
) -> None:
    """Check a table, and show its rows as a build understands them.

    Notes name the rows that a person may not have meant: those that change nothing, that map to
    reserved tokens, or that mix special tokens and ordinary text. With --json they are in `doubts`.
    """
    from pm_mined.build import build_map
    from pm_mined.overrides.table import read_overrides
    from pm_mined.tokenizer.load import load_vocabulary

    with working(f"Reading {src} and {dst}"):
        vocabularies = load_vocabulary(src), load_vocabulary(dst)
    read = read_overrides(table_file, *vocabularies)
    with working("Matching without the table"):
        without = build_map(*vocabularies)
    rows = _described(read, *vocabularies, without)
    if as_json:
        names = {"src": vocabularies[0].name, "dst": vocabularies[1].name}
        print_json({"table": str(table_file), "sha256": read.sha256, **names, "rows": rows})
        return
    _print_rows(table_file, rows)
    for row in rows:
        for doubt in row["doubts"]:
            note(f"{table_file}: {row['where']}: {doubt}")


def _described(
    read: "Overrides", src: "Vocabulary", dst: "Vocabulary", without: "TokenMap"
) -> list[dict[str, Any]]:
    """One JSON object per row: what it says, what it maps to without it, what is doubtful."""
    from pm_mined.overrides.table import doubts

    described = []
    for row in read.rows:
        otherwise = int(without.dst_id[row.src_id])
        described.append(
            {
                "where": row.where,
                **_token(src, "src", row.src_id),
                **_token(dst, "dst", row.dst_id),
                **_token(dst, "otherwise", otherwise),
                "note": row.note,
                "doubts": doubts(row, src, dst, otherwise),
            }
        )
    return described


def _token(vocabulary: "Vocabulary", side: str, token_id: int) -> dict[str, Any]:
    """An id and its token as `pm-mined show --json` has them; no bytes where it is -1."""
    from pm_mined.display import token_json

    token = vocabulary[token_id] if token_id >= 0 else b""
    return {f"{side}_id": token_id, **token_json(f"{side}_token", token)}


def _print_rows(table_file: Path, rows: list[dict[str, Any]]) -> None:
    if not rows:
        say(f"{table_file}: valid, and decides nothing yet")
        return
    columns = ("src id", "token", "dst id", "maps to", "without the row", "note")
    made = table(*columns, right=("src id", "dst id"))
    for row in rows:
        made.add_row(
            str(row["src_id"]),
            _shown(row, "src"),
            str(row["dst_id"]) if row["dst_id"] >= 0 else "",
            _shown(row, "dst") or "(never)",
            _shown(row, "otherwise") or "(unmapped)",
            _one_line(row["note"]),
        )
    print_table(made)


def _shown(row: dict[str, Any], side: str) -> str:
    from pm_mined.display import display_token

    return display_token(bytes.fromhex(row[f"{side}_token_hex"]))


def _one_line(text: str) -> str:
    from pm_mined.display import printable

    return printable(" ".join(text.split()))


@app.command("list")
def list_tables(as_json: AsJson = False) -> None:
    """List the example tables that come with pm-mined."""
    from pm_mined.overrides.shipped import shipped_tables

    tables = [
        {"name": name, "about": about, "file": str(path)}
        for name, (path, about) in shipped_tables().items()
    ]
    if as_json:
        print_json({"tables": tables})
        return
    made = table("name", "about")
    for entry in tables:
        made.add_row(entry["name"], entry["about"])
    print_table(made)


@app.command("copy")
def copy(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name that `overrides list` shows.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The new file; default NAME.toml here.")
    ] = None,
    force: Force = False,
) -> None:
    """Copy an example table, to edit and to build with."""
    from pm_mined.inputs import refuse_inputs
    from pm_mined.overrides.shipped import shipped_table, shipped_tables
    from pm_mined.overrides.writing import write_table

    path = output or Path(f"{name}.toml")
    content = shipped_table(name)
    refuse_inputs([path], [shipped for shipped, _ in shipped_tables().values()])
    write_table(path, content, force=force)
    say(f"{path}")
