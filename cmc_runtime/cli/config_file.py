"""Options of a command from a TOML file."""

import tomllib
from pathlib import Path

import typer

from pm_mined import OptionError


def options_from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Take options from a TOML file; those of the command line go before them."""
    if path is None:
        return None
    try:
        options = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path}: not a TOML file that can be read: {error}") from error
    known = {
        name.lstrip("-").replace("-", "_"): parameter.name
        for parameter in context.command.params
        for name in parameter.opts
        if parameter.name != "config"
    }
    given: dict[str, str] = {}
    for name in options:
        parameter = known.get(name.replace("-", "_"))
        if parameter is None:
            raise OptionError(f"{path}: there is no option {name!r}")
        if parameter in given:
            raise OptionError(f"{path}: {given[parameter]!r} and {name!r} are one option")
        given[parameter] = name
    context.default_map = {parameter: options[name] for parameter, name in given.items()}
    return path
