"""The command line: one module per command group; results on stdout, notes on stderr.

Commands import what they need when they run: `pm-mined --help` loads no Numba and no Arrow.
"""

import gc
import os
import sys
from typing import Annotated, NoReturn

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


_settings = {"debug": False}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pm-mined {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Token maps between the vocabularies of language models."""
    _settings["debug"] = debug


def main() -> None:
    """Run the command line; an error is one line and exit status 1."""
    gc.disable()  # a command is a short process, and what is loaded is never garbage
    try:
        _open_streams()
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if _settings["debug"]:
            raise
        _exit_with(error)
    finally:
        gc.freeze()  # spares the exit a walk over all that Numba has loaded


def _open_streams() -> None:
    """Make sure that printing does not fail: on a closed stream, or on a letter it cannot show."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open to the end
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _exit_with(error: Exception) -> NoReturn:
    from pm_mined.display import printable
    from pm_mined.errors import PmMinedError

    if isinstance(error, PmMinedError | OSError):
        sys.exit(printable(f"pm-mined: {error}"))
    what = printable(f"{type(error).__name__}: {error}")
    sys.exit(
        f"pm-mined: internal error: {what}; this is a bug, `pm-mined --debug ...` shows where: "
        "please report it"
    )
