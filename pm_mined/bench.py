"""Timing the strategies on this machine, beside the speed of its memory."""

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
from .strategies.base import Matched, Options
from .strategies.registry import STRATEGIES, metadata_of, options_of
from .vocabulary import Vocabulary

Result = TypeVar("Result")
Progress = Callable[[int, int], object]

PACKAGES = ("pm-mined", "numba", "llvmlite", "numpy", "pyarrow")
TOKENIZER_PACKAGES = ("tokenizers", "sentencepiece", "tiktoken")

COPIED = 2**28  # bytes: more than any cache holds
COPIED_PER_TASK = 2**22


class Workload(NamedTuple):
    """A strategy to time, and its threads."""

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
    """Time the matching of `src` onto `dst`, without loading them and compiling the kernels.

    By default all `strategies` for which the tokenizers can be had are timed, with 1 thread and
    one for each core. `progress` is called with the number of timed runs done, and of all.

    Returns:
        The object that `pm-mined bench --json` prints.

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
                **metadata_of(name, options[name]),
                "threads": count,
                **_figures(src, dst, results[name], took, copying[count or counts[-1]]),
            }
            for (name, count), took in seconds.items()
        ],
        "left_out": left_out,
    }


def all_threads() -> int:
    """The threads that kernels use: one for each core, or `NUMBA_NUM_THREADS`."""
    import numba

    return int(numba.config.NUMBA_NUM_THREADS)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let kernels use `count` threads meanwhile."""
    import numba

    before, numba.config.NUMBA_NUM_THREADS = numba.config.NUMBA_NUM_THREADS, count
    try:
        yield
    finally:
        numba.config.NUMBA_NUM_THREADS = before


def timed(run: Callable[[], Result]) -> tuple[Result, float]:
    """Run, and return the result and the seconds it took."""
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
    """The seconds of each run; every result is compared with `results`."""
    seconds: dict[Workload, list[float]] = {
        Workload(name, count): []
        for name in results
        for count in ([None] if STRATEGIES[name].asks_tokenizer else counts)
    }
    total = runs * len(seconds)
    # In turn, so that a disturbance of the machine slows them all.
    for done, workload in enumerate([*seconds] * runs):
        progress(done, total)
        result, took = _run(src, dst, workload, options[workload.strategy])
        check_same(result, results[workload.strategy], workload)
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
    """Each strategy's result, and the reasons why others have none; compiles the kernels."""
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


def check_same(found: Matched, expected: Matched, workload: Workload) -> None:
    """Compare a result with that of the first run.

    Raises:
        PmMinedError: they differ.
    """
    for one, other in zip(_arrays(found), _arrays(expected), strict=True):
        if not np.array_equal(one, other):
            count = f" on {workload.threads} thread(s)" if workload.threads else ""
            raise PmMinedError(
                f"{workload.strategy}: another result{count} than in the first run, so no times; "
                "this is a bug: please report it with the names of the vocabularies"
            )


def copy_speeds(counts: Sequence[int], runs: int) -> dict[int, float]:
    """Measure bytes per second, read plus written, of copying a large array: the best run.

    There is one figure for each number of threads.
    """
    from .kernels.compiled import run_in_threads

    source, target = np.ones(COPIED, np.uint8), np.zeros(COPIED, np.uint8)

    def copy(first: int, last: int) -> None:
        target[first:last] = source[first:last]

    def seconds(count: int) -> float:
        with using_threads(count):
            return timed(lambda: run_in_threads(copy, COPIED, COPIED_PER_TASK))[1]

    copy(0, COPIED)  # the system gives memory when it is first written
    return {count: 2 * COPIED / min(seconds(count) for _ in range(runs)) for count in counts}


def _figures(
    src: Vocabulary, dst: Vocabulary, result: Matched, seconds: list[float], copying: float
) -> dict[str, Any]:
    """Speeds, and the share of the time that memory alone would take."""
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
    """Describe the machine and the versions of `packages`."""
    return {
        "cpu": _cpu_model(),
        "load": round(os.getloadavg()[0], 1),  # of the last minute, by all processes
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
