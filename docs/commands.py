"""Write docs/commands.md: the help of every command, as the program prints it.

python docs/commands.py
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}  # read when the help is made

import typer

import cmc_runtime.cli
import pm_mined.cli

PAGE = Path(__file__).with_name("commands.md")
HEAD = """# Commands

The help of every command, as `pm-mined COMMAND --help` and `cmc-runtime COMMAND --help` print it;
this page is written by `python docs/commands.py`. Every command exits with 0, with 1 if it failed
(one line on the standard error says why and what to do next), or with 2 for a wrong option;
`compare` as `diff` does. Results go to the standard output, notes and progress to the standard
error.
"""


def commands(command: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every command with its help; those of a group after it."""
    context = typer.Context(command, info_name=path, help_option_names=["-h", "--help"])
    yield path, command.get_help(context)
    for name, one in getattr(command, "commands", {}).items():
        yield from commands(one, f"{path} {name}")


def page() -> str:
    """The whole page."""
    sections = [
        f"## {path}\n\n```\n{text}\n```\n"
        for app in (pm_mined.cli.app, cmc_runtime.cli.app)
        for path, text in commands(typer.main.get_command(app), str(app.info.name))
    ]
    return "\n".join([HEAD, *sections])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
