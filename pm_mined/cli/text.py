"""Text that commands weight by: read with a progress bar."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from .output import note

if TYPE_CHECKING:
    from pm_mined.maps.token_map import TokenMap
    from pm_mined.reports.usage import Usage


def usage_of(
    token_map: "TokenMap", files: Sequence[str] | None, field: str | None, src: str | None
) -> "Usage | None":
    """How often the text uses each source token; None where no text is given."""
    if not files:
        return None
    from pm_mined.reports.text_files import total_bytes
    from pm_mined.reports.usage import read_usage

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with Progress(
        *(*columns, TimeRemainingColumn()),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("Tokenising", total=total_bytes(files))
        usage = read_usage(
            token_map, files, field=field, src=src, advance=lambda n: bar.advance(task, n)
        )
    if usage.unverified_cuts:
        note(
            f"the text was cut at {usage.unverified_cuts} places where no token surely ends: the "
            "counts of a few tokens around them may be off"
        )
    return usage
