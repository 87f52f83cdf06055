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
from importlib import import_module
from pathlib import Path
from random import Random
from typing import NamedTuple

import typer

from pm_mined.cli import shell
from pm_mined.cli.output import progress_bar

from . import judge
from .changes import change
from .commands import MARK, check_map, commands
from .seeds import CACHE, Seed

_MODULES = {
    "pm-mined": ("fuzz.seeds", "pm_mined.cli"),
    "cmc-runtime": ("fuzz.runtime_seeds", "cmc_runtime.cli"),
}

HERE = "here"  # where the commands of a case run


def main() -> int:
    """Run the cases; the number of faults, at most 1, is the exit status."""
    options = _options()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not outlive a fork
    seeds, cli = map(import_module, _MODULES[options.program])
    chosen = [one for one in seeds.SEEDS if not options.kind or one.kind in options.kind]
    if not chosen:
        sys.exit(f"kinds of {options.program}: {', '.join({one.kind for one in seeds.SEEDS})}")
    with tempfile.TemporaryDirectory() as work:
        right = Path(work) / "right"
        right.mkdir()
        for one in seeds.SEEDS:
            one.make(right / one.name)
        beside = seeds.make_beside(right)
        case_folder = Path(work) / "case"
        os.environ["XDG_CACHE_HOME"] = str(case_folder / HERE / CACHE)
        found, ends = 0, Counter[int]()
        with progress_bar() as bar:
            for number in bar.track(range(options.cases), description="cases"):
                random = Random(f"{options.seed} {number}")
                program = Program(options.program, cli.app, right, beside)
                case = Case(random, random.choice(chosen), program, case_folder, ends)
                for line in case.run():
                    print(f"case {number}: {line}", flush=True)
                    case.keep(options.keep / f"{options.seed}-{number}")
                    found += 1
    ran = ", ".join(f"{count:,} with status {status}" for status, count in sorted(ends.items()))
    print(f"{options.cases:,} cases, {ends.total():,} commands ({ran}), {found:,} faults")
    return min(found, 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--program", choices=_MODULES, default="pm-mined")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--kind", action="append", help="of input; by default all")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="where faults go")
    return parser.parse_args()


class Program(NamedTuple):
    """A command line, and right inputs for it."""

    name: str
    app: typer.Typer
    right: Path
    beside: list[str]  # the names of those that commands take beside the changed input


class Case:
    """A changed input, in a folder of its own among right ones."""

    def __init__(
        self, random: Random, seed: Seed, program: Program, folder: Path, ends: Counter[int]
    ) -> None:
        self._random, self._seed, self._program, self._ends = random, seed, program, ends
        self._folder = folder / HERE
        shutil.rmtree(folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        for name in dict.fromkeys((*program.beside, seed.name)):
            source, copy = program.right / name, self._folder / name
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        self._input = self._folder / seed.name
        change(random, self._input)

    def run(self) -> Iterator[str]:
        """Run the commands; tell each fault."""
        for words in commands(self._random, self._seed.kind):
            given = [self._seed.name if word == MARK else word for word in words]
            line = " ".join([self._program.name, *given])
            arguments, said = (one.split() for one in f"{line} <".split("<")[:2])
            before = self._paths()
            main = lambda: shell.run(self._program.app)  # noqa: E731
            done = judge.run(main, arguments, self._folder, *said)
            self._ends[done.status] += 1
            for fault in judge.faults(done, arguments, before, self._paths()):
                yield f"{line}: {fault}: {done.err[-300:].strip()}"
            for path in map(Path, self._paths() - before):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(
                    missing_ok=True
                )
        if self._seed.kind == "map":
            done = judge.run(lambda: check_map(self._input), ["check"], self._folder)
            if done.status:
                yield f"{self._seed.name}: {done.err.strip().splitlines()[-1]}"

    def keep(self, folder: Path) -> None:
        """Keep the case, to be run again by hand."""
        shutil.copytree(self._folder, folder, dirs_exist_ok=True, symlinks=True)

    def _paths(self) -> set[str]:
        """All but those in the user's cache, which commands may fill and empty."""
        found = (path for path in self._folder.rglob("*") if CACHE not in path.parts)
        return set(map(str, found))


if __name__ == "__main__":
    sys.exit(main())
