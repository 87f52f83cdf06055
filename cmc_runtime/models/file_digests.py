"""A folder's files with their digests, in a list that is written last: it completes the folder.

The list is what `sha256sum -c` reads. With it, a file that is missing or damaged is known before it
is used.
"""

import hashlib
from pathlib import Path

from pm_mined.atomic_file import write_atomically

SUMS = "SHA256SUMS"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_complete(folder: Path) -> bool:
    """True if the folder was written to its end."""
    return (folder / SUMS).exists()


def complete(folder: Path) -> None:
    """Write the list of the files, which are all there."""
    lines = [f"{file_digest(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
    write_atomically(folder / SUMS, "".join(lines).encode())


def fault_of(folder: Path) -> str | None:
    """Find the first thing in a complete folder that is not as it was written.

    >>> fault_of(Path("run/checkpoint-9"))  # doctest: +SKIP
    'optimizer.pt is missing'
    """
    try:
        rows = [line.split("  ") for line in (folder / SUMS).read_text("utf-8").splitlines()]
        listed = {name: digest for digest, name in rows}
        if not listed:
            return f"{SUMS} is empty"
        present = {path.name for path in folder.iterdir()} - {SUMS}
        for name in sorted(present ^ set(listed)):
            return f"{name} is missing" if name in listed else f"{name} is not in {SUMS}"
        changed = (name for name, one in listed.items() if file_digest(folder / name) != one)
        return next((f"{name} is not as it was written" for name in changed), None)
    except ValueError:
        return f"{SUMS} is not as it was written"
    except OSError as error:
        return f"{error.filename}: cannot read: {error.strerror}"
