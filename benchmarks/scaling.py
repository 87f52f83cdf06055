"""The growth of matching with the vocabularies: synthetic ones, up to 1M x 1M tokens.

    python benchmarks/scaling.py [--sizes N...] [--unit char|byte] [--runs N] [--json]

Each size has a process of its own, so that its peak memory is its own. No size is timed in the
output before the compiled kernel has given the answers of the plain twin for every token of it;
that takes most of the run, and at 1M x 1M some GB of memory. benchmarks/README.md says what
each figure means.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Any, get_args

from measure import Report, check_equal, command_line, megabytes, spread

from pm_mined.bench import timed
from pm_mined.kernels import reference
from pm_mined.kernels.prefix_match import Trie, build_trie, match
from pm_mined.kernels.tokens import Kind, Matches, PackedTokens, Rule, Unit
from pm_mined.vocabulary import Vocabulary

SIZES = [62_500, 125_000, 250_000, 500_000, 1_000_000]
SHARED = 0.85  # of the tokens of each vocabulary, as between those of Llama 3 and Qwen
LATIN = "etaoinshrdlucmfgypwbvkxjqz" * 9 + "ETAOINSHRDLUCMFGYPWBVKXJQZ" + "0123456789.,_-()=" * 2
CYRILLIC = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъ"
HAN = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动"
SCRIPTS = {LATIN: (0.75, 3), CYRILLIC: (0.15, 2), HAN: (0.1, 1)}  # share of words, syllable
SYLLABLES = {1: 10, 2: 48, 3: 32, 4: 8, 6: 2}  # of a word: weights


def make_syllables(rng: random.Random, script: str, longest: int) -> list[str]:
    """The syllables of the words of a script."""
    counts = rng.choices(range(1, longest + 1), k=3000)
    return ["".join(rng.choices(script, k=count)) for count in counts]


def words_of(rng: random.Random, script: str, longest: int) -> Iterator[str]:
    """An endless stream of words; some syllables are far more frequent, so prefixes are shared."""
    syllables = make_syllables(rng, script, longest)
    zipf = list(accumulate(1 / (rank + 5) for rank in range(len(syllables))))
    while True:
        counts = rng.choices(list(SYLLABLES), list(SYLLABLES.values()), k=10_000)
        parts = iter(rng.choices(syllables, cum_weights=zipf, k=sum(counts)))
        for count in counts:
            yield "".join(islice(parts, count))


def synthetic_words(rng: random.Random) -> Iterator[bytes]:
    """Words of all scripts, half of them behind a space.

    One of a hundred that can be is cut within a character, as byte-level BPE does.
    """
    streams = [words_of(rng, script, longest) for script, (_, longest) in SCRIPTS.items()]
    shares = list(accumulate(share for share, _ in SCRIPTS.values()))
    while True:
        for stream in rng.choices(streams, cum_weights=shares, k=10_000):
            word = " " * (rng.random() < 0.5) + next(stream)
            cut = not word.isascii() and rng.random() < 0.01
            yield word.encode()[:-1] if cut else word.encode()


def unique_words(rng: random.Random, count: int) -> list[bytes]:
    """The first `count` different words, in the order of the stream."""
    words: dict[bytes, None] = {}
    for word in synthetic_words(rng):
        words.setdefault(word)
        if len(words) == count:
            break
    return list(words)


def synthetic_pair(size: int, seed: int = 0) -> tuple[Vocabulary, Vocabulary]:
    """Two vocabularies of `size` tokens that share most of them, as real pairs do."""
    rng = random.Random(seed)
    words = unique_words(rng, int(size / SHARED))
    kept = [sorted(rng.sample(range(len(words)), size)) for _ in range(2)]
    src, dst = (Vocabulary.from_tokens([words[i] for i in ids], [Kind.TEXT] * size) for ids in kept)
    return src, dst


def peak_mb() -> float:
    """The peak memory of this process."""
    return megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def time_once(
    src: PackedTokens, dst: PackedTokens, unit: Unit
) -> tuple[Trie, Matches, float, float]:
    """The trie, the matches, and the seconds of each."""
    trie, building = timed(lambda: build_trie(dst, unit))
    matches, matching = timed(lambda: match(src, trie, unit))
    return trie, matches, building, matching


def measure_size(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one size; the gate comes last, for it takes more memory than the kernel."""
    src, dst = (vocabulary.packed for vocabulary in synthetic_pair(options.size))
    trie, found, *_ = time_once(src, dst, options.unit)  # loads or compiles the kernels
    passes = [time_once(src, dst, options.unit)[2:] for _ in range(options.runs)]
    peak = peak_mb()
    expected = reference.prefix_match(src, dst, options.unit)
    check_equal(found, expected, f"{options.size:,} synthetic tokens, unit {options.unit}")
    return {
        "tokens": options.size,
        "bytes": int(src.offsets[-1] + dst.offsets[-1]),
        "trie_nodes": len(trie.candidate),
        "edges_mb": trie.edges.nbytes / 1e6,
        "rules": {rule.name.lower(): int((found.rule == rule).sum()) for rule in Rule},
        "trie": spread([building for building, _ in passes]),
        "match": spread([matching for _, matching in passes]),
        "sum": spread([sum(one) for one in passes]),
        "peak_mb": peak,
    }


def run_size(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """`measure_size` in a process of its own."""
    command = [sys.executable, __file__, "--size", str(size), "--unit", options.unit]
    command += ["--runs", str(options.runs)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode != 0:
        sys.exit(child.returncode)
    measured: dict[str, Any] = json.loads(child.stdout)
    return measured


def row_of(one: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """A row of the table: medians of one size, and their ratio to those of the size before."""
    (building, *_), (matching, *_), (both, *_) = one["trie"], one["match"], one["sum"]
    times_bytes = f"{one['bytes'] / before['bytes']:.2f}" if before else ""
    times_sum = f"{both / before['sum'][0]:.2f}" if before else ""
    return [
        f"{one['tokens']:,}",
        f"{one['bytes'] / 1e6:.1f}",
        f"{one['trie_nodes']:,}",
        *(f"{seconds * 1e3:.1f}" for seconds in (building, matching, both)),
        f"{both / one['bytes'] * 1e9:.1f}",
        times_bytes,
        times_sum,
        f"{one['edges_mb']:.0f}",
        f"{one['peak_mb']:.0f}",
    ]


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="tokens on each side")
    parser.add_argument("--unit", choices=get_args(Unit), default="char")
    parser.add_argument("--runs", type=int, default=7, help="of everything that is timed")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)  # a child: this size only
    return parser.parse_args()


def main() -> None:
    """Measure every size; print a table, then one JSON line."""
    options = parse_options()
    if options.size:
        print(json.dumps(measure_size(options)))
        return
    report = Report("scaling", json_only=options.json)
    sizes = [run_size(size, options) for size in options.sizes]
    report.line("\nthe kernel's answers are the reference's for every token of every size\n")
    header = "tokens each,MB both,trie nodes,trie ms,match ms,sum ms,ns/byte"
    header += ",x bytes,x sum,edges MB,peak MB"
    rows = [row_of(*pair) for pair in zip(sizes, [None, *sizes[:-1]], strict=True)]
    report.table(header.split(","), rows)
    report.document |= {"unit": options.unit, "sizes": sizes}
    report.finish()


if __name__ == "__main__":
    main()
