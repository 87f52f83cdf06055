"""Running the command lines: their output and their status."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import chdir, suppress
from importlib import import_module
from typing import NamedTuple
from unittest import mock

from pm_mined.cli import shell

COMMAND = [sys.executable, "-m", "pm_mined"]
MODULES = {"pm-mined": "pm_mined", "cmc-runtime": "cmc_runtime"}


class Finished(NamedTuple):
    status: int
    stdout: str
    stderr: str


def run(*arguments, cwd=None, program="pm-mined", stdin=b"", **environ):
    """Run a command line with these arguments: in a process of its own if variables are given.

    Without, it runs in this one, which has loaded what it needs, and reads `stdin`.
    """
    if environ:
        return run_process(*arguments, cwd=cwd, program=program, **environ)
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    given = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    with (
        chdir(cwd or "."),
        mock.patch.object(sys, "argv", [program, *map(str, arguments)]),
        mock.patch.multiple(sys, stdin=given, stdout=streams[0], stderr=streams[1]),
    ):
        try:
            shell.run(import_module(f"{MODULES[program]}.cli").app)
            status = 0
        except SystemExit as end:
            status = end.code or 0
    return Finished(status, *(stream.buffer.getvalue().decode() for stream in streams))


def run_process(*arguments, cwd=None, program="pm-mined", **environ):
    """Run a command line as a person does, with environment variables."""
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
