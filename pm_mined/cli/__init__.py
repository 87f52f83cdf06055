"""The command line: one module per command group; results on stdout, notes on stderr.

Commands import what they need when they run: `pm-mined --help` loads no Numba and no Arrow.
"""

import gc
import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from pm_mined import __version__

from . import audit, bench, build, compare, export, overrides, show, verify, vocab

app = typer.Typer(
    name="pm-mined",
    help="Token maps between the vocabularies of language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("build")(build.build)
app.command("audit")(audit.audit)
app.command("show")(show.show)
app.command("verify")(verify.verify)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.add_typer(vocab.app, name="vocab")
app.add_typer(overrides.app, name="overrides")


_settings: dict[str, int] = {"debug": False, "failed": 1}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pm-mined {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Token maps between the vocabularies of language models."""
    _settings["debug"] = debug
    if context.invoked_subcommand == "compare":
        _settings["failed"] = compare.FAILED


def main() -> None:
    """Run the command line; an error is one line and exit status 1 (of usage or `compare` 2)."""
    gc.disable()  # a command is a short process, and what is loaded is never garbage
    try:
        _open_streams()
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
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
    from pm_mined.errors import OptionError, PmMinedError

    if _settings["debug"]:
        traceback.print_exception(error)
    elif isinstance(error, PmMinedError | OSError):
        typer.echo(printable(f"pm-mined: {error}"), err=True)
    else:
        what = printable(f"{type(error).__name__}: {error}")
        typer.echo(
            f"pm-mined: internal error: {what}; this is a bug, `pm-mined --debug ...` shows "
            "where: please report it",
            err=True,
        )
    sys.exit(2 if isinstance(error, OptionError) else _settings["failed"])
