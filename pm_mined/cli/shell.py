"""The frame of the command lines: common options, errors as one line, exit status."""

import os
import sys
import traceback
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from pm_mined.interrupt import STATUS
from pm_mined.version import __version__


@dataclass
class Settings:
    """Settings of the command that runs."""

    debug: bool = False
    failed: int = 1  # the exit status of a failure


settings = Settings()


class _Commands(TyperGroup):
    """The commands; one that is interrupted says so.

    Typer would end it without a word, and take an EOFError for an interruption.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            typer.echo(f"{self.name}: interrupted", err=True)
            raise typer.Exit(STATUS) from interruption
        except EOFError as error:
            _exit_with(error, str(self.name))


def application(program: str, help_text: str) -> typer.Typer:
    """A command line without commands yet; its own options are --version and --debug."""
    app = typer.Typer(
        name=program,
        cls=_Commands,
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
            warnings.formatwarning = _note  # type: ignore[assignment]  # names what it needs
        _check_threads()

    return app


def _note(message: Warning | str, *_: object) -> str:
    """A warning as a line, without the place in a library that it comes from."""
    from pm_mined.display import one_line

    return f"{one_line(f'note: {message}')}\n"


def _check_threads() -> None:
    """Refuse what Numba would fail on, or pass over without a word."""
    value = os.environ.get("NUMBA_NUM_THREADS") or "1"
    if not (value.isascii() and value.isdigit() and int(value[:10]) > 0):
        from pm_mined.errors import OptionError

        raise OptionError(f"NUMBA_NUM_THREADS is {value[:40]!r}: it must be a whole number above 0")


def run(app: typer.Typer) -> None:
    """Run a command line; an error is one line and exit status 1 (of usage or `compare` 2)."""
    try:
        _open_streams()
        app()
    except Exception as error:
        _exit_with(error, str(app.info.name))


def _open_streams() -> None:
    """Make sure that nothing fails on a closed stream, or on a letter that it cannot show."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115 - open to the end
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open to the end
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _exit_with(error: Exception, program: str) -> NoReturn:
    from pm_mined.display import one_line
    from pm_mined.errors import OptionError, PmMinedError

    if settings.debug:
        traceback.print_exception(error)
    elif isinstance(error, PmMinedError | OSError):
        typer.echo(one_line(f"{program}: {error}"), err=True)
    else:
        typer.echo(
            one_line(
                f"{program}: internal error: {type(error).__name__}: {error}; this is a bug, "
                f"`{program} --debug ...` shows where: please report it"
            ),
            err=True,
        )
    sys.exit(2 if isinstance(error, OptionError) else settings.failed)
