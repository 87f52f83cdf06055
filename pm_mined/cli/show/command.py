"""The command `pm-mined show`."""

from typing import Annotated

import typer

from pm_mined.cli.options import DstSpec, MapFile
from pm_mined.cli.output import AsJson


def show(
    map_file: MapFile,
    tokens: Annotated[
        list[str],
        typer.Argument(
            metavar="TOKEN...", help="Tokens: text, id, or bytes as 0x2068.", show_default=False
        ),
    ],
    reverse: Annotated[
        bool,
        typer.Option(
            "--reverse", help="TOKENs are destination tokens: show what maps to each of them."
        ),
    ] = False,
    limit: Annotated[
        int,
        typer.Option(min=0, help="Runners-up and source tokens to list; 0: only the map's rows."),
    ] = 5,
    dst: DstSpec = None,
    as_json: AsJson = False,
) -> None:
    """Show what source tokens map to, and why to nothing else.

    With --json, each of "rows" holds the columns of the map, "choices" (all that the token maps to,
    with the weights of a weighted map), "by_rules" (the id that the rules choose without an
    override), "why" (a sentence, where the token is unmapped or an override decided), "encoding"
    (how the destination tokenizer writes the token, where the strategy asks it), "runners_up",
    "nearest" (in spelling, of what is unmapped), and "read_by": the source tokens that map to the
    first choice. "by_rules" to "nearest" are null where the destination vocabulary is not here.
    With --reverse, each of "tokens" is a destination token with its "read_by".
    """
    from pm_mined.maps.token_map import load_map

    from .matches import show_matches
    from .sources import show_sources

    show_tokens = show_sources if reverse else show_matches
    show_tokens(load_map(map_file), tokens, dst, limit, as_json=as_json)
