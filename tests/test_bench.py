"""`pm-mined bench`: what it times, with which threads, and what follows from the times."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import numba
import numpy as np
import pytest
import tiny_tokenizers as tiny
from command_line import COMMAND, on_a_terminal, refused, run

from pm_mined import Kind, PmMinedError, Vocabulary, VocabularyError, bench, load_vocabulary
from pm_mined.kernels.tokens import Matches
from pm_mined.strategies.base import Matched, Options
from pm_mined.strategies.registry import STRATEGIES

SRC = Vocabulary.from_tokens([b"a", b"ab", b"abc", b" x", b"zzz"], [Kind.TEXT] * 5, name="src")
DST = Vocabulary.from_tokens([b"ab", b"a", b" "], [Kind.TEXT] * 3, name="dst")
WITHOUT_TOKENIZER = ["pm-mined", "exact", "mined", "prefixes"]
BY_TOKENIZERS = {name for name, one in STRATEGIES.items() if one.asks_tokenizer}


@pytest.fixture
def small_copies(monkeypatch):
    """Memory is not what is tested."""
    monkeypatch.setattr(bench, "COPIED", 2**16)
    monkeypatch.setattr(bench, "COPIED_PER_TASK", 2**14)


@pytest.fixture
def files(tmp_path):
    """A folder with two tokenizers and two files of ranks, which are none."""
    tiny.byte_level_bpe().save(str(tmp_path / "bpe.json"))
    tiny.unigram().save(str(tmp_path / "unigram.json"))
    (tmp_path / "src.tiktoken").write_bytes(tiny.rank_file([b"a", b"ab", b" b"]))
    (tmp_path / "dst.tiktoken").write_bytes(tiny.rank_file([b" b", b"a"]))
    return tmp_path


def replaced(monkeypatch, match):
    """Put a strategy of our own in the place of `exact`."""
    monkeypatch.setitem(STRATEGIES, "exact", STRATEGIES["exact"]._replace(match=match))


# --- What is measured ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_strategies_that_need_a_tokenizer_are_known():
    refusing = set()
    for name, strategy in STRATEGIES.items():
        try:
            strategy.match(SRC, DST, Options())
        except VocabularyError:
            refusing.add(name)
    assert refusing == BY_TOKENIZERS


@pytest.mark.slow
def test_every_strategy_with_every_thread_count(small_copies):
    document = bench.bench(SRC, DST, threads=[3, 1, 3], runs=2)
    timed = [(one["name"], one["threads"]) for one in document["strategies"]]
    assert timed == [(name, count) for name in WITHOUT_TOKENIZER for count in (1, 3)]
    assert all(len(one["seconds"]) == document["runs"] == 2 for one in document["strategies"])
    assert document["left_out"].keys() == BY_TOKENIZERS
    assert document["copy_bytes_per_second"].keys() == {"1", "3"}


def test_without_threads_it_takes_one_and_all(small_copies):
    document = bench.bench(SRC, DST, strategies=["exact"], runs=1)
    counts = [one["threads"] for one in document["strategies"]]
    assert counts == sorted({1, numba.config.NUMBA_NUM_THREADS})


def test_the_figures_follow_from_the_times(small_copies):
    document = bench.bench(SRC, DST, strategies=["exact", "prefixes"], threads=[1], runs=3)
    for one, written in zip(document["strategies"], (5 * 9, 5 * 9 + 6 * 4 + 4 * 8), strict=True):
        seconds = median(one["seconds"])
        assert one["median_seconds"] == seconds > 0
        assert one["tokens_per_second"] == pytest.approx(5 / seconds)
        assert one["bytes_per_second"] == pytest.approx((11 + 4) / seconds)
        assert one["bytes_read"] == (11 + 6 * 8 + 5) + (4 + 4 * 8 + 3)
        assert one["bytes_written"] == written
        floor = (one["bytes_read"] + written) / document["copy_bytes_per_second"]["1"]
        assert one["floor_seconds"] == pytest.approx(floor)
        assert one["floor_share"] == pytest.approx(floor / seconds)


def test_kernels_run_with_the_threads_that_are_said(monkeypatch, small_copies):
    exact, seen = STRATEGIES["exact"].match, []

    def watching(*arguments):
        seen.append(numba.config.NUMBA_NUM_THREADS)
        return exact(*arguments)

    replaced(monkeypatch, watching)
    most = numba.config.NUMBA_NUM_THREADS
    bench.bench(SRC, DST, strategies=["exact"], threads=[1, 5], runs=2)
    assert seen == [most, 1, 5, 1, 5]  # the first compiles
    assert most == numba.config.NUMBA_NUM_THREADS


def test_the_times_are_those_of_the_matching(monkeypatch, small_copies):
    exact, ticks = STRATEGIES["exact"].match, [0.0]

    def slow(*arguments):
        ticks[0] += 7
        return exact(*arguments)

    replaced(monkeypatch, slow)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: ticks[0])
    monkeypatch.setattr(bench, "copy_speeds", lambda counts, runs: {1: 1e9})
    document = bench.bench(SRC, DST, strategies=["exact"], threads=[1], runs=3)
    assert document["strategies"][0]["seconds"] == [7, 7, 7]


@pytest.mark.parametrize("column", Matches._fields)
def test_a_result_that_depends_on_the_threads_is_refused(monkeypatch, small_copies, column):
    exact = STRATEGIES["exact"].match

    def wrong_with_two(*arguments):
        found = exact(*arguments).matches
        if numba.config.NUMBA_NUM_THREADS == 2:
            getattr(found, column)[3] += 1
        return Matched(found)

    replaced(monkeypatch, wrong_with_two)
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 1)
    bench.bench(SRC, DST, strategies=["exact"], threads=[1, 3], runs=1)
    with pytest.raises(PmMinedError, match=r"exact: another result on 2 thread") as caught:
        bench.bench(SRC, DST, strategies=["exact"], threads=[1, 2], runs=1)
    assert "\n" not in str(caught.value)
    assert numba.config.NUMBA_NUM_THREADS == 1


def test_weights_are_compared_as_well(small_copies):
    prefixes = STRATEGIES["prefixes"].match(SRC, DST, Options())
    other = Matched(prefixes.matches, prefixes.choices._replace(weight=prefixes.choices.weight / 2))
    workload = bench.Workload("prefixes", 1)
    bench.check_same(prefixes, prefixes, workload)
    with pytest.raises(PmMinedError, match="prefixes: another result"):
        bench.check_same(other, prefixes, workload)


def test_progress_is_told(small_copies):
    told = []
    bench.bench(
        SRC, DST, strategies=["exact", "pm-mined"], threads=[1], runs=2,
        progress=lambda *done: told.append(done),
    )  # fmt: skip
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_a_copy_takes_the_time_that_it_takes(monkeypatch, small_copies):
    ticks = iter(np.cumsum([0, 4, 0, 2, 0, 8, 0, 1, 0, 1, 0, 1]).tolist())
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(ticks))
    assert bench.copy_speeds([1, 2], 3) == {1: 2 * 2**16 / 2, 2: 2 * 2**16}


@pytest.mark.parametrize("name", ["measure", "plot"])
def test_the_examples_of_the_benchmarks_are_true(name):
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    subprocess.run([sys.executable, "-m", "doctest", path], check=True)


# --- The command ---------------------------------------------------------------------------------


def command(*more):
    return ("bench", "--src", "bpe.json", "--dst", "unigram.json", "--runs", "1", *more)


def test_json_is_one_object(files):
    done = run(*command("--threads", "1", "--threads", "2", "--json"), cwd=files)
    assert (done.status, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["left_out"] == {}
    timed = [(one["name"], one["threads"]) for one in document["strategies"]]
    assert timed == [
        (name, count)
        for name in STRATEGIES
        for count in ([None] if name in BY_TOKENIZERS else [1, 2])
    ]
    assert document["strategies"][timed.index(("decay", None))]["decay"] == 0.1
    src = load_vocabulary(files / "bpe.json")
    assert document["src"] == {
        "name": "bpe.json",
        "source": "file:bpe.json",
        "size": len(src),
        "bytes": len(src.packed.data),
        "fingerprint": src.fingerprint,
    }
    assert {"cpu", "cores", "python", "numba", "tokenizers"} <= document["machine"].keys()


def test_the_table_has_each_strategy_once(files):
    names = ("--strategy", "mined", "--strategy", "decay", "--strategy", "mined")
    done = run(*command(*names, "--threads", "1"), cwd=files)
    assert (done.status, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["strategy", "threads", "seconds", "tokens/s", "MB/s", "floor"] in rows
    assert [row[:2] for row in rows[-2:]] == [["mined", "1"], ["decay", "-"]]


def test_what_has_no_tokenizer_is_left_out_and_said(files):
    ranks = ("bench", "--src", "src.tiktoken", "--dst", "dst.tiktoken", "--runs", "1")
    done = run(*ranks, "--threads", "1", "--json", cwd=files)
    assert done.status == 0
    document = json.loads(done.stdout)
    assert {one["name"] for one in document["strategies"]} == set(WITHOUT_TOKENIZER)
    notes = done.stderr.splitlines()
    assert [note.split()[:5] for note in notes] == [
        ["note:", name, "is", "left", "out:"] for name in STRATEGIES if name in BY_TOKENIZERS
    ]
    assert all("a rank file does not say how text is split" in note for note in notes)
    message = refused(*ranks, "--strategy", "decay", cwd=files)
    assert message.startswith("dst.tiktoken: a rank file does not say")


@pytest.mark.slow
def test_a_bar_on_a_terminal(files):
    bar = [*COMMAND, *command("--strategy", "exact", "--threads", "1")]
    assert "Measuring" in on_a_terminal(bar, files)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--threads", "0", "'--threads'"),
        ("--threads", "-1", "'--threads'"),
        ("--threads", "1025", "'--threads'"),
        ("--threads", "two", "'--threads'"),
        ("--runs", "0", "'--runs'"),
        ("--strategy", "nonsense", "no strategy 'nonsense'; there are pm-mined, exact"),
    ],
)
def test_bad_usage(files, option, value, said):
    done = run("bench", "--src", "missing", option, value, cwd=files)
    assert (done.status, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[-1]


def test_a_vocabulary_that_does_not_exist(files):
    assert refused("bench", "--src", "missing", cwd=files).startswith("missing: no vocabulary")
