"""Choosing a map: the one that is given, one at hand, or one that is built."""

from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path

from pm_mined import (
    STRATEGIES,
    MapFileError,
    OptionError,
    TokenMap,
    Vocabulary,
    VocabularyError,
    build_map,
    load_map,
)

Note = Callable[[str], object]
"""Called with one line for each decision."""


def choose_map(
    given: str | PathLike[str] | TokenMap | None,
    src: Vocabulary,
    dst: Vocabulary,
    folders: Iterable[Path],
    note: Note,
    *,
    default: str = "pm-mined",
) -> TokenMap | None:
    """The map that was given, in a file or as one; or see `find_or_build_map`.

    Of a strategy's name, one is built. The same vocabulary needs none: None, unless a map is given.

    Raises:
        MapFileError, OptionError: as `map_or_strategy` and `find_or_build_map` say.
    """
    if not isinstance(given, TokenMap | None):
        given = map_or_strategy(given)
    if isinstance(given, TokenMap):
        return given
    if src.fingerprint == dst.fingerprint:
        return None
    if given is None:
        return find_or_build_map(src, dst, folders, note, default=default)
    note(f"map: {src.name} -> {dst.name}, built here by {given}")
    return build_map(src, dst, strategy=given)


def map_or_strategy(given: str | PathLike[str]) -> TokenMap | str:
    """The map in a file, or the name of a strategy that no file has.

    Raises:
        MapFileError: the file cannot be read.
        OptionError: there is no such file or strategy, and it reads like the name of one.
    """
    path = Path(given)
    if str(given) in STRATEGIES and not path.is_file():
        return str(given)
    try:
        return load_map(given)
    except MapFileError as error:
        is_name = str(given) == path.name and not path.suffix
        if is_name and isinstance(error.__cause__, FileNotFoundError):
            known = ", ".join(STRATEGIES)
            raise OptionError(
                f"{given}: no such file, and none of the strategies {known}"
            ) from error
        raise


def find_or_build_map(
    src: Vocabulary,
    dst: Vocabulary,
    folders: Iterable[Path],
    note: Note,
    *,
    default: str = "pm-mined",
) -> TokenMap:
    """The one map in these folders, by its vocabularies, or else a new one by `default`.

    Files ending in `.arrow` are looked at; one that is no map, or damaged, is noted and passed
    over. Where `default` has to ask a tokenizer that cannot be asked, PM-MinED takes its place, and
    a note says so.

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
    name = "PM-MinED" if default == "pm-mined" else default
    try:
        made = build_map(src, dst, strategy=default)
    except VocabularyError as error:
        note(f"map: not by {default}, the better one here: {error}")
        name, made = "PM-MinED", build_map(src, dst)
    note(f"map: {src.name} -> {dst.name}, built here by {name}; none was given or found")
    return made


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
