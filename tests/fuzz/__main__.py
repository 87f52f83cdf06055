"""A fuzzer of the command lines, aware of the formats: `PYTHONPATH=tests python -m fuzz`.

Each case is a right input, changed, and some commands that take it. It looks for tracebacks, more
than one line for an error, hangs, memory, files left over, and answers that an independent reader
does not give. The same seed makes the same cases; what was found is kept, to be run again.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random

from pm_mined import STRATEGIES, build_map
from pm_mined.cli import app, shell
from pm_mined.cli.output import progress_bar

from . import judge
from .changes import change
from .commands import MARK, check_map, commands
from .seeds import SEEDS, Seed


def main() -> int:
    """Run the cases; the number of faults, at most 1, is the exit status."""
    options = _options()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not outlive a fork
    chosen = [one for one in SEEDS if not options.kind or one.kind in options.kind]
    with tempfile.TemporaryDirectory() as work:
        right = _right_inputs(Path(work) / "right")
        found, ends = 0, Counter[int]()
        with progress_bar() as bar:
            for number in bar.track(range(options.cases), description="cases"):
                random = Random(f"{options.seed} {number}")
                case = Case(random, random.choice(chosen), right, Path(work) / "case", ends)
                for line in case.run():
                    print(f"case {number}: {line}", flush=True)
                    case.keep(options.keep / f"{options.seed}-{number}")
                    found += 1
    ran = ", ".join(f"{count:,} with status {status}" for status, count in sorted(ends.items()))
    print(f"{options.cases:,} cases, {ends.total():,} commands ({ran}), {found:,} faults")
    return min(found, 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--kind", action="append", choices=sorted({one.kind for one in SEEDS}))
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="where faults go")
    return parser.parse_args()


def _right_inputs(folder: Path) -> Path:
    """What commands take beside the changed input, and all seeds, made once."""
    folder.mkdir()
    for one in SEEDS:
        one.make(folder / one.name)
    shutil.copy(folder / "plain.arrow", folder / "good.arrow")
    shutil.copy(folder / "overrides.toml", folder / "good.toml")
    for strategy, unit in product(STRATEGIES, ("char", "byte")):  # compiled here, not in each case
        build_map(folder / "src.json", folder / "dst.json", strategy=strategy, unit=unit)
    return folder


class Case:
    """A changed input, in a folder of its own among right ones."""

    def __init__(
        self, random: Random, seed: Seed, right: Path, folder: Path, ends: Counter[int]
    ) -> None:
        self._random, self._seed, self._ends = random, seed, ends
        self._folder = folder / "here"
        shutil.rmtree(folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for name in ("src.json", "dst.json", "good.arrow", "good.toml", seed.name):
            source, copy = right / name, self._folder / name
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        self._input = self._folder / seed.name
        change(random, self._input)

    def run(self) -> Iterator[str]:
        """Run the commands; tell each fault."""
        for words in commands(self._random, self._seed.kind):
            arguments = [self._seed.name if word == MARK else word for word in words]
            before = self._paths()
            done = judge.run(lambda: shell.run(app), arguments, self._folder)
            self._ends[done.status] += 1
            for fault in judge.faults(done, arguments, before, self._paths()):
                yield f"{' '.join(arguments)}: {fault}: {done.err[-300:].strip()}"
            for path in self._paths() - before:
                shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
        if self._seed.kind == "map":
            done = judge.run(lambda: check_map(self._input), ["check"], self._folder)
            if done.status:
                yield f"{self._seed.name}: {done.err.strip().splitlines()[-1]}"

    def keep(self, folder: Path) -> None:
        """Keep the case, to be run again by hand."""
        shutil.copytree(self._folder, folder, dirs_exist_ok=True, symlinks=True)

    def _paths(self) -> set[str]:
        return {str(path) for path in self._folder.rglob("*")}


if __name__ == "__main__":
    sys.exit(main())
