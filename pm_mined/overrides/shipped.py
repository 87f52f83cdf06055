"""The example tables that come with the package."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from pm_mined.errors import OverridesError


def shipped_tables() -> dict[str, tuple[Path, str]]:
    """The tables that come with the package: name -> file, and what its first line says."""
    folder = Path(str(files("pm_mined").joinpath("data/overrides")))
    return {path.stem: (path, _first_line(path)) for path in sorted(folder.glob("*.toml"))}


def _first_line(path: Path) -> str:
    return path.read_text("utf-8").partition("\n")[0].removeprefix("# ")


def shipped_table(name: str) -> str:
    """The text of a table that comes with the package.

    Raises:
        OverridesError: there is none of that name.
    """
    tables = shipped_tables()
    if name not in tables:
        near = get_close_matches(name, tables, n=1)
        hint = f"did you mean {near[0]}?" if near else "`pm-mined overrides list` shows them"
        raise OverridesError(f"no table {name!r} comes with pm-mined; {hint}")
    return tables[name][0].read_text("utf-8")
