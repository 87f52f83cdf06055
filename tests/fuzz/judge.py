"""Running a command on an input, and what is wrong with what it did.

Each command runs in a process of its own, forked from one that has loaded everything: a case takes
hundredths of a second, and what happens to it happens to no other.
"""

import faulthandler
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SECONDS = 20  # of a core, or asleep; waiting for a core, on a busy machine, is neither
BYTES = 2 * 2**30
_STEP = 0.002  # seconds between two looks at a command
_MORE = 4 * 2**30  # beyond which a command is stopped, for the machine's sake
_LONGEST = 1000  # characters of a line
_NOTES = re.compile(r"^(note|warning): ")
_CRASHES = ("Traceback", "internal error", "panicked at", "Aborted", "MemoryError")
_ANSWERS_BY_STATUS = {"compare", "check", "verify", "chat"}


class Done(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str
    seconds: float  # of a core, or asleep if those are more
    memory: int  # bytes, more than at its beginning


def run(
    main: Callable[[], object], arguments: Sequence[str], folder: Path, said: str = os.devnull
) -> Done:
    """Run a program with arguments in a folder; a negative status is the signal that ended it.

    `said` is the file that is its standard input.
    """
    streams = [folder / said, *(folder.parent / name for name in ("out", "err"))]
    process = os.fork()
    if process == 0:
        _become(main, arguments, folder, streams)
    status, usage, asleep = _wait(process)
    out, err = (path.read_bytes().decode("utf-8", "replace") for path in streams[1:])
    used = usage.ru_maxrss * 1024 - int((folder.parent / "resident").read_text())
    return Done(status, out, err, max(usage.ru_utime + usage.ru_stime, asleep), used)


def _become(
    main: Callable[[], object], arguments: Sequence[str], folder: Path, streams: Sequence[Path]
) -> None:
    """Go on as the program; never return."""
    status = 1
    try:
        faulthandler.disable()
        os.setpgid(0, 0)
        os.chdir(folder)
        for number, path in enumerate(streams):
            how = os.O_CREAT | os.O_TRUNC | os.O_WRONLY if number else os.O_RDONLY
            os.dup2(os.open(path, how), number)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        (folder.parent / "resident").write_text(str(_resident()))  # as it begins
        limit = _virtual() + _MORE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 1))
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


def _wait(process: int) -> tuple[int, resource.struct_rusage, float]:
    """Wait for the end of a process, and kill it if it sleeps too long; the seconds it slept."""
    asleep, looked = 0.0, time.monotonic()
    while True:
        found, status, usage = os.wait4(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage, asleep
        before, looked = looked, time.monotonic()
        if _sleeps(process):
            asleep += min(looked - before, 2 * _STEP)  # this process may itself have had to wait
        if asleep > SECONDS:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            os.kill(process, signal.SIGKILL)
            _, status, usage = os.wait4(process, 0)
            return os.waitstatus_to_exitcode(status), usage, asleep
        time.sleep(_STEP)


def _sleeps(process: int) -> bool:
    """Whether no thread of a process runs or waits for a core or a disk."""
    states = Path(f"/proc/{process}/task").glob("*/stat")
    with suppress(FileNotFoundError, ProcessLookupError):
        return all(one.read_text().rpartition(")")[2].split()[0] == "S" for one in states)
    return False  # a thread has just ended


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def faults(done: Done, arguments: Sequence[str], before: set[str], after: set[str]) -> list[str]:
    """Everything wrong with what a command did; nothing, for a good one.

    `before` and `after` are the paths in its folder. A command that fails leaves no new one.
    """
    found = [*_wrong_ends(done), *_wrong_words(done, arguments)]
    if done.status and (left := after - before):
        found.append(f"left {', '.join(sorted(left))}")
    if gone := before - after:
        found.append(f"removed {', '.join(sorted(gone))}")
    return found


def _wrong_ends(done: Done) -> Iterator[str]:
    if done.seconds > SECONDS:
        yield f"took more than {SECONDS} s"
    elif done.status not in (0, 1, 2):
        yield f"ended by status {done.status}"
    if done.memory > BYTES:
        yield f"took {done.memory / 2**30:.1f} GiB"


def _wrong_words(done: Done, arguments: Sequence[str]) -> Iterator[str]:
    said = [line for line in done.err.splitlines() if not _NOTES.match(line)]
    crashed = [sign for sign in _CRASHES if sign in done.err]
    yield from crashed
    is_error = done.status in (1, 2) and not done.out and "chat" not in arguments  # a line a turn
    if is_error and not crashed and len(said) != 1 and "Usage:" not in done.err:
        yield f"{len(said)} lines for one error"
    if any(len(line) > _LONGEST for line in said):
        yield f"a line of {max(map(len, said))} characters"
    if done.out and done.status and not _ANSWERS_BY_STATUS & set(arguments):
        yield "a result although it failed"
    if done.out and done.status == 1 and list(arguments[1:3]) == ["vocab", "check"]:
        yield f"not what its own library writes: {done.out[:200]}"
