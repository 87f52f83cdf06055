"""Shared by the benchmarks: the correctness gate, timing, child processes, and printing."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median, quantiles
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pm_mined.bench import PACKAGES, machine, timed
from pm_mined.kernels.tokens import Matches

Name = TypeVar("Name")
Result = TypeVar("Result")

# A child inherits the peak memory of the process that starts it, so a small process must start
# it: this one. It prints wall seconds, peak memory in the system's unit, and the exit status.
_LAUNCHER = """
import os, sys, time
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


def command_line(about: str) -> argparse.ArgumentParser:
    """A parser with the option of all benchmarks; its description is the first line of `about`."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    return parser


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """Add the option `--pair`, whose value is a list of names, two each, or None."""
    parser.add_argument(
        "--pair",
        nargs=2,
        metavar=("SRC", "DST"),
        action="append",
        help="names of `pm-mined vocab list`; repeatable",
    )


class Spread(NamedTuple):
    """The median of some measurements, and the bounds of their middle three fifths."""

    median: float
    low: float  # 20 % quantile
    high: float  # 80 % quantile

    def scaled(self, factor: float) -> "Spread":
        """The same measurements in another unit."""
        return Spread(*(value * factor for value in self))


class ProcessRun(NamedTuple):
    """The time and memory of a child process."""

    seconds: float
    peak_mb: float


def spread(samples: Sequence[float]) -> Spread:
    """Median and 20/80 % quantiles.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0, 90.0])
    Spread(median=3.5, low=2.0, high=5.0)
    """
    low, *_, high = quantiles([*samples] * (1 + (len(samples) == 1)), n=5, method="inclusive")
    return Spread(median(samples), low, high)


def interleaved(
    runs: int, workloads: Mapping[Name, Callable[[], Result]]
) -> dict[Name, list[Result]]:
    """Run each workload `runs` times, A B C A B C, so that disturbances slow them all."""
    results: dict[Name, list[Result]] = {name: [] for name in workloads}
    for _ in range(runs):
        for name, run in workloads.items():
            results[name].append(run())
    return results


def seconds_of(runs: int, workloads: Mapping[str, Callable[[], object]]) -> dict[str, Spread]:
    """The seconds that each workload takes, interleaved."""
    timers = {name: partial(timed, run) for name, run in workloads.items()}
    return {
        name: spread([seconds for _, seconds in samples])
        for name, samples in interleaved(runs, timers).items()
    }


def run_process(command: Sequence[str], extra_env: Mapping[str, str] | None = None) -> ProcessRun:
    """Run a child process without its standard output; raises if it fails."""
    launched = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command],
        env={**os.environ, **(extra_env or {})},
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds, peak, status = launched.stdout.split()
    if int(status) != 0:
        sys.exit(f"exit status {int(status)}: {' '.join(command)}")
    return ProcessRun(float(seconds), megabytes(int(peak)))


def megabytes(ru_maxrss: int) -> float:
    """The peak memory of `getrusage`: KiB everywhere but on macOS."""
    return ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def check_equal(found: Matches, expected: Matches, what: str) -> None:
    """The correctness gate: exit 1 at the first difference, before any time was printed."""
    rows, wanted = np.column_stack(found), np.column_stack(expected)
    if len(rows) != len(wanted):
        sys.exit(f"{what}: {len(rows)} matches, expected {len(wanted)}")
    for i in np.flatnonzero((rows != wanted).any(axis=1))[:1]:
        sys.exit(
            f"{what}: wrong answer, so no times: token {i} has "
            f"{' '.join(found._fields)} {rows[i].tolist()}, expected {wanted[i].tolist()}"
        )


class Report:
    """Prints tables for people, and at the end all figures as one JSON line."""

    def __init__(
        self, benchmark: str, *, json_only: bool, packages: Sequence[str] = PACKAGES
    ) -> None:
        self.json_only = json_only
        self.document: dict[str, Any] = {"benchmark": benchmark, "machine": machine(packages)}
        self.line(", ".join(f"{key} {value}" for key, value in self.document["machine"].items()))

    def line(self, text: str = "") -> None:
        """A line for people."""
        if not self.json_only:
            print(text, flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people: the first column to the left, the others to the right."""
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            self.line("  ".join([row[0].ljust(widths[0]), *cells]))
        self.line()

    def finish(self) -> None:
        """The JSON line."""
        print(json.dumps(self.document), flush=True)
