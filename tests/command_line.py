"""Running the command line as a person does: another process, its output and its status."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from typing import NamedTuple

COMMAND = [sys.executable, "-m", "pm_mined"]
MODULES = {"pm-mined": "pm_mined", "cmc-runtime": "cmc_runtime"}


class Finished(NamedTuple):
    status: int
    stdout: str
    stderr: str


def run(*arguments, cwd=None, program="pm-mined", **environ):
    """Run a command line with these arguments and environment variables."""
    done = subprocess.run(
        [sys.executable, "-m", MODULES[program], *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "error", **environ},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def refused(*arguments, cwd=None, **environ):
    """The one line that tells why a command failed."""
    done = run(*arguments, cwd=cwd, **environ)
    assert done.status == 1, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("pm-mined: ")
    assert "internal error" not in done.stderr
    return done.stderr.removeprefix("pm-mined: ").rstrip()


def on_a_terminal(command, cwd, **environ):
    """What a command prints to a terminal of 60 columns."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environ = {**os.environ, "TERM": "xterm", **environ}
    with subprocess.Popen(command, cwd=cwd, env=environ, stdout=end, stderr=end) as process:
        os.close(end)
        printed = b""
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(terminal, 4096):
                printed += chunk
    os.close(terminal)
    assert process.returncode == 0
    return printed.decode()
