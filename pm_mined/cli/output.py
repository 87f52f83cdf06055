"""Output of commands: tables, lines, notes and progress for people, JSON for machines."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pm_mined.display import display_token, one_line, printable

_UNLIMITED = 10_000  # columns
_CELL = 32  # characters of a token in a table of many

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def print_json(document: dict[str, Any], indent: int | None = 2) -> None:
    """Print one JSON object on stdout; letters that a terminal would obey are escaped."""
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    typer.echo("\n".join(map(_escaped_json, text.split("\n"))))


def _escaped_json(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show a spinner with `text` on stderr meanwhile; nothing in a pipe."""
    with Console(stderr=True).status(escape(printable(text))):
        yield


def say(text: str) -> None:
    """Print a line, or several, on stdout; control characters are escaped."""
    typer.echo("\n".join(map(printable, text.split("\n"))))


def show(text: str) -> None:
    """Print a part of a text on stdout, at once; on a terminal, control characters are escaped."""
    typer.echo(visible(text) if sys.stdout.isatty() else text, nl=False)
    sys.stdout.flush()


def visible(text: str) -> str:
    """A text of several lines, with other control characters escaped."""
    return "".join(c if c in "\n\t" else printable(c) for c in text)


def say_error(error: Exception) -> None:
    """Print an error on stderr, where the program goes on after it."""
    typer.echo(one_line(f"error: {error}"), err=True)


def note(text: str) -> None:
    """Print a remark on stderr."""
    typer.echo(one_line(f"note: {text}"), err=True)


def progress_bar(*, shown: bool = True, in_bytes: bool = False) -> Progress:
    """A progress bar on stderr that vanishes when it is done; nothing in a pipe."""
    console = Console(stderr=True)
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    return Progress(
        *(TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn()),
        console=console,
        transient=True,
        redirect_stdout=False,  # results go there
        disable=not (shown and console.is_terminal),
    )


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without lines; the columns named in `right` are aligned to the right."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        number = column in right
        justify: Literal["right", "left"] = "right" if number else "left"
        made.add_column(column, justify=justify, no_wrap=number, overflow="fold")
    return made


def token_cell(token: bytes) -> str:
    """Display a token for a table of many: a long one is cut."""
    shown = display_token(token)
    return shown if len(shown) <= _CELL else shown[: _CELL - 1] + "…"


def print_table(made: Table) -> None:
    """Print a table; its cells are text, not markup. In a pipe, a row is one line."""
    width = None if sys.stdout.isatty() else _UNLIMITED
    Console(markup=False, highlight=False, emoji=False, width=width).print(made)
