"""Writing a file so that it is there as a whole or not at all, whatever happens meanwhile."""

import errno
import os
import secrets
from pathlib import Path

_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


def write_atomically(path: Path, content: "bytes | memoryview") -> None:
    """Replace `path` by `content`: written beside it, synced, then renamed over it.

    On Linux the new file has no name while it is written, so that even a killed process
    leaves nothing behind.

    Raises:
        OSError: nothing was replaced, and nothing is left behind.
    """
    path = path.resolve()  # a link stays a link: its target is replaced
    if path.exists() and not path.is_file():
        raise OSError(
            errno.EINVAL, "it is a directory" if path.is_dir() else "it is no regular file"
        )
    temporary = path.with_name(f".pm-mined-{secrets.token_hex(8)}.tmp")
    try:
        _write_new(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _write_new(path: Path, content: "bytes | memoryview") -> None:
    """Write and sync a new file that gets its name, if the system can do that, at the end."""
    unnamed = _open_unnamed(path.parent)
    file = (
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666) if unnamed is None else unnamed
    )
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
        if unnamed is not None:
            # With a folder given, os.link follows the link in /proc to the unnamed file.
            os.link(f"/proc/self/fd/{file}", path, src_dir_fd=file, follow_symlinks=True)
    finally:
        os.close(file)


def _open_unnamed(folder: Path) -> int | None:
    """A new file without a name in `folder`, or None where the system has no such thing."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except OSError as error:
        if error.errno in _NO_UNNAMED_FILES:
            return None
        raise


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where folders can be synced."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
