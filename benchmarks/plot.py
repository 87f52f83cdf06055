"""A plot as SVG: lines over two logarithmic axes, readable on a light and on a dark page."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 180, 20, 50  # margins; the lines' names stand to the right
APART = 18  # of names, at least
COLOURS = ("#2f81c8", "#c2611f", "#2f9e62", "#9a62c8")
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #57606a }
.grid { stroke: #8c959f; stroke-opacity: .3 }
.line { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) { text { fill: #adbac7 } }
"""


class Axis(NamedTuple):
    """A logarithmic axis: maps values to places in the picture, which starts at the first tick."""

    ticks: list[float]
    start: float
    stop: float

    def place(self, value: float) -> float:
        """The place of a value."""
        low, high = log10(self.ticks[0]), log10(self.ticks[-1])
        return round(self.start + (log10(value) - low) / (high - low) * (self.stop - self.start), 1)


def powers_of_ten(values: Iterable[float]) -> list[float]:
    """The ticks from just below the least of the values to just above the largest."""
    logarithms = [log10(value) for value in values]
    low, high = floor(min(logarithms)), ceil(max(logarithms))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def log_log_plot(lines: Mapping[str, Points], x_label: str, y_label: str) -> str:
    """Draw the SVG. Lines without points are left out; points must have at least two values of x.

    >>> svg = log_log_plot({"a": [(10, 0.1), (1000, 5)], "b": []}, "tokens", "seconds")
    >>> svg.count('class="line"'), svg.count("<circle")
    (1, 2)
    """
    lines = {name: points for name, points in lines.items() if points}
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    x = Axis(sorted(set(xs)), LEFT, WIDTH - RIGHT)
    y = Axis(powers_of_ten(ys), HEIGHT - BOTTOM, TOP)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(y_label)} by {escape(x_label)}</title>",
        f"<style>{STYLE}</style>",
        *grid(x, y),
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="{-HEIGHT / 2}" y="18" text-anchor="middle" transform="rotate(-90)">'
        f"{escape(y_label)}</text>",
        *drawn(lines, x, y),
        "</svg>\n",
    ]
    return "\n".join(parts)


def grid(x: Axis, y: Axis) -> list[str]:
    """A thin line and a number at every tick."""
    parts = []
    for value in x.ticks:
        at = x.place(value)
        parts.append(f'<path class="grid" d="M{at} {y.start}V{y.stop}"/>')
        parts.append(f'<text x="{at}" y="{y.start + 20}" text-anchor="middle">{value:,.0f}</text>')
    for value in y.ticks:
        at = y.place(value)
        parts.append(f'<path class="grid" d="M{x.start} {at}H{x.stop}"/>')
        parts.append(f'<text x="{x.start - 8}" y="{at + 5}" text-anchor="end">{value:g}</text>')
    return parts


def drawn(lines: Mapping[str, Points], x: Axis, y: Axis) -> list[str]:
    """Draw lines with their points, and their names at the ends, a distance apart."""
    parts, lowest = [], float(HEIGHT + APART)
    colours = dict(zip(lines, COLOURS, strict=False))
    for name, points in sorted(lines.items(), key=lambda line: line[1][-1][1]):
        places = [(x.place(a), y.place(b)) for a, b in points]
        colour = colours[name]
        path = "L".join(f"{a} {b}" for a, b in places)
        parts.append(f'<path class="line" stroke="{colour}" d="M{path}"/>')
        parts += [f'<circle cx="{a}" cy="{b}" r="3.5" fill="{colour}"/>' for a, b in places]
        lowest = min(places[-1][1], lowest - APART)
        parts.append(
            f'<text x="{places[-1][0] + 10}" y="{lowest + 5}" style="fill: {colour}">'
            f"{escape(name)}</text>"
        )
    return parts
