"""Whatever happens while a map is written: the old file or the new one, whole, and no other."""

import fcntl
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time

import pytest
from command_line import COMMAND

from pm_mined import Kind, MapFileError, Vocabulary, build_map, load_map
from pm_mined.atomic_file import temporary_name

SAVE_FOREVER = """
import sys
from pm_mined import load_map
maps = [load_map(path) for path in sys.argv[1:3]]
for one in maps:
    one.to_arrow()
print("ready", flush=True)
while True:
    for one in maps:
        one.save(sys.argv[3])
"""


def numbers(count, end=""):
    tokens = [f"{i}{end}".encode() for i in range(count)]
    return Vocabulary.from_tokens(tokens, [Kind.TEXT] * count)


@pytest.fixture
def two_maps(tmp_path):
    """Two different maps and their bytes."""
    paths = tmp_path / "one.arrow", tmp_path / "two.arrow"
    build_map(numbers(20_000), numbers(15_000)).save(paths[0])
    build_map(numbers(20_000, "x"), numbers(15_000)).save(paths[1])
    return paths, {path.read_bytes() for path in paths}


@pytest.mark.slow
def test_killed_while_saving(two_maps, tmp_path):
    paths, contents = two_maps
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "map.arrow"
    target.write_bytes(paths[0].read_bytes())
    generator = random.Random(0)
    for _ in range(50):
        command = [sys.executable, "-c", SAVE_FOREVER, *map(str, paths), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(generator.uniform(0, 0.05))
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert target.read_bytes() in contents
    # A kill between the last two system calls leaves a name; the next writer removes it.
    load_map(paths[0]).save(target)
    assert os.listdir(folder) == ["map.arrow"]


@pytest.fixture
def rank_files(tmp_path):
    """Two rank files of 20,000 tokens, as the command line reads them."""
    import base64

    for name in ("src", "dst"):
        tokens = (base64.b64encode(f"{name[0]}{i:x}".encode()).decode() for i in range(20_000))
        lines = [f"{token} {i}\n" for i, token in enumerate(tokens)]
        (tmp_path / f"{name}.tiktoken").write_text("".join(lines))
    return tmp_path


def build_command(folder, target, strategy="pm-mined"):
    pair = ["--src", str(folder / "src.tiktoken"), "--dst", str(folder / "dst.tiktoken")]
    return [*COMMAND, "build", *pair, "-o", str(target), "--strategy", strategy]


@pytest.mark.slow
def test_killed_while_building(rank_files, two_maps, tmp_path):
    paths, _ = two_maps
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "map.arrow"
    start = time.perf_counter()
    subprocess.run(build_command(rank_files, target), check=True, capture_output=True)
    duration = time.perf_counter() - start
    new, old = target.read_bytes(), paths[0].read_bytes()
    generator = random.Random(1)
    seen: set[bool] = set()
    for kills in range(200):
        if kills >= 50 and seen == {True, False}:
            break
        target.write_bytes(old)
        process = subprocess.Popen(
            build_command(rank_files, target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(generator.uniform(0, 1.3 * duration))
        process.kill()
        process.wait()
        assert target.read_bytes() in (old, new)
        seen.add(target.read_bytes() == new)
    assert seen == {True, False}, "the kills were to come before and after the end"
    load_map(paths[0]).save(target)
    assert os.listdir(folder) == ["map.arrow"]


@pytest.mark.slow
def test_two_builds_to_one_file(rank_files, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    wholes = set()
    for strategy in ("pm-mined", "exact"):
        subprocess.run(
            build_command(rank_files, folder / "map.arrow", strategy),
            check=True,
            capture_output=True,
        )
        wholes.add((folder / "map.arrow").read_bytes())
    for _ in range(5):
        processes = [
            subprocess.Popen(
                build_command(rank_files, folder / "map.arrow", strategy),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for strategy in ("pm-mined", "exact") * 2
        ]
        assert [process.wait() for process in processes] == [0] * 4
        assert (folder / "map.arrow").read_bytes() in wholes
    assert os.listdir(folder) == ["map.arrow"]


def test_a_full_disk_keeps_the_old_file(two_maps, tmp_path, monkeypatch):
    paths, _ = two_maps
    old = paths[0].read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) // 2, limits[1]))
    try:
        with pytest.raises(MapFileError, match=r"one\.arrow: cannot write the map: File too large"):
            load_map(paths[1]).save(paths[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert paths[0].read_bytes() == old
    assert sorted(os.listdir(tmp_path)) == ["one.arrow", "two.arrow"]


def test_what_the_dead_left_is_swept_and_what_the_living_write_is_not(two_maps, tmp_path):
    paths, _ = two_maps
    dead, living, pipe = (tmp_path / temporary_name(letter * 16) for letter in "abc")
    others = [
        tmp_path / f".pm-mined-{name}.tmp" for name in ("mine", "a-b", f"{'0' * 16}-{'0' * 16}")
    ]
    for path in (dead, *others):
        path.write_bytes(b"half a map")
    handle = os.open(living, os.O_CREAT | os.O_WRONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.mkfifo(pipe)
    load_map(paths[0]).save(paths[1])
    assert not dead.exists()
    assert living.exists()
    os.close(handle)
    load_map(paths[0]).save(paths[1])
    assert set(tmp_path.iterdir()) == {*paths, *others, pipe}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_a_replaced_file_keeps_its_mode(two_maps, mode):
    paths, _ = two_maps
    paths[0].chmod(mode)
    load_map(paths[1]).save(paths[0])
    assert stat.S_IMODE(paths[0].stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_a_replaced_file_keeps_its_owner(two_maps):
    paths, _ = two_maps
    os.chown(paths[0], 12345, 23456)
    load_map(paths[1]).save(paths[0])
    assert (paths[0].stat().st_uid, paths[0].stat().st_gid) == (12345, 23456)


def test_without_files_without_a_name(two_maps, tmp_path, monkeypatch):
    """Where the system has none, a named temporary file serves, and goes if writing fails."""
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    paths, contents = two_maps
    load_map(paths[1]).save(paths[0])
    assert paths[0].read_bytes() == paths[1].read_bytes()

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MapFileError, match="No space left"):
        load_map(paths[1]).save(paths[0])
    assert sorted(os.listdir(tmp_path)) == ["one.arrow", "two.arrow"]
    assert paths[0].read_bytes() in contents
