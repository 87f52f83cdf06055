"""Folders in the user's cache: what is in them is used as it is, so they must be ours."""

import os
import stat
from pathlib import Path


def user_cache(*names: str) -> Path:
    """A folder of pm-mined in the user's cache; it is made if it is not there.

    The cache is `XDG_CACHE_HOME`, where that is an absolute path, or else `~/.cache`.

    Raises:
        OSError: the folder cannot be made, or somebody else can write it.
    """
    folder = cache_root()
    folder.parent.mkdir(parents=True, exist_ok=True)
    for name in ("", *names):
        folder /= name
        folder.mkdir(mode=0o700, exist_ok=True)
        check_ours(folder)
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


def check_ours(folder: Path) -> None:
    """Refuse a folder that is another user's, or that others can write.

    Raises:
        PermissionError: it is one; its message ends with what to do.
    """
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode):
        _refuse(folder, "is no folder: remove it")
    if about.st_uid != os.geteuid():
        _refuse(folder, "belongs to another user: set XDG_CACHE_HOME to a folder of your own")
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _refuse(folder, f"can be written by others: run `chmod go-w {folder}`")


def _refuse(folder: Path, why: str) -> None:
    raise PermissionError(None, f"it {why}", str(folder))
