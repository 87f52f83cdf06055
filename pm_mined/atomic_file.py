"""Atomic writes: readers see the whole old file or the whole new one, never a part.

The new content goes into a temporary file in the same folder, which takes the mode and, as far as
that is allowed, the owner of the old one, and is synced and renamed over it. On Linux the temporary
file has no name while it is written: only a process that is killed between its last two system
calls leaves one behind. Writers keep their temporary files locked, so that the next one can remove
those of dead processes; a name tells whose they are: half of it is a digest of the other half.
"""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


def write_atomically(path: Path, content: "bytes | memoryview") -> None:
    """Replace the file at `path`, or where a link at `path` leads, by `content`.

    Raises:
        OSError: nothing was replaced, and nothing is left behind.
    """
    with replacing_file(path) as file:
        _write_all(file, content)


@contextmanager
def replacing_file(path: Path) -> Iterator[int]:
    """Open a new file, to be written and read, that replaces the one at `path` in the end.

    Two writers have a file each, and the last one's stays. After an error in the block nothing is
    replaced.

    Raises:
        OSError: nothing was replaced, and nothing is left behind.
    """
    path = _link_target(path)
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "no regular file"
        raise OSError(errno.EINVAL, f"it is {kind}")
    temporary = path.with_name(temporary_name(secrets.token_hex(8)))
    unnamed = _open_unnamed(path.parent)
    file = _open_locked(temporary) if unnamed is None else unnamed
    try:
        _take_after(path, file)
        yield file
        os.fsync(file)
        if unnamed is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
            # With a folder given, os.link follows the link in /proc to the unnamed file.
            os.link(f"/proc/self/fd/{file}", temporary, src_dir_fd=file, follow_symlinks=True)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    _sweep(path.parent)
    _sync_folder(path.parent)


def _link_target(path: Path) -> Path:
    """Follow links, so that a link stays one and its target is replaced."""
    circle = OSError(errno.ELOOP, "it is a circle of links")
    try:
        target = path.resolve()
    except RuntimeError as error:  # up to Python 3.12
        raise circle from error
    if target.is_symlink():
        raise circle
    return target


def temporary_name(unique: str) -> str:
    """The name of a temporary file; nobody else's has this form by chance."""
    return f".pm-mined-{unique}-{sha256(unique.encode()).hexdigest()[:16]}.tmp"


def _take_after(path: Path, file: int) -> None:
    """Give a new file the owner, the group and the mode of the one that it replaces."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        return
    mode = stat.S_IMODE(old.st_mode) & 0o777
    with suppress(OSError):  # only the superuser gives files away
        os.fchown(file, old.st_uid, -1)
    try:
        os.fchown(file, -1, old.st_gid)
    except OSError:
        mode &= ~0o070  # what one group may do is not for another
    os.fchmod(file, mode)


def _open_unnamed(folder: Path) -> int | None:
    """Open a new file without a name; None where the system has no such files."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in _NO_UNNAMED_FILES:
            return None
        raise


def _open_locked(path: Path) -> int:
    """Open a new file with a name, locked."""
    while True:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return file
        os.close(file)  # swept away before it was locked


def _write_all(file: int, content: "bytes | memoryview") -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sweep(folder: Path) -> None:
    """Remove the temporary files of dead writers: those that nobody has locked."""
    for stale in folder.glob(".pm-mined-*-*.tmp"):
        if stale.name != temporary_name(stale.name.split("-")[2]):
            continue  # named by somebody else
        with suppress(OSError):  # its writer lives, or was faster
            file = os.open(stale, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISREG(os.fstat(file).st_mode):
                    stale.unlink()
            finally:
                os.close(file)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
