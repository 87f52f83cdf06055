"""Commands that are killed at any moment: `PYTHONPATH=tests python -m fuzz.kills`.

Whatever the moment, an output is the old one, the new one, or not there; the same command, run
again, gives what it gives undisturbed, byte for byte, a training by `--resume`; and it leaves
nothing else behind.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

import cmc_runtime.cli
import pm_mined.cli
from pm_mined.cli import shell
from pm_mined.cli.output import progress_bar

from . import judge, runtime_seeds, seeds

_APPS = {"pm-mined": pm_mined.cli.app, "cmc-runtime": cmc_runtime.cli.app}
_TIMES = {"seconds", "seconds_left"}  # of metrics, which differ from run to run


class Command(NamedTuple):
    """A command that writes a file or a folder."""

    words: str
    output: str
    again: str = ""  # what is added to the words when it goes on
    before: str = ""  # makes an older output, to be replaced


_BUILD = "pm-mined build --src src.json --dst dst.json -o out.arrow"
_TRAIN = (
    "cmc-runtime train --template user --data rows.jsonl --delta-layers 1 --epochs 2 "
    "--batch-size 2 --save-every 1 --output out"
)
COMMANDS = [
    Command(_BUILD, "out.arrow", before=f"{_BUILD} --strategy exact"),
    Command("pm-mined audit good.arrow --html out.html", "out.html"),
    Command("pm-mined export good.arrow --format parquet -o out.parquet", "out.parquet"),
    Command(
        "pm-mined overrides suggest good.arrow --src src.json --dst dst.json -o out.toml",
        "out.toml",
        again=" --force",
    ),
    Command(_TRAIN, "out", again=" --resume"),
    Command(f"{_TRAIN} --keep-states states", "out", again=" --resume"),
]


def main() -> int:
    """Kill commands; the number of faults, at most 1, is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not outlive a fork
    random, found, moments = Random(options.seed), 0, Counter[str]()
    with tempfile.TemporaryDirectory() as work:
        right = Path(work) / "right"
        right.mkdir()
        for module in (seeds, runtime_seeds):
            module.make_beside(right)
        tried = {command: Trial(command, right, Path(work) / "case") for command in COMMANDS}
        with progress_bar() as bar:
            for number in bar.track(range(options.kills), description="kills"):
                command = random.choice(COMMANDS)
                for line in tried[command].kill(random, moments):
                    print(f"kill {number}: {command.words}: {line}", flush=True)
                    found += 1
    said = ", ".join(f"{count:,} {moment}" for moment, count in sorted(moments.items()))
    print(f"{options.kills:,} kills ({said}), {found:,} faults")
    return min(found, 1)


class Trial:
    """A command, what it makes undisturbed, and the seconds of a core that it takes."""

    def __init__(self, command: Command, right: Path, case: Path) -> None:
        self._command, self._right, self._case = command, right, case
        self._folder = case / "here"
        self._old = self._made(command.before)[0] if command.before else None
        self._made(command.words)  # compiles
        self._new, self._seconds = self._made(command.words)

    def kill(self, random: Random, moments: Counter[str]) -> Iterator[str]:
        """Kill the command once; tell what is wrong afterwards, and after it ran again."""
        self._begin()
        has_old = self._old is not None and random.random() < 0.5
        if has_old:
            self._run(self._command.before)
        done = self._run(self._command.words, kill_after=random.random() * self._seconds)
        moments["after its end" if done.status == 0 else "before its end"] += 1
        output = self._folder / self._command.output
        if done.status not in (0, -signal.SIGPROF):
            yield f"ended by status {done.status}: {done.err[-300:]}"
        elif output.is_file() and contents(output) not in (self._new, self._old):
            yield "torn"
        elif output.exists() != has_old and not output.exists():
            yield "the old one is gone"
        again = self._run(self._command.words + self._command.again)
        if again.status:
            yield f"again: {again.err[-300:].strip()}"
        elif contents(output) != self._new:
            yield "again: not the same"
        yield from (f"left {path.name}" for path in self._folder.rglob(".pm-mined-*"))

    def _begin(self) -> None:
        shutil.rmtree(self._case, ignore_errors=True)
        self._case.mkdir()
        shutil.copytree(self._right, self._folder)

    def _made(self, words: str) -> tuple[dict[str, bytes], float]:
        """The output of an undisturbed run, and how long it took."""
        self._begin()
        before = _used_by_children()
        done = self._run(words)
        assert done.status == 0, done.err
        return contents(self._folder / self._command.output), _used_by_children() - before

    def _run(self, words: str, kill_after: float | None = None) -> judge.Done:
        program, *arguments = words.split()
        main: Callable[[], object] = lambda: shell.run(_APPS[program])  # noqa: E731
        if kill_after is None:
            return judge.run(main, [program, *arguments], self._folder)
        return judge.run(lambda: (_die(kill_after), main()), [program, *arguments], self._folder)


def _used_by_children() -> float:
    """The seconds of a core that all processes took that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _die(after: float) -> None:
    """Let the kernel end this process after so many seconds of a core, whatever it does then."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, after)


def contents(output: Path) -> dict[str, bytes]:
    """The bytes of a file, or of the weights and figures of a folder."""
    if output.is_file():
        return {"": output.read_bytes()}
    found = {path.name: path.read_bytes() for path in output.glob("*.safetensors")}
    for name in ("delta.json", "tokenizer.json"):
        found[name] = (output / name).read_bytes()
    rows = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    figures = [{name: one for name, one in row.items() if name not in _TIMES} for row in rows]
    return {**found, "metrics": json.dumps(figures).encode()}


if __name__ == "__main__":
    sys.exit(main())
