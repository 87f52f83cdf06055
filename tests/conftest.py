"""Real vocabularies and the reference map, where this machine has them."""

import importlib.util
import os
import re
import shutil
from functools import cache
from pathlib import Path

import pytest

from pm_mined import Vocabulary, VocabularyError, load_vocabulary
from pm_mined.tokenizer.registry import named_vocabularies

# Before anything imports Triton: without a GPU, its interpreter runs the kernels.
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"

# Before anything imports torch: on tiny models, a second thread mostly waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The tests of pm_mined run without torch; the others are not collected then.
HERE = Path(__file__).parent
NEEDS_TORCH = re.compile(
    "^(from|import) (cmc_runtime|tiny_models|torch|transformers)", re.MULTILINE
)
if importlib.util.find_spec("torch") is None:
    collect_ignore = [
        path.name for path in HERE.glob("test_*.py") if NEEDS_TORCH.search(path.read_text("utf-8"))
    ]

SHARED = HERE.parents[1] / "shared" / "data"


def quick_first(cases, quick=1):
    """Cases of a parametrised test: the first few as they are, the others left to the slow run."""
    rest = [
        pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.slow)
        for one in cases[quick:]
    ]
    return [*cases[:quick], *rest]


@cache
def real_vocabulary(name: str) -> Vocabulary:
    """A vocabulary of an installed package; skips the test where it is not installed."""
    entry = named_vocabularies()[name]
    if entry.installed_file() is None:
        pytest.skip(f"{name} needs `pip install {entry.package}`")
    try:
        return load_vocabulary(name)
    except VocabularyError as error:
        pytest.fail(str(error))


def shared_file(path: str) -> Path:
    """A file of the published reference; skips the test where it is absent."""
    if not (SHARED / path).exists():
        pytest.skip(f"the published reference file {path} is not beside this checkout")
    return SHARED / path
