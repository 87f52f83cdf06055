"""Rows kept in a delta model's folder: a few, by which its strength is chosen for a user model."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from cmc_runtime.errors import CardError
from pm_mined.atomic_file import write_atomically

from .examples import Example, Examples, read_examples

FILE = "rows.jsonl"

MAX_CHARACTERS = 4_000
"""Of all kept rows together: the time of a choice grows with them."""


def draw_rows(rows: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Draw rows by chance, at most `count`, and of at most `MAX_CHARACTERS`; in their order.

    >>> rows = [Example("Who?", "I.", row) for row in range(1, 10)]
    >>> [one.row for one in draw_rows(rows, 3, seed=0)]
    [3, 5, 6]
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    drawn: list[Example] = []
    room = MAX_CHARACTERS
    for row in (rows[i] for i in order):
        length = len(row.prompt) + len(row.response)
        if len(drawn) < count and length <= room:
            drawn.append(row)
            room -= length
    return sorted(drawn, key=lambda row: row.row)


def save_rows(folder: Path, rows: Sequence[Example]) -> None:
    """Write them to the folder."""
    write_atomically(folder / FILE, _content(rows))


def rows_digest(rows: Sequence[Example]) -> str:
    """SHA-256 of the file that `save_rows` writes, in hexadecimal digits."""
    return sha256(_content(rows)).hexdigest()


def _content(rows: Sequence[Example]) -> bytes:
    lines = [{"prompt": row.prompt, "response": row.response} for row in rows]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def read_kept_rows(folder: Path, digest: str | None) -> Examples | None:
    """Read the rows in a delta model's folder; None if there are none.

    Args:
        folder: The folder.
        digest: That of its card; None if it keeps no rows.

    Raises:
        CardError: they are not the rows that the card names.
        DataError: they cannot be read.
    """
    path = folder / FILE
    if digest is None or not path.is_file():
        return None
    found = read_examples(path)
    if rows_digest(found.rows) != digest:
        raise CardError(f"{path}: not the rows that were kept in training: give others, or remove")
    return found
