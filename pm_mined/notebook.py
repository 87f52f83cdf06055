"""Tables that a notebook shows for an object; whatever a name holds, it is shown as text."""

from collections.abc import Iterable, Sequence

from .display import printable


def html_table(caption: str, rows: Iterable[Sequence[str]]) -> str:
    """A small HTML table; the first cell of each row is its heading.

    >>> html_table("<toy>", [("tokens", "3")])
    '<table><caption>&lt;toy&gt;</caption><tr><th>tokens</th><td>3</td></tr></table>'
    """
    from html import escape

    def cell(tag: str, text: str) -> str:
        return f"<{tag}>{escape(printable(text))}</{tag}>"

    def line(heading: str, *cells: str) -> str:
        return f"<tr>{cell('th', heading)}{''.join(cell('td', text) for text in cells)}</tr>"

    return f"<table>{cell('caption', caption)}{''.join(line(*row) for row in rows)}</table>"


def percent(part: float, whole: float) -> str:
    """A share in percent; of nothing, it is none.

    >>> percent(1, 3), percent(0, 0)
    ('33.3 %', '0.0 %')
    """
    return f"{100 * part / whole if whole else 0:.1f} %"
