"""Which map is used when none is given: one that lies at hand, else one built on the spot."""

from collections.abc import Callable, Iterable
from pathlib import Path

from pm_mined import MapFileError, OptionError, TokenMap, Vocabulary, build_map, load_map

Note = Callable[[str], object]
"""Told, in a line, what was decided."""


def find_or_build_map(
    src: Vocabulary, dst: Vocabulary, folders: Iterable[Path], note: Note
) -> TokenMap:
    """The one map in these folders, by its vocabularies, or else a new one by PM-MinED.

    Files ending in `.arrow` are looked at; one that is no map, or damaged, is noted and passed
    over.

    Raises:
        OptionError: several maps fit: only the user knows which is meant.
    """
    paths = {path.resolve(): path for folder in folders for path in _arrow_files(folder)}
    fitting = {path: found for path in paths.values() if (found := _fitting(path, src, dst, note))}
    if len(fitting) > 1:
        raise OptionError(
            f"{len(fitting)} maps fit {src.name} and {dst.name}: {', '.join(map(str, fitting))}; "
            "say which one is meant"
        )
    for path, found in fitting.items():
        note(f"map: {path}, found")
        return found
    note(f"map: {src.name} -> {dst.name}, built here by PM-MinED; none was given or found")
    return build_map(src, dst)


def _arrow_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))


def _fitting(path: Path, src: Vocabulary, dst: Vocabulary, note: Note) -> TokenMap | None:
    try:
        found = load_map(path)
    except MapFileError as error:
        note(f"{error}; passed over")
        return None
    same = (found.info.src.fingerprint, found.info.dst.fingerprint)
    return found if same == (src.fingerprint, dst.fingerprint) else None
