"""The package as a whole: its public names, its wheel, and that its examples are true."""

import doctest
import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cmc_runtime
import pm_mined
import pm_mined.kernels

ROOT = Path(__file__).parents[1]


PUBLIC = {
    pm_mined: {
        *("STRATEGIES", "Audit", "Kind", "Rule", "TokenMap", "Usage", "Vocabulary"),
        *("build_map", "check_map", "load_encoder", "load_map", "load_vocabulary", "read_usage"),
        *("MapFileError", "OptionError", "OverridesError", "PmMinedError", "TextError"),
        *("VocabularyError", "__version__"),
    },
    cmc_runtime: {
        *("Conversation", "Delta", "LoadedModel", "MapTensors"),
        *("load_delta", "load_model", "load_map_tensors", "identity_map_tensors"),
        *("AdaptiveSteering", "Completion", "Contrast", "Request", "Sampling", "Steering"),
        *("SteeringProcessor", "fuse_logits", "generate", "implementation_of", "next_tokens"),
        *("TrainingOptions", "evaluate", "fit_alpha", "fused_cross_entropy", "read_examples"),
        *("new_adapter", "new_delta"),
        *("train", "CardError", "ContextError", "DataError", "ModelError", "PackageError"),
        *("Evaluation", "FittedAlpha", "StatesError", "TrainingError"),
    },
}


def is_error(public):
    return isinstance(public, type) and issubclass(public, pm_mined.PmMinedError)


@pytest.mark.parametrize("package", PUBLIC, ids=lambda package: package.__name__)
def test_the_public_names(package):
    assert set(package.__all__) == set(dir(package)) == PUBLIC[package]
    for name in PUBLIC[package] - {"STRATEGIES", "__version__"}:
        assert is_error(getattr(package, name)) or ">>> " in getattr(package, name).__doc__, name
    with pytest.raises(AttributeError, match="nonsense"):
        package.nonsense  # noqa: B018 - asking for it is the test


def modules():
    found = ["pm_mined", "cmc_runtime"]
    for package in (pm_mined, pm_mined.kernels, cmc_runtime):  # kernels/ lies elsewhere
        prefix = package.__name__ + "."
        found += [module.name for module in pkgutil.walk_packages(package.__path__, prefix)]
    return sorted({name for name in found if not name.endswith("__main__")})


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_are_true(name):
    needed = {"pm_mined.kernels.fused_logits": "triton", "cmc_runtime.engines.vllm": "vllm"}
    if name in needed:
        pytest.importorskip(needed[name])
    if name.startswith(("cmc_runtime.", "pm_mined.kernels.fused_logits")):
        pytest.importorskip("transformers")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_module_is_found():
    assert {"pm_mined.kernels.prefix_match", "pm_mined.tokenizer.readers.tekken"} <= set(modules())


@pytest.mark.slow
def test_a_wheel_holds_everything(tmp_path):
    """Built from a copy, unpacked, and run from somewhere else."""
    copy = tmp_path / "copy"
    for folder in ("pm_mined", "kernels", "cmc_runtime"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w"]
    subprocess.run([*build, tmp_path, copy], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "unpacked", "zip")
    code = """
import cmc_runtime, pm_mined, pm_mined.kernels.prefix_match as kernel
from pm_mined.tokenizer.registry import named_vocabularies
from pm_mined.tokenizer.special_tokens import role_of
from pm_mined.overrides.shipped import shipped_tables
from pm_mined import Audit, Vocabulary, build_map
from pm_mined.reports.page import render_page
one = Vocabulary.from_tokens([b"a"], [0])
assert len(shipped_tables()) > 5 and len(render_page(Audit(build_map(one, one)))) > 500_000
assert all("unpacked" in module.__file__ for module in (cmc_runtime, pm_mined, kernel))
assert len(dir(cmc_runtime)) > len(dir(pm_mined)) > 10
print(role_of("<s>"), "llama3" in named_vocabularies())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "unpacked"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "bos True\n", done.stderr
    assert {path.name for path in (tmp_path / "unpacked").iterdir()} == {
        "cmc_runtime",
        "pm_mined",
        f"pm_mined-{pm_mined.__version__}.dist-info",
    }
