"""Exporting maps in the formats of other programs; docs/export.md has the layouts."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from pm_mined.atomic_file import write_atomically
from pm_mined.errors import MapFileError, PmMinedError
from pm_mined.inputs import refuse_inputs
from pm_mined.maps.token_map import TokenMap

from .arrays import assistant_to_target_tensor, npz_arrays, safetensors_arrays
from .cmc import CMC_ENDINGS, cmc_json
from .columns import Contents
from .tables import csv_table, parquet_table


class Format(NamedTuple):
    """A format: the names of an export's files, and their contents."""

    file_name: str  # with the name of the map for {}
    contents: Callable[[TokenMap], Contents]
    endings: tuple[str, ...] = ("",)  # of the names of its files; programs open the last first

    def files(self, path: str | PathLike[str]) -> list[Path]:
        """The files of an export to `path`, in the order of their contents."""
        return [Path(f"{os.fspath(path)}{ending}") for ending in self.endings]

    def default_path(self, map_file: Path) -> Path:
        """The default file name of an export, in the current folder.

        >>> FORMATS["csv"].default_path(Path("maps/a-to-b.arrow"))
        PosixPath('a-to-b.csv')
        """
        return Path(self.file_name.format(map_file.stem))


FORMATS = {
    "csv": Format("{}.csv", csv_table),
    "parquet": Format("{}.parquet", parquet_table),
    "npz": Format("{}.npz", npz_arrays),
    "safetensors": Format("{}.safetensors", safetensors_arrays),
    "assistant-to-target": Format("{}.assistant-to-target.safetensors", assistant_to_target_tensor),
    "cmc-json": Format("one2one_{}", cmc_json, CMC_ENDINGS),
}


def export_map(token_map: TokenMap, name: str, path: str | PathLike[str]) -> list[Path]:
    """Write a map in the format `name`; the same map gives the same bytes.

    `path` is the file; for `cmc-json`, which writes three, it is the start of their names.
    Returns the files. Of the three, `_id.json` is removed first and written last, and the other
    two are not used without it, so new and old files are never mixed.

    Raises:
        MapFileError: the map is damaged, or a file cannot be written.
        PmMinedError: there is no such format, or a file is that of the map.
    """
    if name not in FORMATS:
        raise PmMinedError(f"no format {name!r}; there are {', '.join(FORMATS)}")
    if name == "cmc-json" and "one2one" not in Path(path).name:
        raise MapFileError(
            f"{path}: the code of CMC reads one id per token only from files whose names begin "
            f"with one2one: try -o {Path(path).parent / 'one2one'}_{Path(path).name}"
        )
    files = FORMATS[name].files(path)
    refuse_inputs(files, [token_map.file])
    _write_set(dict(zip(files, FORMATS[name].contents(token_map), strict=True)))
    return files


def _write_set(files: dict[Path, bytes | memoryview]) -> None:
    """Write files of which the last is opened first: while it is absent, none of them is used."""
    *others, first_opened = files
    if others and first_opened.is_file():
        with _reporting(first_opened):
            os.unlink(os.path.realpath(first_opened))
    half = f"; without {first_opened} the others are not read: export again" if others else ""
    for file, content in files.items():
        with _reporting(file, half):
            write_atomically(file, content)


@contextmanager
def _reporting(file: Path, consequence: str = "") -> Iterator[None]:
    """Turn an OSError into a MapFileError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise MapFileError(f"{file}: cannot write the export: {reason}{consequence}") from error
