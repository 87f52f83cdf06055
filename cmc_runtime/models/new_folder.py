"""Folders that are made as a whole, or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp


@contextmanager
def new_folder(root: Path, prefix: str) -> Iterator[Path]:
    """A folder in `root` that is removed in the end, but if it was renamed; locked meanwhile.

    Those of the same prefix that dead processes left behind are removed first.
    """
    _remove_unfinished(root, prefix)
    made = Path(mkdtemp(prefix=prefix, dir=root))
    lock = os.open(made, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _remove_unfinished(root: Path, prefix: str) -> None:
    """Remove the new folders of dead processes: those that nobody has locked."""
    for path in root.glob(f"{prefix}*"):
        with suppress(OSError):  # its process lives, or another one was faster
            lock = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(lock)
