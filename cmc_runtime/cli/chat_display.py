"""The answers of a chat as they come: side by side on a wide terminal, else one after the other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pm_mined.cli.output import show, visible

_WIDE = 80  # columns of a terminal; from here on, two texts fit side by side


class Display(Protocol):
    """Shows the answers of one turn."""

    def add(self, side: int, text: str) -> None:
        """Add to a side's text; an empty one says that the side has ended."""

    def finish(self) -> None:
        """Show what is left, where sides were stopped."""


@contextmanager
def display_of(titles: Sequence[str], console: Console | None = None) -> Iterator[Display]:
    """The display of sides with these titles that suits a console, by default the output's."""
    console = console or Console()
    fits = console.is_terminal and not console.is_dumb_terminal and console.width >= _WIDE
    if len(titles) == 1 or not fits:
        lines = Lines(titles)
        try:
            yield lines
        finally:
            lines.finish()
        return
    with Live(console=console, redirect_stdout=False, redirect_stderr=False) as live:
        yield Columns(titles, live)


class Columns:
    """The sides beside each other, in lines that are written again and again."""

    def __init__(self, titles: Sequence[str], live: Live) -> None:
        self._titles, self._live = titles, live
        self._texts = [""] * len(titles)

    def add(self, side: int, text: str) -> None:
        """See `Display`."""
        self._texts[side] += text
        made = Table(box=None, expand=True, pad_edge=False)
        for title in self._titles:
            made.add_column(title, ratio=1, overflow="fold")
        made.add_row(*(Text(visible(one).strip()) for one in self._texts))
        self._live.update(made)

    def finish(self) -> None:
        """Everything is shown."""


class Lines:
    """One side after the other; what comes from those behind waits."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._titles = [f"{title}: " for title in titles] if len(titles) > 1 else [""]
        self._waiting, self._ended = [""] * len(titles), [False] * len(titles)
        self._side, self._begun = 0, False

    def add(self, side: int, text: str) -> None:
        """See `Display`."""
        self._waiting[side] += text
        self._ended[side] = not text
        while self._side < len(self._titles):
            self._write()
            if not self._ended[self._side]:
                break
            self._go_on()

    def finish(self) -> None:
        """See `Display`."""
        while self._side < len(self._titles):
            self._write()
            self._go_on()

    def _write(self) -> None:
        """Write what waits of the side whose turn it is."""
        text, self._waiting[self._side] = self._waiting[self._side], ""
        if not self._begun:
            text = text.lstrip()
            if not text and not self._ended[self._side]:
                return
            show(self._titles[self._side])
            self._begun = True
        show(text)

    def _go_on(self) -> None:
        if self._begun:
            show("\n")
        self._side, self._begun = self._side + 1, False
