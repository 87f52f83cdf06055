"""The growth of matching by edit distance with the vocabularies, beside prefixes and RapidFuzz.

    python benchmarks/scaling_mined.py [--sizes N...] [--runs N] [--plot FILE] [--json]

The vocabularies are those of scaling.py. RapidFuzz compares all pairs as long as that is expected
to take less than a minute, and checks a random sample of the answers where it takes more.
benchmarks/README.md says what each figure means.
"""

import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import Report, check_equal, command_line, seconds_of
from peers import nearest_by_rapidfuzz
from plot import log_log_plot
from scaling import synthetic_pair
from strategies import Pair, edit_matches, make_pair, rows_of

from pm_mined.bench import PACKAGES, timed

SIZES = [8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000]
STRATEGIES = ("pm-mined", "mined")
LONGEST = 60.0  # seconds that RapidFuzz may take
SAMPLE = 200


def check_mined(pair: Pair, sample: int | None) -> float:
    """The gate: RapidFuzz finds the same, for all or some tokens; returns its seconds."""
    rows = pair.rows
    if sample is not None and sample < len(rows):
        picked = random.Random(0).sample(range(len(rows)), sample)
        rows = rows[np.sort(np.array(picked, np.int64))]
    tokens, found = pair.src.packed.take(rows), pair.match("mined").matches
    nearest, seconds = timed(lambda: nearest_by_rapidfuzz(tokens, pair.dst.packed, "char"))
    check_equal(rows_of(found, rows), edit_matches(*nearest), f"{pair}, mined")
    return seconds


def measure_size(size: int, runs: int, *, all_pairs: bool) -> dict[str, Any]:
    """All figures of one size; the gate, which comes first, compiles the kernels."""
    pair = make_pair(*synthetic_pair(size))
    checking = check_mined(pair, None if all_pairs else SAMPLE)
    seconds = seconds_of(runs, {name: partial(pair.match, name) for name in STRATEGIES})
    return {
        "tokens": size,
        "queries": len(pair.rows),
        "seconds": seconds,
        "rapidfuzz_seconds": checking if all_pairs else None,
    }


def measure_sizes(sizes: list[int], runs: int) -> list[dict[str, Any]]:
    """Every size; RapidFuzz's time grows with the square of it."""
    measured: list[dict[str, Any]] = []
    per_pair = 0.0
    for size in sizes:
        one = measure_size(size, runs, all_pairs=per_pair * size**2 < LONGEST)
        measured.append(one)
        per_pair = (one["rapidfuzz_seconds"] or per_pair * size**2) / size**2
    return measured


def lines_of(sizes: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Name -> (tokens, seconds) of each size at which it was timed."""
    lines = {
        name: [(one["tokens"], one["seconds"][name].median) for one in sizes] for name in STRATEGIES
    }
    timed_pairs = [one for one in sizes if one["rapidfuzz_seconds"] is not None]
    lines["RapidFuzz, all pairs"] = [
        (one["tokens"], one["rapidfuzz_seconds"]) for one in timed_pairs
    ]
    return lines


def row_of(one: dict[str, Any]) -> list[str]:
    """One size as a row."""
    medians = [one["seconds"][name].median for name in STRATEGIES]
    theirs = one["rapidfuzz_seconds"]
    return [
        f"{one['tokens']:,}",
        f"{one['queries']:,}",
        *(f"{seconds:.3f}" for seconds in medians),
        "" if theirs is None else f"{theirs:.2f}",
        "" if theirs is None else f"{theirs / medians[-1]:,.1f} x",
    ]


def main() -> None:
    """Measure every size; print a table, draw it if asked to, then one JSON line."""
    parser = command_line(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="tokens on each side")
    parser.add_argument("--runs", type=int, default=5, help="of everything but RapidFuzz")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the times: an SVG")
    options = parser.parse_args()

    packages = (*PACKAGES, "rapidfuzz")
    report = Report("scaling_mined", json_only=options.json, packages=packages)
    sizes = measure_sizes(options.sizes, options.runs)
    report.line("\nthe answers are RapidFuzz's wherever they were compared\n")
    header = ["tokens each", "to be compared", *(f"{name} s" for name in STRATEGIES)]
    report.table([*header, "RapidFuzz s", "of mined"], [row_of(one) for one in sizes])
    if options.plot is not None:
        labels = ("tokens of each vocabulary", "seconds")
        options.plot.write_text(log_log_plot(lines_of(sizes), *labels), "utf-8")
    report.document["sizes"] = sizes
    report.finish()


if __name__ == "__main__":
    main()
