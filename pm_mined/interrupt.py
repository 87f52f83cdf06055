"""Ctrl-C ends a program with one line and status 130, whatever it is doing.

This is heard of first, so it imports next to nothing: not even `typing`, which takes its time.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

STATUS = 130

_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar may have hidden it


def run_program(program: str, start: Callable[[], object]) -> None:
    """Call `start`; Ctrl-C ends the program at once while it imports, else by KeyboardInterrupt.

    An import may turn an exception into another, or print and forget it; and it leaves nothing
    that would have to be cleaned up. Where a shell has made the program deaf to Ctrl-C, as what
    runs in its background, it stays so.
    """
    stderr = _copy_of_stderr()

    def end(*_: object) -> None:
        line = f"{program}: interrupted\n".encode()
        try:
            os.write(stderr, _SHOW_CURSOR + line if os.isatty(stderr) else line)
        finally:
            os._exit(STATUS)

    def hear(_signal: int, frame: FrameType | None) -> None:
        if _imports(frame):
            end()
        raise KeyboardInterrupt

    def forget(raised: "sys.UnraisableHookArgs") -> None:
        if issubclass(raised.exc_type, KeyboardInterrupt):  # in a destructor or a callback
            end()
        sys.__unraisablehook__(raised)

    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if hears:
        signal.signal(signal.SIGINT, hear)
        sys.unraisablehook = forget
    try:
        start()
    except KeyboardInterrupt:
        end()
    finally:
        if hears:
            signal.signal(signal.SIGINT, end)  # while the interpreter ends


def _copy_of_stderr() -> int:
    """The number of a stream to where stderr leads now; -1 if it is closed."""
    try:
        return os.dup(2)
    except OSError:
        return -1


def _imports(frame: FrameType | None) -> bool:
    """True if a module is being imported in this frame or in one that called it."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None
