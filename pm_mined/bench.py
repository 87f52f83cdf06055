"""How fast the strategies map on this machine, and how near that is to the speed of its memory."""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import PmMinedError, VocabularyError
from .strategies.registry import STRATEGIES, Matched, Options, describe, options_of
from .vocabulary import Vocabulary

Result = TypeVar("Result")
Progress = Callable[[int, int], object]

PACKAGES = ("pm-mined", "numba", "llvmlite", "numpy", "pyarrow")
TOKENIZER_PACKAGES = ("tokenizers", "sentencepiece", "tiktoken")

_COPIED = 2**28  # bytes: more than any cache holds
_COPIED_PER_TASK = 2**22


class Workload(NamedTuple):
    """What is timed."""

    strategy: str
    threads: int | None  # None: as many as the tokenizer's library starts


def bench(
    src: Vocabulary,
    dst: Vocabulary,
    *,
    strategies: Sequence[str] = (),
    threads: Sequence[int] = (),
    runs: int = 5,
    progress: Progress = lambda _done, _total: None,
) -> dict[str, Any]:
    """Time the matching of `src` onto `dst`: both are loaded, and the kernels are compiled.

    Without `strategies`, all for which the vocabularies have what they need; without `threads`, 1
    and one for each core. `progress` is told how many of all timed runs are done.

    Returns:
        What `pm-mined bench --json` prints.

    Raises:
        OptionError: there is no such strategy.
        VocabularyError: a strategy of `strategies` needs a tokenizer that cannot be had.
        PmMinedError: a result depends on the number of threads.
    """
    options = {name: options_of(name, {}) for name in strategies or STRATEGIES}
    counts = sorted(set(threads or (1, all_threads())))
    results, left_out = _run_all(src, dst, options, strict=bool(strategies))
    copying = copy_speeds(counts, runs)
    seconds = _time_all(src, dst, options, results, counts, runs, progress)
    return {
        "machine": machine((*PACKAGES, *TOKENIZER_PACKAGES)),
        "src": _side(src),
        "dst": _side(dst),
        "runs": runs,
        "copy_bytes_per_second": {str(count): speed for count, speed in copying.items()},
        "strategies": [
            {
                **describe(name, options[name]),
                "threads": count,
                **_figures(src, dst, results[name], took, copying[count or counts[-1]]),
            }
            for (name, count), took in seconds.items()
        ],
        "left_out": left_out,
    }


def all_threads() -> int:
    """As many as kernels use: a thread for each core, or `NUMBA_NUM_THREADS`."""
    import numba

    return int(numba.config.NUMBA_NUM_THREADS)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let kernels use `count` threads."""
    import numba

    before, numba.config.NUMBA_NUM_THREADS = numba.config.NUMBA_NUM_THREADS, count
    try:
        yield
    finally:
        numba.config.NUMBA_NUM_THREADS = before


def timed(run: Callable[[], Result]) -> tuple[Result, float]:
    """What `run` returns, and the seconds it took."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def _time_all(
    src: Vocabulary,
    dst: Vocabulary,
    options: dict[str, Options],
    results: dict[str, Matched],
    counts: list[int],
    runs: int,
    progress: Progress,
) -> dict[Workload, list[float]]:
    """The seconds of each run; the results have to be `results`, whatever the threads."""
    seconds: dict[Workload, list[float]] = {
        Workload(name, count): []
        for name in results
        for count in ([None] if STRATEGIES[name].asks_tokenizer else counts)
    }
    total = runs * len(seconds)
    # In turn: what disturbs the machine disturbs them all.
    for done, workload in enumerate([*seconds] * runs):
        progress(done, total)
        result, took = _run(src, dst, workload, options[workload.strategy])
        _check_same(result, results[workload.strategy], workload)
        seconds[workload].append(took)
    return seconds


def _run(
    src: Vocabulary, dst: Vocabulary, workload: Workload, options: Options
) -> tuple[Matched, float]:
    with using_threads(workload.threads or all_threads()):
        return timed(lambda: STRATEGIES[workload.strategy].match(src, dst, options))


def _run_all(
    src: Vocabulary, dst: Vocabulary, options: dict[str, Options], *, strict: bool
) -> tuple[dict[str, Matched], dict[str, str]]:
    """Each strategy's result, which compiles its kernels; and which have none, and why."""
    results: dict[str, Matched] = {}
    left_out: dict[str, str] = {}
    for name, chosen in options.items():
        try:
            results[name] = STRATEGIES[name].match(src, dst, chosen)
        except VocabularyError as error:
            if strict or not STRATEGIES[name].asks_tokenizer:
                raise
            left_out[name] = str(error)
    return results, left_out


def _arrays(result: Matched) -> list[NDArray[Any]]:
    arrays = (*result.matches, *(result.choices or ()))
    return [array for array in arrays if array is not None]


def _check_same(found: Matched, expected: Matched, workload: Workload) -> None:
    for one, other in zip(_arrays(found), _arrays(expected), strict=True):
        if not np.array_equal(one, other):
            count = f" on {workload.threads} thread(s)" if workload.threads else ""
            raise PmMinedError(
                f"{workload.strategy}: another result{count} than in the first run, so no times; "
                "this is a bug: please report it with the names of the vocabularies"
            )


def copy_speeds(counts: Sequence[int], runs: int) -> dict[int, float]:
    """Bytes per second that are read and written when a large array is copied: the best run.

    One figure for each number of threads.
    """
    from .kernels.compiled import run_in_threads

    source, target = np.ones(_COPIED, np.uint8), np.zeros(_COPIED, np.uint8)

    def copy(first: int, last: int) -> None:
        target[first:last] = source[first:last]

    def seconds(count: int) -> float:
        with using_threads(count):
            return timed(lambda: run_in_threads(copy, _COPIED, _COPIED_PER_TASK))[1]

    copy(0, _COPIED)  # the system gives memory when it is first written
    return {count: 2 * _COPIED / min(seconds(count) for _ in range(runs)) for count in counts}


def _figures(
    src: Vocabulary, dst: Vocabulary, result: Matched, seconds: list[float], copying: float
) -> dict[str, Any]:
    """What follows from the seconds: speeds, and how much of the time memory alone would take."""
    typical = median(seconds)
    tokens = sum(len(side.packed.data) for side in (src, dst))
    read = sum(array.nbytes for side in (src, dst) for array in side.packed)
    written = sum(array.nbytes for array in _arrays(result))
    floor = (read + written) / copying
    return {
        "seconds": seconds,
        "median_seconds": typical,
        "tokens_per_second": len(src) / typical,
        "bytes_per_second": tokens / typical,
        "bytes_read": read,
        "bytes_written": written,
        "floor_seconds": floor,
        "floor_share": floor / typical,
    }


def _side(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "name": vocabulary.name,
        "source": vocabulary.source,
        "size": len(vocabulary),
        "bytes": len(vocabulary.packed.data),
        "fingerprint": vocabulary.fingerprint,
    }


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """On what, and with which versions, figures are measured."""
    return {
        "cpu": _cpu_model(),
        "load": round(os.getloadavg()[0], 1),  # of the last minute, by whoever else is there
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
