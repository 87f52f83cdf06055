"""`pm-mined export`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import MapFile
from .output import note, say

if TYPE_CHECKING:
    from pm_mined.maps.token_map import TokenMap

FormatName = Literal["csv", "parquet", "npz", "safetensors", "assistant-to-target", "cmc-json"]


def export(
    map_file: MapFile,
    format_name: Annotated[
        FormatName,
        typer.Option("--format", help="Format to write; docs/export.md has the layouts."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File, or the start of the names of the three files of cmc-json. Default: the "
            "map's name, in the current folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a map in a format of other programs."""
    from pm_mined.maps.export.formats import FORMATS, export_map
    from pm_mined.maps.token_map import load_map

    start = time.perf_counter()
    token_map = load_map(map_file)
    path = output or FORMATS[format_name].default_path(map_file)
    files = export_map(token_map, format_name, path)
    seconds = time.perf_counter() - start
    if format_name == "assistant-to-target":
        _note_suppressed(token_map)
    for file in files:
        say(f"{file}  {file.stat().st_size / 1e6:.1f} MB  {seconds:.2f} s")


def _note_suppressed(token_map: "TokenMap") -> None:
    from pm_mined.maps.export.arrays import assistant_to_target

    count = (token_map.dst_id >= 0).sum() - (assistant_to_target(token_map) >= 0).sum()
    if count:
        note(
            f"{count:,} mapped tokens are -1 here: the target has only a prefix or an extension of "
            "them, or is taken by another token"
        )
