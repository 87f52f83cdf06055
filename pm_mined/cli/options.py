"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

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
        help="Field of each row to take; the text files are JSON Lines.",
        show_default=False,
    ),
]


def _tokenizer(option: str, which: str) -> Any:
    about = (
        f"{which} tokenizer: name, path or Hub repository. Default: the map's, if it has a name of "
        "`vocab list`."
    )
    return typer.Option(option, metavar="NAME", help=about, show_default=False)


SrcSpec = Annotated[str | None, _tokenizer("--src", "Source")]

DstSpec = Annotated[str | None, _tokenizer("--dst", "Destination")]
