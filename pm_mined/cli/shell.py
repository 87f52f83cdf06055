"""The frame of the command lines: common options, errors as one line, exit status."""

import os
import sys
import traceback
import warnings
from dataclasses import dataclass
from typing import Annotated, NoReturn

import typer

from pm_mined.version import __version__


@dataclass
class Settings:
    """Settings of the command that runs."""

    debug: bool = False
    failed: int = 1  # the exit status of a failure


settings = Settings()


def application(program: str, help_text: str) -> typer.Typer:
    """A command line without commands yet; its own options are --version and --debug."""
    app = typer.Typer(
        name=program,
        help=help_text,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{program} {__version__}")
            raise typer.Exit

    @app.callback(help=help_text)
    def options(
        _version: Annotated[
            bool,
            typer.Option(
                "--version", callback=print_version, is_eager=True, help="Show the version."
            ),
        ] = False,
        debug: Annotated[
            bool, typer.Option("--debug", help="Show the traceback of an error.")
        ] = False,
    ) -> None:
        settings.debug, settings.failed = debug, 1
        if not debug:
            # Libraries address these to programmers. Appended, so that `-W` and PYTHONWARNINGS
            # decide first; Python itself already ignores DeprecationWarning.
            warnings.simplefilter("ignore", FutureWarning, append=True)

    return app


def run(app: typer.Typer) -> None:
    """Run a command line; an error is one line and exit status 1 (of usage or `compare` 2)."""
    try:
        _open_streams()
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        _exit_with(error, str(app.info.name))


def _open_streams() -> None:
    """Make sure that printing does not fail: on a closed stream, or on a letter it cannot show."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open to the end
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _exit_with(error: Exception, program: str) -> NoReturn:
    from pm_mined.display import printable
    from pm_mined.errors import OptionError, PmMinedError

    if settings.debug:
        traceback.print_exception(error)
    elif isinstance(error, PmMinedError | OSError):
        typer.echo(printable(f"{program}: {error}"), err=True)
    else:
        what = printable(f"{type(error).__name__}: {error}")
        typer.echo(
            f"{program}: internal error: {what}; this is a bug, `{program} --debug ...` shows "
            "where: please report it",
            err=True,
        )
    sys.exit(2 if isinstance(error, OptionError) else settings.failed)
