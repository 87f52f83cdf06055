"""Notes and progress of `cmc-runtime eval`, on stderr."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from cmc_runtime.evaluation.reporter import Advance, Reporter
from pm_mined.cli.output import note, progress_bar, working


class TerminalReporter(Reporter):
    """Shows notes as lines, and progress as bars."""

    def note(self, text: str) -> None:
        """Print a remark."""
        note(text)

    def working(self, what: str) -> AbstractContextManager[object]:
        """Show a sign of life."""
        return working(what)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Advance]:
        """Show a bar."""
        with progress_bar() as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
