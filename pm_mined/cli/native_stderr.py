"""Output of native code on stderr: held back, so that a panic is not told twice."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from .shell import settings

_PANIC = b"panicked at "


@contextmanager
def hold_back_native_stderr() -> Iterator[None]:
    """Let Python alone write to stderr; what native code writes there follows at the end.

    Unless that is the report of a panic: libraries in Rust print one before they raise, with
    a stack if RUST_BACKTRACE is set, and the error is one line. `--debug` shows it.
    """
    stderr = sys.__stderr__
    if stderr is None or stderr is not sys.stderr:  # closed, or replaced by whoever calls
        yield
        return
    stderr.flush()
    shown = os.dup(stderr.fileno())
    with tempfile.TemporaryFile() as held, open(shown, "w", encoding=stderr.encoding) as python:
        os.dup2(held.fileno(), stderr.fileno())
        sys.stderr = python
        try:
            yield
        finally:
            sys.stderr = stderr
            python.flush()
            os.dup2(shown, stderr.fileno())
            held.seek(0)
            _tell(held.read())


def _tell(written: bytes) -> None:
    if settings.debug or _PANIC not in written:
        sys.stderr.buffer.write(written)
        sys.stderr.flush()
