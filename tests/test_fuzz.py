"""The fuzzer of tests/fuzz finds what it looks for, and makes the same cases again."""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest
from fuzz import judge
from fuzz.changes import change
from fuzz.seeds import SEEDS

NEEDS_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forks


def refuse():
    print("pm-mined: x.json: not JSON", file=sys.stderr)
    sys.exit(1)


def crash():
    raise KeyError("x")


def say_two_lines():
    print("pm-mined: x.json: not\nJSON", file=sys.stderr)
    sys.exit(1)


def say_much():
    print("x" * 2000, file=sys.stderr)
    sys.exit(1)


def leave_a_file():
    Path("left").touch()
    sys.exit(refuse())


def remove_the_input():
    Path("input").unlink()


def abort():
    os.abort()


def answer_and_fail():
    print("{}")
    sys.exit(1)


def take_memory():
    print(len(b"x" * (200 * 2**20)))


def sleep():
    time.sleep(60)


def work():
    while True:
        pass


@pytest.mark.parametrize(
    ("main", "fault"),
    [
        (refuse, None),
        (crash, "Traceback"),
        (say_two_lines, "2 lines for one error"),
        (say_much, "a line of 2000 characters"),
        (leave_a_file, "left left"),
        (remove_the_input, "removed input"),
        (abort, "ended by status -6"),
        (answer_and_fail, "a result although it failed"),
        (take_memory, " GiB"),
        (sleep, "took more than 1 s"),
        (work, "took more than 1 s"),
    ],
)
def test_every_fault_is_found(tmp_path, monkeypatch, main, fault):
    monkeypatch.setattr(judge, "SECONDS", 1 if main in (sleep, work) else 20)
    monkeypatch.setattr(judge, "BYTES", 80 * 2**20)
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "input").touch()
    done = judge.run(main, ["pm-mined", "audit"], folder)
    left = {path.name for path in folder.iterdir()}
    found = judge.faults(done, ["pm-mined", "audit"], {"input"}, left)
    assert any(fault in one for one in found) if fault else found == [], done


def starve():
    """Work for a seventh of a second on a core that is almost wholly another's."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.nice(10)
    while time.process_time() < 0.15:
        pass


def test_a_busy_machine_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "SECONDS", 0.3)
    (tmp_path / "here").mkdir()
    spin = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        try:
            started = time.monotonic()
            done = judge.run(starve, ["pm-mined", "audit"], tmp_path / "here")
        finally:
            other.kill()
    assert time.monotonic() - started > 3 * judge.SECONDS, "it was not starved"
    assert (done.status, judge.faults(done, ["pm-mined", "audit"], set(), set())) == (0, [])


def test_a_command_can_be_told_lines(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "said").write_text("one\ntwo\n")
    given = [lambda: print(input(), input()), ["cmc-runtime", "chat"], folder]
    assert judge.run(*given, "said").out == "one two\n"
    assert "EOFError" in judge.run(*given).err


@pytest.mark.parametrize("seed", SEEDS, ids=lambda one: one.name)
def test_a_case_is_the_same_again_and_not_the_seed(tmp_path, seed):
    made = []
    for name in ("first", "again", "right"):
        path = tmp_path / name / seed.name
        path.parent.mkdir()
        seed.make(path)
        if name != "right":
            change(Random(1), path)
        made.append(contents(path))
    assert made[0] == made[1] != made[2]


def contents(path):
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(one.name, one.read_bytes() if one.is_file() else None) for one in files]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "fuzz --cases 20",
        pytest.param("fuzz --program cmc-runtime --cases 20", marks=NEEDS_TORCH),
        pytest.param("fuzz.kills --kills 20", marks=NEEDS_TORCH),
    ],
)
def test_a_short_run(tmp_path, words):
    """Of cases that are not those of `.ci/run`."""
    done = subprocess.run(
        [sys.executable, "-m", *words.split(), "--seed", "test"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert ", 0 faults" in done.stdout
