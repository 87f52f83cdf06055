"""Folders in the user's cache: made for the user alone, refused if they are anybody else's."""

import os
from pathlib import Path

import pytest

from pm_mined.kernels.user_cache import cache_root, user_cache


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/pm-mined"


def test_a_folder_is_made_for_the_user_alone(root):
    assert user_cache("a", "b") == root / "a/b"
    assert user_cache("a", "b") == root / "a/b"
    for folder in (root, root / "a", root / "a/b"):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("value", ["", "relative/cache"])
def test_a_cache_that_is_named_nowhere(monkeypatch, tmp_path, value):
    """The specification of XDG has relative paths ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache/pm-mined"


def test_a_user_without_a_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(FileNotFoundError, match="there is no home folder: set XDG_CACHE_HOME"):
        user_cache("a")


@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
@pytest.mark.parametrize("name", ["", "a", "a/b"])
def test_what_others_can_write(root, name, mode):
    user_cache("a", "b")
    (root / name).chmod(mode)
    if mode & 0o1000 and name != "a/b":  # the sticky bit keeps what is in it ours
        assert user_cache("a", "b") == root / "a/b"
        return
    with pytest.raises(PermissionError, match="others can write there: set XDG_CACHE_HOME"):
        user_cache("a", "b")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_another_users(root):
    os.chown(user_cache("a"), 65534, 65534)
    with pytest.raises(PermissionError, match="others can write there: set XDG_CACHE_HOME"):
        user_cache("a")


def test_a_file_in_its_place(root):
    Path(root.parent).write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        user_cache()
