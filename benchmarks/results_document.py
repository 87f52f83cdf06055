"""`results.md`: tables of measurements, each benchmark's between two marks of its own."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pm_mined.atomic_file import write_atomically


class Table:
    """A table: its title, its header, and rows of text."""

    def __init__(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.title, self.header, self.rows = title, header, rows

    def markdown(self) -> str:
        """Align the first column to the left, the others to the right."""
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        return f"**{self.title}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def put_section(path: Path, benchmark: str, text: str) -> None:
    """Replace or add the section of a benchmark, between its marks; all else is kept."""
    begin = f"<!-- Written by benchmarks/{benchmark}: -->\n"
    end = f"<!-- End of what benchmarks/{benchmark} wrote. -->\n"
    whole = path.read_text("utf-8") if path.exists() else "# Results\n"
    before, begun, rest = whole.partition(begin)
    _, ended, after = rest.partition(end)
    if begun and not ended:
        sys.exit(f"{path}: the mark of where {benchmark} ends is gone: nothing is written")
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = f"{before.rstrip()}\n\n", begin, f"\n{text.strip()}\n\n", end, after
    write_atomically(path, "".join(parts).encode())


def measured(found: dict[str, Any], command: str) -> str:
    """The command, the machine and the time of a run."""
    machine = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    return (
        f"`{command} --seeds {' '.join(map(str, found['seeds']))}`: "
        f"{found['seconds'] / 60:.0f} minutes, less what was found in `--work`.\n\n"
        f"Machine and versions: {machine}; {found['threads']} threads.\n"
    )


def listed(options: dict[str, Any]) -> str:
    """The options that are set, but for the prompt template, which is named elsewhere."""
    chosen = {name: value for name, value in options.items() if value not in (None, False)}
    chosen.pop("prompt_template")
    return ", ".join(f"{name} {value}" for name, value in chosen.items())
