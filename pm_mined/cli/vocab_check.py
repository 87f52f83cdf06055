"""`pm-mined vocab check`: a vocabulary against the library of its tokenizer."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import AsJson, print_json, print_table, say, table, working

if TYPE_CHECKING:
    from pm_mined.tokenizer.checks.check import Check

_SHOWN = 20  # differences


def check(
    name: Annotated[str, typer.Argument(help="A name, a path, a folder or a Hub repository.")],
    as_json: AsJson = False,
) -> None:
    """Compare every token with what the tokenizer's own library writes.

    Ordinary tokens are compared as they are written in the middle of a text, special tokens by
    their literal. Exit status 1 if any differ.
    """
    from pm_mined.tokenizer.checks.check import check_vocabulary

    with working(f"Checking {name}"):
        found = check_vocabulary(name)
    if as_json:
        print_json(_document(found))
    else:
        _print(found)
    if found.differences:
        raise typer.Exit(1)


def _document(found: "Check") -> dict[str, Any]:
    return {
        "name": found.vocabulary.name,
        "source": found.vocabulary.source,
        "size": len(found.vocabulary),
        "libraries": found.libraries,
        "checked": found.checked,
        "differences": [one._asdict() for one in found.differences],
        "unchecked": [{"reason": why, "ids": ids} for why, ids in found.unchecked.items()],
        "notes": found.notes,
    }


def _print(found: "Check") -> None:
    from pm_mined.display import printable

    differing = len(found.differences)
    say(
        f"{found.vocabulary.name}: {found.checked:,} of {len(found.vocabulary):,} ids checked "
        f"against {' and '.join(found.libraries)}: "
        f"{differing:,} difference{'' if differing == 1 else 's'}"
    )
    for reason, ids in found.unchecked.items():
        say(f"{len(ids):,} not checked: {reason} ({_some(ids)})")
    for reason in found.notes:
        say(f"note: {reason}")
    if not differing:
        return
    made = table("id", "here", "library", right=("id",))
    for one in found.differences[:_SHOWN]:
        made.add_row(str(one.token_id), printable(one.ours), printable(one.theirs))
    print_table(made)
    if differing > _SHOWN:
        say(f"... and {differing - _SHOWN:,} more: --json lists all")


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:3])) + (", ..." if len(ids) > 3 else "")
