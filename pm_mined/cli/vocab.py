"""`pm-mined vocab`: list vocabularies, describe and check one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import AsJson, print_json, print_table, say, table, working
from .vocab_check import check

if TYPE_CHECKING:
    from pm_mined.tokenizer.registry import NamedVocabulary
    from pm_mined.vocabulary import Vocabulary

app = typer.Typer(help="List vocabularies, describe and check one.", no_args_is_help=True)
app.command("check")(check)


@app.command("list")
def list_vocabularies(as_json: AsJson = False) -> None:
    """List the named vocabularies, and how to get missing ones."""
    from pm_mined.tokenizer.registry import how_to_get, named_vocabularies

    entries: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "aliases": list(entry.aliases),
            "about": entry.about,
            "available": _where(entry),
            "get": how_to_get(entry),
        }
        for entry in named_vocabularies().values()
    ]
    if as_json:
        print_json({"vocabularies": entries})
        return
    made = table("name", "also", "what", "here", "how to get it")
    for entry in entries:
        here = entry["available"] or "no"
        get = "" if entry["available"] else entry["get"]
        made.add_row(entry["name"], " ".join(entry["aliases"]), entry["about"], here, get)
    print_table(made)


def _where(entry: "NamedVocabulary") -> str | None:
    from pm_mined.tokenizer.registry import is_in_hub_cache

    if entry.installed_file() is not None:
        return "package"
    return "hub cache" if is_in_hub_cache(entry) else None


@app.command("info")
def info(
    name: Annotated[str, typer.Argument(help="A name, a path or a Hub repository.")],
    as_json: AsJson = False,
) -> None:
    """Show size, kinds, special tokens and fingerprint of a vocabulary."""
    from pm_mined.tokenizer.load import load_vocabulary

    with working(f"Reading {name}"):
        vocabulary = load_vocabulary(name)
    document: dict[str, Any] = {
        "name": vocabulary.name,
        "source": vocabulary.source,
        "size": len(vocabulary),
        "kinds": vocabulary.kind_counts,
        "special_tokens": _special_tokens(vocabulary),
        "fingerprint": vocabulary.fingerprint,
    }
    if as_json:
        print_json(document)
        return
    _print_info(vocabulary, document["special_tokens"])


def _print_info(vocabulary: "Vocabulary", special_tokens: list[dict[str, Any]]) -> None:
    from pm_mined.display import printable

    say(f"name         {vocabulary.name}\nsource       {vocabulary.source}")
    say(f"size         {len(vocabulary):,}")
    kinds = ", ".join(
        f"{count:,} {kind}" for kind, count in vocabulary.kind_counts.items() if count
    )
    say(f"kinds        {kinds}\nfingerprint  {vocabulary.fingerprint}\n")
    made = table("id", "special token", "role", right=("id",))
    for token in special_tokens:
        made.add_row(str(token["id"]), printable(token["token"]), token["role"] or "")
    print_table(made)


def _special_tokens(vocabulary: "Vocabulary") -> list[dict[str, Any]]:
    from pm_mined.kernels.tokens import Kind
    from pm_mined.tokenizer.special_tokens import role_in

    return [
        {
            "id": i,
            "token": vocabulary[i].decode(errors="replace"),
            "role": role_in(vocabulary, i),
        }
        for i in vocabulary.ids_of_kind(Kind.SPECIAL)
    ]
