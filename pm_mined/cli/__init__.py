"""The command line: one module per command group; results on stdout, notes on stderr.

Commands import what they need when they run: `pm-mined --help` loads no Numba and no Arrow.
"""

import gc
import sys
from typing import Annotated

import typer

from pm_mined import __version__

from . import build, show, vocab

app = typer.Typer(
    name="pm-mined",
    help="Token maps between the vocabularies of language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("build")(build.build)
app.command("show")(show.show)
app.add_typer(vocab.app, name="vocab")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pm-mined {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Token maps between the vocabularies of language models."""


def main() -> None:
    """Run the command line; an error is one line and exit status 1."""
    from pm_mined.errors import PmMinedError

    gc.disable()  # a command is a short process, and what is loaded is never garbage
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        if isinstance(error, PmMinedError | OSError):
            sys.exit(f"pm-mined: {error}".replace("\n", " "))
        sys.exit(
            f"pm-mined: internal error: {type(error).__name__}: {error}\n"
            "This is a bug: `pm-mined --debug ...` shows where; please report it."
        )
    finally:
        gc.freeze()  # spares the exit a walk over all that Numba has loaded
