"""Folders in the user's cache: what is in them is used as it is, so they must be ours alone."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def user_cache(*names: str) -> Path:
    """A folder of pm-mined in the user's cache; it is made if it is not there.

    The cache is `XDG_CACHE_HOME`, where that is an absolute path, or else `~/.cache`.

    Raises:
        OSError: the folder cannot be made, or another user can write it.
    """
    folder = cache_root().joinpath(*names)
    make_folders(folder)
    unsafe = next(writable_by_others(folder), None)
    if unsafe is not None:
        why = "others can write there: set XDG_CACHE_HOME to a folder of your own"
        raise PermissionError(None, why, str(unsafe))
    return folder


def cache_root() -> Path:
    """The folder in which `user_cache` makes others; it may be none yet.

    Raises:
        FileNotFoundError: the user has no home, as in some containers.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if named.is_absolute():
        return named / "pm-mined"
    try:
        return Path.home() / ".cache" / "pm-mined"
    except RuntimeError as error:
        raise FileNotFoundError(None, "there is no home folder: set XDG_CACHE_HOME", "~") from error


def make_folders(folder: Path) -> None:
    """Make a folder and those that it lies in, for the user alone.

    Raises:
        OSError: one cannot be made.
    """
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(0o700, exist_ok=True)


def writable_by_others(folder: Path) -> Iterator[Path]:
    """The folder and those that it lies in, as far as another user could put a file there.

    In a folder for all, such as /tmp, the sticky bit keeps our folders ours.
    """
    real = folder.resolve()
    for one in (real, *real.parents):
        about = one.stat()
        mode = about.st_mode
        if stat.S_ISVTX & mode and one != real:
            continue
        if not is_ours(about) or mode & stat.S_IWOTH or (mode & stat.S_IWGRP and _shared(about)):
            yield one


def is_ours(about: os.stat_result) -> bool:
    """True if a file or folder is the user's, or root's."""
    return about.st_uid in (os.geteuid(), 0)


def _shared(about: os.stat_result) -> bool:
    """True if the group may have other members: a group of one user has the user's number."""
    return about.st_gid not in (os.geteuid(), 0)
