"""Options of a command from a TOML file."""

import tomllib
from pathlib import Path
from typing import Any

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
    several = {parameter.name for parameter in context.command.params if _takes_several(parameter)}
    context.default_map = {
        parameter: _listed(options[name]) if parameter in several else options[name]
        for parameter, name in given.items()
    }
    return path


def _takes_several(parameter: Any) -> bool:
    return getattr(parameter, "multiple", False)


def _listed(value: Any) -> list[Any]:
    """A value that stands alone, of an option that may be given several times, as a list."""
    return value if isinstance(value, list) else [value]
