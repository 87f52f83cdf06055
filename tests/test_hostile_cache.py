"""The cache of machine code: used if it is ours alone, repaired if damaged, never in the way."""

import errno
import os
import stat

import numba
import pytest
from command_line import run

from pm_mined.kernels import cache
from pm_mined.kernels.compiled import jit


def twice(number):
    return 2 * number


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for the cache; nothing has been noted yet."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    cache.cache_folder.cache_clear()
    cache._warn.cache_clear()
    yield tmp_path / "cache"
    cache.cache_folder.cache_clear()


def compiled():
    """The kernel, and how often it was taken from the cache."""
    kernel = jit(twice)
    assert kernel(21) == 42
    return sum(kernel.stats.cache_hits.values()) if kernel.stats.cache_path else None


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_second_process_takes_what_the_first_compiled(folder):
    assert [compiled(), compiled()] == [0, 1]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.suffix for path in files_of(folder)] == [".nbc", ".nbi"]


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
@pytest.mark.parametrize("above", [False, True])
def test_a_folder_that_others_can_write_is_not_used(mode, above, folder):
    folder.mkdir(0o755)
    (folder.parent if above else folder).chmod(mode)
    if above and mode == 0o1777:  # as /tmp: what is ours there stays ours
        assert [compiled(), compiled()] == [0, 1]
        return
    with pytest.warns(RuntimeWarning, match="others can write there: kernels are compiled again"):
        assert compiled() is None
    assert compiled() is None  # and is noted once
    assert files_of(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_what_belongs_to_others_is_not_used(folder):
    assert compiled() == 0
    for path in files_of(folder):
        os.chown(path, 12345, -1)
    assert [compiled(), compiled()] == [0, 1]  # compiled again, and replaced
    assert {path.stat().st_uid for path in files_of(folder)} == {0}
    os.chown(folder, 12345, -1)
    cache.cache_folder.cache_clear()
    with pytest.warns(RuntimeWarning, match="others can write there"):
        assert compiled() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
def test_a_group_of_several_is_others(folder):
    folder.mkdir()
    folder.chmod(0o770)
    assert compiled() == 0
    os.chown(folder, -1, 23456)
    cache.cache_folder.cache_clear()
    with pytest.warns(RuntimeWarning, match="others can write there"):
        assert compiled() is None


def test_a_link_to_a_shared_folder(folder, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    folder.symlink_to(tmp_path / "shared")
    with pytest.warns(RuntimeWarning, match="others can write there"):
        assert compiled() is None


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
        lambda content: b"\x80\x04." + content,
        lambda content: os.urandom(len(content)),
    ],
)
def test_what_is_damaged_is_compiled_again_and_replaced(suffix, damage, folder):
    assert compiled() == 0
    (path,) = folder.rglob(f"*{suffix}")
    path.write_bytes(damage(path.read_bytes()))
    assert [compiled(), compiled()] == [0, 1]
    assert len(files_of(folder)) == 2


def test_a_full_disk_is_no_error(folder, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache._CheckedFiles, "_open_for_write", full)
    with pytest.warns(RuntimeWarning, match="No space left on device: kernels are compiled again"):
        assert compiled() == 0
    assert files_of(folder) == []


@pytest.mark.parametrize("name", ["cache", "cache/below"])
def test_a_folder_that_cannot_be_made(name, folder, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder.parent / name))
    folder.write_text("a file")
    with pytest.warns(RuntimeWarning, match="kernels are compiled again"):
        assert compiled() is None


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", " "])
def test_a_number_of_threads_that_is_none(value, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", value)
    done = run("vocab", "list")
    said = f"pm-mined: NUMBA_NUM_THREADS is {value!r}: it must be a whole number above 0\n"
    assert (done.status, done.stdout, done.stderr) == (2, "", said)
