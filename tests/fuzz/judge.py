"""Running a command on an input, and what is wrong with what it did.

Each command runs in a process of its own, forked from one that has loaded everything: a case takes
hundredths of a second, and what happens to it happens to no other.
"""

import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SECONDS = 20
BYTES = 2 * 2**30
_MORE = 4 * 2**30  # beyond which a command is stopped, for the machine's sake
_NOTES = re.compile(r"^(note|warning): ")


class Done(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str
    seconds: float
    memory: int  # bytes, more than at its beginning


def run(main: Callable[[], object], arguments: Sequence[str], folder: Path) -> Done:
    """Run a program with arguments in a folder; a negative status is the signal that ended it."""
    streams = [folder.parent / name for name in ("out", "err")]
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        _become(main, arguments, folder, streams)
    status, usage = _wait(process, started + SECONDS)
    out, err = (path.read_bytes().decode("utf-8", "replace") for path in streams)
    used = usage.ru_maxrss * 1024 - _resident()
    return Done(status, out, err, time.monotonic() - started, used)


def _become(
    main: Callable[[], object], arguments: Sequence[str], folder: Path, streams: Sequence[Path]
) -> None:
    """Go on as the program; never return."""
    status = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for number, path in enumerate(streams, 1):
            os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        limit = _virtual() + _MORE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        sys.argv = list(arguments)
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _wait(process: int, until: float) -> tuple[int, resource.struct_rusage]:
    """Wait for the end of a process, and kill it if it is late."""
    while True:
        found, status, usage = os.wait4(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() > until:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            os.kill(process, signal.SIGKILL)
            _, status, usage = os.wait4(process, 0)
            return os.waitstatus_to_exitcode(status), usage
        time.sleep(0.002)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def faults(done: Done, arguments: Sequence[str], before: set[str], after: set[str]) -> list[str]:
    """What is wrong with what a command did; nothing, for a good one.

    `before` and `after` are the paths in its folder. A command that fails leaves no new one.
    """
    found = []
    said = [line for line in done.err.splitlines() if not _NOTES.match(line)]
    if done.seconds > SECONDS:
        found.append(f"took more than {SECONDS} s")
    elif done.status not in (0, 1, 2):
        found.append(f"ended by status {done.status}")
    if done.memory > BYTES:
        found.append(f"took {done.memory / 2**30:.1f} GiB")
    for sign in ("Traceback", "internal error", "panicked at", "Aborted", "MemoryError"):
        if sign in done.err:
            found.append(sign)
    if done.status and not found and len(said) != 1 and "Usage:" not in done.err:
        found.append(f"{len(said)} lines for one error")
    if any(len(line) > 1000 for line in said):
        found.append(f"a line of {max(map(len, said))} characters")
    if done.status and done.out and "compare" not in arguments and "check" not in arguments:
        found.append("a result although it failed")
    if done.status and (left := after - before):
        found.append(f"left {', '.join(sorted(left))}")
    if gone := before - after:
        found.append(f"removed {', '.join(sorted(gone))}")
    return found
