"""Models that packages ship: found without running their code, joined once, checked."""

import sys
from hashlib import sha256

import pytest

from cmc_runtime.errors import PackageError
from cmc_runtime.models import packaged as packaged_models
from cmc_runtime.models.packaged import PACKAGED, PackagedModel, packaged_model


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Two installed packages with a half of a file each, and an empty cache folder."""
    for name, half in (("tiny_part1", b"GG"), ("tiny_part2", b"UF")):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('it was run')")
        (tmp_path / name / "data" / "half").write_bytes(half)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = {"tiny_part1": "data/half", "tiny_part2": "data/half"}
    whole = PackagedModel("tiny", "tiny.gguf", files, sha256(b"GGUF").hexdigest())
    monkeypatch.setitem(PACKAGED, "tiny", whole)
    return tmp_path


def test_parts_are_joined_once(parts):
    path = packaged_model("tiny")
    assert (path.name, path.read_bytes()) == ("tiny.gguf", b"GGUF")
    (parts / "tiny_part2" / "data" / "half").write_bytes(b"changed later")
    assert packaged_model("tiny") == path
    assert path.read_bytes() == b"GGUF"
    assert "tiny_part1" not in sys.modules


def test_a_single_part_is_used_where_it_is(parts, monkeypatch):
    one = PackagedModel("tiny", "tiny.gguf", {"tiny_part1": "data/half"}, "")
    monkeypatch.setitem(PACKAGED, "tiny", one)
    assert packaged_model("tiny") == parts / "tiny_part1" / "data" / "half"


def test_damaged_parts(parts):
    (parts / "tiny_part2" / "data" / "half").write_bytes(b"UG")
    with pytest.raises(PackageError, match=r"the parts of tiny\.gguf are damaged"):
        packaged_model("tiny")
    assert not list((parts / "cache").rglob("*.gguf"))


@pytest.mark.parametrize("missing", ["tiny_part2", "tiny_part2/data/half"])
def test_a_part_that_is_not_there(parts, missing):
    (parts / missing).rename(parts / "away")
    with pytest.raises(PackageError, match="tiny is not installed: run `pip install tiny`"):
        packaged_model("tiny")


def test_every_name_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(packaged_models, "installed_file", lambda *_: None)
    for name, model in PACKAGED.items():
        with pytest.raises(PackageError, match=f"^{name} is not installed: run `pip install "):
            packaged_model(name)
        assert len(model.sha256) == 64
