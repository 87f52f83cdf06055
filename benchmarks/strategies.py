"""The speed of the strategies, beside other libraries with the same results.

    python benchmarks/strategies.py [--pair SRC DST]... [--runs N] [--sample N] [--json]

Nothing is timed in the output before the answers agree. benchmarks/README.md says what each
figure means.
"""

import argparse
import random
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from measure import Report, add_pairs, check_equal, command_line, run_process, seconds_of
from numpy.typing import NDArray
from peers import exact_by_transformers, has_transformers, nearest_by_rapidfuzz

from pm_mined.bench import PACKAGES, TOKENIZER_PACKAGES, timed
from pm_mined.kernels import reference
from pm_mined.kernels.tokens import UNMAPPED, Kind, Matches, PackedTokens, Rule
from pm_mined.strategies.base import Matched, Options
from pm_mined.strategies.registry import STRATEGIES, options_of
from pm_mined.tokenizer.encoders.load import load_encoder
from pm_mined.tokenizer.load import load_vocabulary
from pm_mined.vocabulary import Vocabulary

DEFAULT_PAIRS = [["llama3", "qwen3"]]
MAX_DISTANCE = 2
FALLBACK = Options(fallback="edit", max_distance=MAX_DISTANCE)
WITH_FALLBACK = f"pm-mined --fallback edit --max-distance {MAX_DISTANCE}"

Ids = NDArray[np.int64]


class Pair(NamedTuple):
    """Two vocabularies, and the source tokens whose bytes no destination token has."""

    src: Vocabulary
    dst: Vocabulary
    rows: Ids  # text tokens

    @property
    def queries(self) -> PackedTokens:
        """The tokens of `rows`."""
        return self.src.packed.take(self.rows)

    def match(self, strategy: str, options: Options | None = None) -> Matched:
        """The matches by a strategy."""
        options = options or options_of(strategy, {})
        return STRATEGIES[strategy].match(self.src, self.dst, options)

    def turned(self) -> "Pair":
        """The pair with source and destination exchanged."""
        return make_pair(self.dst, self.src)

    def __str__(self) -> str:
        src, dst = (f"{one.name} ({len(one):,} tokens)" for one in (self.src, self.dst))
        return f"{src} -> {dst}, {len(self.rows):,} text tokens without the same bytes"


def make_pair(src: Vocabulary, dst: Vocabulary) -> Pair:
    """Find the tokens for which strategies differ."""
    exact = STRATEGIES["exact"].match(src, dst, options_of("exact", {})).matches
    unmapped = (exact.dst_id == UNMAPPED) & (src.packed.kinds == Kind.TEXT)
    return Pair(src, dst, np.flatnonzero(unmapped))


def edit_matches(dst_id: NDArray[np.int32], distance: NDArray[np.int32]) -> Matches:
    """Nearest tokens as matches of rule `edit`."""
    rule = np.where(dst_id == UNMAPPED, Rule.NONE, Rule.EDIT).astype(np.int8)
    return Matches(dst_id, rule, distance)


def rows_of(matches: Matches, rows: Ids) -> Matches:
    """The matches of some source tokens."""
    return Matches(matches.dst_id[rows], matches.rule[rows], matches.distance[rows])


def measure_mined(pair: Pair, runs: int) -> dict[str, Any]:
    """`mined` beside RapidFuzz, for every token without the same bytes; the gate comes with it."""
    found, queries = pair.match("mined").matches, pair.queries
    nearest, seconds = timed(lambda: nearest_by_rapidfuzz(queries, pair.dst.packed, "char"))
    check_equal(rows_of(found, pair.rows), edit_matches(*nearest), f"{pair}, mined")
    check_fallback(pair, found)
    ours = seconds_of(
        runs,
        {
            "mined": lambda: pair.match("mined"),
            WITH_FALLBACK: lambda: pair.match("pm-mined", FALLBACK),
            "pm-mined": lambda: pair.match("pm-mined"),
        },
    )
    ratio = seconds / ours["mined"].median
    return {"seconds": ours, "rapidfuzz_seconds": seconds, "ratio": ratio}


def check_fallback(pair: Pair, mined: Matches) -> None:
    """The gate of the fallback: it finds the matches of `mined` that are near enough."""
    alone = pair.match("pm-mined").matches
    found = pair.match("pm-mined", FALLBACK).matches
    left = np.flatnonzero((alone.dst_id == UNMAPPED) & (pair.src.packed.kinds == Kind.TEXT))
    near = left[mined.distance[left] <= MAX_DISTANCE]
    alone.dst_id[near] = mined.dst_id[near]
    alone.rule[near] = mined.rule[near]
    alone.distance[near] = mined.distance[near]
    check_equal(found, alone, f"{pair}, {WITH_FALLBACK}")


def time_definition(pair: Pair, sample: int) -> dict[str, Any]:
    """Seconds of the plain definition of `mined`, extrapolated from a random sample."""
    count = min(sample, len(pair.rows))
    picked = random.Random(0).sample(range(len(pair.rows)), count)
    rows = pair.rows[np.sort(np.array(picked, np.int64))]
    tokens = pair.src.packed.take(rows)
    nearest, seconds = timed(lambda: reference.nearest(tokens, pair.dst.packed))
    found = rows_of(pair.match("mined").matches, rows)
    check_equal(found, edit_matches(*nearest), f"{pair}, plain definition of mined")
    return {"sample": count, "extrapolated_seconds": seconds * len(pair.rows) / max(count, 1)}


def measure_exact(pair: Pair, runs: int) -> dict[str, Any] | None:
    """`exact` beside assisted generation in transformers; None where that is not installed."""
    if not has_transformers():
        return None
    translate, src_ids = exact_by_transformers(pair.src, pair.dst)
    theirs, matches = translate(), pair.match("exact").matches
    same_kind = np.where(matches.rule == Rule.EXACT, matches.dst_id, UNMAPPED)
    for i in src_ids:
        if same_kind[i] != theirs[i]:
            sys.exit(f"{pair}, exact: token {i} reads {same_kind[i]}, in transformers {theirs[i]}")
    seconds = seconds_of(runs, {"exact": lambda: pair.match("exact"), "transformers": translate})
    return {"seconds": seconds, "ratio": seconds["transformers"].median / seconds["exact"].median}


def write_texts(pair: Pair) -> list[Ids]:
    """Load a tokenizer and encode the text of the tokens, by its library alone."""
    encode = load_encoder(pair.dst.name, inside=True)  # vocabularies are by name
    return encode([token.decode() for token in pair.queries.tolist()])


def check_encodings(pair: Pair) -> None:
    """The gate: `first-token` maps to the first token of the encoding."""
    matches = pair.match("first-token").matches
    for row, ids in zip(pair.rows.tolist(), write_texts(pair), strict=True):
        if matches.rule[row] == Rule.ENCODING and matches.dst_id[row] != ids[0]:
            sys.exit(f"{pair}, first-token: token {row} reads {matches.dst_id[row]}, not {ids[0]}")


def measure_encodings(pair: Pair, runs: int) -> dict[str, Any]:
    """The strategies that ask a tokenizer, beside its library alone on the same texts."""
    check_encodings(pair)
    back = pair.turned()
    names = [name for name, one in STRATEGIES.items() if one.asks_tokenizer]
    seconds = seconds_of(
        runs,
        {
            **{name: partial(pair.match, name) for name in names},
            "library": lambda: write_texts(pair),
            "library, both ways": lambda: [write_texts(one) for one in (pair, back)],
        },
    )
    alone = {name: "library, both ways" if name == "both-ways" else "library" for name in names}
    shares = {name: seconds[alone[name]].median / seconds[name].median for name in names}
    return {"seconds": seconds, "library_share": shares}


# Each in a process of its own, for its peak memory; `load` is what all of them hold.
CHILDREN: dict[str, Callable[[Vocabulary, Vocabulary], object]] = {
    "load": make_pair,
    "mined": lambda src, dst: make_pair(src, dst).match("mined"),
    "rapidfuzz": lambda src, dst: nearest_by_rapidfuzz(
        make_pair(src, dst).queries, dst.packed, "char"
    ),
    "pm-mined": lambda src, dst: make_pair(src, dst).match("pm-mined"),
    WITH_FALLBACK: lambda src, dst: make_pair(src, dst).match("pm-mined", FALLBACK),
}


def measure_memory(names: list[str]) -> dict[str, float]:
    """The peak memory, in MB, of a process that loads the pair and does one thing."""
    command = [sys.executable, __file__, "--pair", *names, "--child"]
    return {child: run_process([*command, child]).peak_mb for child in CHILDREN}


def measure_pair(names: list[str], options: argparse.Namespace) -> tuple[Pair, dict[str, Any]]:
    """All figures of one pair, in seconds, each behind its gate."""
    pair = make_pair(*map(load_vocabulary, names))
    return pair, {
        "src": pair.src.name,
        "dst": pair.dst.name,
        "queries": len(pair.rows),
        "mined": measure_mined(pair, options.runs),
        "definition": time_definition(pair, options.sample),
        "exact": measure_exact(pair, options.runs),
        "encodings": measure_encodings(pair, options.runs),
        "peak_mb": measure_memory(names),
    }


def report_mined(report: Report, result: dict[str, Any]) -> None:
    """Edit distance: seconds, ratio to `mined`, and memory."""
    mined, definition, peaks = result["mined"], result["definition"], result["peak_mb"]
    fast = mined["seconds"]["mined"].median
    seconds = {name: one.median for name, one in mined["seconds"].items()}
    seconds["rapidfuzz"] = mined["rapidfuzz_seconds"]
    rows = [
        [name, f"{took:.3f}", f"{took / fast:,.2f} x", f"{peaks[name]:.0f}"]
        for name, took in seconds.items()
    ]
    took, sample = definition["extrapolated_seconds"], definition["sample"]
    name = f"plain definition of mined, extrapolated from {sample} tokens"
    rows.append([name, f"{took:,.0f}", f"{took / fast:,.0f} x", ""])
    rows.append(["both vocabularies loaded", "", "", f"{peaks['load']:.0f}"])
    report.table(["edit distance", "median s", "of mined", "peak MB"], rows)


def report_exact(report: Report, result: dict[str, Any]) -> None:
    """The same bytes, beside transformers."""
    if result["exact"] is None:
        report.line("exact: not compared, transformers and torch are not installed\n")
        return
    fast = result["exact"]["seconds"]["exact"].median
    rows = [
        [name, f"{one.median * 1e3:.1f}", f"{one.median / fast:.2f} x"]
        for name, one in result["exact"]["seconds"].items()
    ]
    report.table(["same bytes", "median ms", "of exact"], rows)


def report_encodings(report: Report, result: dict[str, Any]) -> None:
    """Strategies that ask a tokenizer, and how much of it is the tokenizer."""
    shares = result["encodings"]["library_share"]
    rows = [
        [name, f"{one.median:.3f}", f"{shares[name]:.0%}" if name in shares else ""]
        for name, one in result["encodings"]["seconds"].items()
    ]
    report.table(["by encoding", "median s", "library's share"], rows)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add_pairs(parser)
    parser.add_argument("--runs", type=int, default=5, help="of everything but RapidFuzz")
    parser.add_argument("--sample", type=int, default=5, help="source tokens for the definition")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure every pair; print tables, then one JSON line."""
    options = parse_options()
    if options.child:
        CHILDREN[options.child](*map(load_vocabulary, options.pair[0]))
        return
    packages = [*PACKAGES, "rapidfuzz", *TOKENIZER_PACKAGES]
    packages += ["transformers"] if has_transformers() else []
    report = Report("strategies", json_only=options.json, packages=packages)
    report.document["pairs"] = []
    for names in options.pair or DEFAULT_PAIRS:
        pair, result = measure_pair(names, options)
        report.line(f"\n{pair}: all answers agree\n")
        for part in (report_mined, report_exact, report_encodings):
            part(report, result)
        report.document["pairs"].append(result)
    report.finish()


if __name__ == "__main__":
    main()
