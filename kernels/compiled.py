"""Compiling kernels (`jit`), and running them in threads (`run_in_threads`)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba

from .cache import cache_of

_Function = TypeVar("_Function", bound=Callable[..., object])


def jit(function: _Function) -> _Function:
    """Compile when first called, without the GIL, and cache the machine code.

    `NUMBA_CACHE_DIR` names another folder than the one in the user's cache. Where no folder can be
    written by the user alone, nothing is cached.
    """
    compiled = numba.njit(nogil=True)(function)
    if not numba.config.DISABLE_JIT and (cache := cache_of(function)) is not None:
        compiled._cache = cache
    return compiled  # type: ignore[no-any-return] # Numba is untyped


def run_in_threads(run: Callable[[int, int], None], count: int, per_task: int) -> None:
    """Call `run(first, last)` for ranges of `per_task` items that make up `count`.

    A `run` that releases the GIL and writes only its own rows gives the same answer with any
    number of threads. `NUMBA_NUM_THREADS` sets how many there are.
    """
    with ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS) as pool:
        starts = range(0, count, per_task)
        list(pool.map(lambda first: run(first, min(first + per_task, count)), starts))
