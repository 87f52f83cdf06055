"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

MapFile = Annotated[Path, typer.Argument(metavar="MAP", help="A map file.", show_default=False)]

TextFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="FILE",
        help="Text to weight by: UTF-8, or JSON Lines with --field; - is the standard input. "
        "Give it once per file.",
        show_default=False,
    ),
]

Field = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The text files are JSON Lines; take this field of each row.",
        show_default=False,
    ),
]

SrcSpec = Annotated[
    str | None,
    typer.Option(
        "--src",
        metavar="NAME",
        help="Where the source tokenizer is; without it, the map says.",
        show_default=False,
    ),
]

DstSpec = Annotated[
    str | None,
    typer.Option(
        "--dst",
        metavar="NAME",
        help="Where the destination tokenizer is; without it, the map says.",
        show_default=False,
    ),
]
