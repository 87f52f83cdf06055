"""Ctrl-C at any moment: one line, status 130, and nothing half done."""

import os
import signal
import subprocess
import sys
import time

import pytest
import tiny_tokenizers as tiny
from command_line import COMMAND

from pm_mined import load_map


@pytest.fixture
def interruptible():
    """A child hears Ctrl-C, even if the tests run in the background, where a shell mutes it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(command, cwd):
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


WATCHED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["pm-mined", *{arguments!r}]
from {module}.__main__ import main
main()
"""


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("pm_mined", "typer", ["--help"]),
        ("pm_mined", "rich.table", ["--help"]),
        ("cmc_runtime", "typer", ["--help"]),
        ("pm_mined", "numba", ["build", "--src", "toy.json", "--dst", "toy.json"]),
        ("pm_mined", "llvmlite.binding", ["build", "--src", "toy.json", "--dst", "toy.json"]),
        ("pm_mined", "pyarrow.lib", ["build", "--src", "toy.json", "--dst", "toy.json"]),
        ("pm_mined", "numpy.linalg", ["build", "--src", "toy.json", "--dst", "toy.json"]),
    ],
)
def test_an_interrupt_during_an_import(module, name, arguments, tmp_path):
    tiny.byte_level_bpe().save(str(tmp_path / "toy.json"))
    code = WATCHED.format(module=module, name=name, arguments=arguments)
    done = started([sys.executable, "-c", code], tmp_path)
    stdout, stderr = done.communicate(timeout=60)
    program = module.replace("_", "-")
    assert (done.returncode, stdout, stderr.decode()) == (130, b"", f"{program}: interrupted\n")
    assert os.listdir(tmp_path) == ["toy.json"]


SWALLOWED = """
import os, signal, weakref
from pm_mined.interrupt import run_program
class Thing:
    pass
def start():
    thing = Thing()
    gone = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del thing
    print("went on")
run_program("pm-mined", start)
"""


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_where_exceptions_are_lost(tmp_path):
    done = started([sys.executable, "-c", SWALLOWED], tmp_path)
    assert done.communicate(timeout=60) == (b"", b"pm-mined: interrupted\n")
    assert done.returncode == 130


@pytest.mark.usefixtures("interruptible")
def test_what_is_deaf_to_interrupts_stays_so(tmp_path):
    code = SWALLOWED.replace(
        "import os", "import os, signal\nsignal.signal(2, signal.SIG_IGN)\nimport os"
    )
    done = started([sys.executable, "-c", code], tmp_path)
    assert done.communicate(timeout=60) == (b"went on\n", b"")
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_interrupts_at_many_moments(tmp_path):
    """Before our first line, Python alone answers: by a traceback, or by dying of the signal."""
    tiny.byte_level_bpe().save(str(tmp_path / "toy.json"))
    build = [*COMMAND, "build", "--src", "toy.json", "--dst", "toy.json", "-o", "map.arrow"]
    start = time.perf_counter()
    subprocess.run(build, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    seconds, count = time.perf_counter() - start, 60
    for moment in range(count):
        process = started(build, tmp_path)
        time.sleep(0.1 + seconds * moment / count)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert sorted(os.listdir(tmp_path)) == ["map.arrow", "toy.json"]
        load_map(tmp_path / "map.arrow")
        if b"pm_mined/cli" in stderr or b"Traceback" not in stderr:
            assert (process.returncode, stderr) in [
                (130, b"pm-mined: interrupted\n"),
                (0, b""),
                (-signal.SIGINT, b""),
            ]
