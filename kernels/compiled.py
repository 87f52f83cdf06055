"""Compiling kernels, with a cache (`jit`), and running them in threads (`run_in_threads`)."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., object])


def _cache_folder() -> str:
    """A folder in the user's cache, another one for each state of the kernels.

    Numba's default, beside the sources, would outlive an uninstallation; and Numba watches only
    the file of a cached function for changes, not those of the functions that it calls.
    """
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return os.path.join(folder, "pm-mined", digest.hexdigest()[:16])


_CACHE = numba.config.CACHE_DIR or _cache_folder()


def jit(function: _Function) -> _Function:
    """Compile when first called, without the GIL, and cache the machine code.

    `NUMBA_CACHE_DIR` names another folder than the one in the user's cache. Where no folder can be
    written, nothing is cached.
    """
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _CACHE
    try:
        return numba.njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no place for a cache
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]
    finally:
        numba.config.CACHE_DIR = before


def run_in_threads(run: Callable[[int, int], None], count: int, per_task: int) -> None:
    """Call `run(first, last)` for ranges of `per_task` items that make up `count`.

    A `run` that releases the GIL and writes only its own rows gives the same answer with any
    number of threads. `NUMBA_NUM_THREADS` sets how many there are.
    """
    with ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS) as pool:
        starts = range(0, count, per_task)
        list(pool.map(lambda first: run(first, min(first + per_task, count)), starts))
