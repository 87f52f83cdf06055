"""The commands that each kind of input is tried with, and what else must hold of what is accepted."""

from pathlib import Path
from random import Random

import pyarrow as pa

from pm_mined import STRATEGIES, MapFileError, load_map
from pm_mined.maps.export.formats import FORMATS

MARK = "WRONG"
"""Stands for the path of the input in a command."""


def commands(random: Random, kind: str) -> list[list[str]]:
    """Some commands that take an input of this kind, in the folder of the right ones."""
    strategy = random.choice(list(STRATEGIES))
    unit = random.choice(["char", "byte"])
    how = ["--strategy", strategy, "--unit", unit, "-o", "out.arrow"]
    file_format = random.choice(list(FORMATS))
    found = {
        "tokenizer": [
            ["pm-mined", "vocab", "info", MARK, "--json"],
            ["pm-mined", "vocab", "check", MARK],
            ["pm-mined", "build", "--src", MARK, "--dst", "dst.json", *how],
            ["pm-mined", "build", "--src", "src.json", "--dst", MARK, *how],
            ["pm-mined", "overrides", "check", "good.toml", "--src", MARK, "--dst", "dst.json"],
        ],
        "map": [
            ["pm-mined", "verify", MARK],
            ["pm-mined", "audit", MARK, "--json"],
            ["pm-mined", "audit", MARK, "--html", "page.html"],
            ["pm-mined", "show", MARK, "the", "5", "--json"],
            ["pm-mined", "show", MARK, "--reverse", "the"],
            ["pm-mined", "compare", MARK, "good.arrow"],
            ["pm-mined", "export", MARK, "--format", file_format, "-o", "exported"],
            ["pm-mined", "overrides", "suggest", MARK],
        ],
        "overrides": [
            ["pm-mined", "overrides", "check", MARK, "--src", "src.json", "--dst", "dst.json"],
            [
                "pm-mined",
                "build",
                "--src",
                "src.json",
                "--dst",
                "dst.json",
                "--overrides",
                MARK,
                *how,
            ],
        ],
        "text": [["pm-mined", "audit", "good.arrow", "--text", MARK, "--src", "src.json"]],
        "rows": [
            [
                "pm-mined",
                "audit",
                "good.arrow",
                "--text",
                MARK,
                "--field",
                "prompt",
                "--src",
                "src.json",
            ]
        ],
    }[kind]
    return random.sample(found, min(3, len(found)))


def check_map(path: Path) -> None:
    """A map that is accepted holds what pyarrow, reading it by itself, finds in it."""
    try:
        token_map = load_map(path)
        columns = {name: token_map.column(name).to_pylist() for name in ("dst_id", "distance")}
    except MapFileError:
        return
    table = pa.ipc.open_file(path).read_all()
    for name, values in columns.items():
        assert values == table.column(name).to_pylist(), f"{name} is not what the file holds"
