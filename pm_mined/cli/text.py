"""Counting the tokens of the text that a command weights by, with a progress bar."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .output import note, progress_bar

if TYPE_CHECKING:
    from pm_mined.maps.token_map import TokenMap
    from pm_mined.reports.usage import Usage


def usage_of(
    token_map: "TokenMap", files: Sequence[str] | None, field: str | None, src: str | None
) -> "Usage | None":
    """Count the uses of each source token in the text; None where no text is given."""
    if not files:
        return None
    from pm_mined.reports.text_files import total_bytes
    from pm_mined.reports.usage import read_usage

    with progress_bar(in_bytes=True) as bar:
        task = bar.add_task("Tokenising", total=total_bytes(files))
        usage = read_usage(
            token_map, files, field=field, src=src, advance=lambda n: bar.advance(task, n)
        )
    if usage.unverified_cuts:
        note(
            f"the text was cut at {usage.unverified_cuts} places where a token may go on: the "
            "counts of a few tokens around them may be off"
        )
    return usage
