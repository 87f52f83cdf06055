"""Real vocabularies and the reference map, where this machine has them."""

import os
import shutil
from functools import cache
from pathlib import Path

import pytest

from pm_mined import Vocabulary, VocabularyError, load_vocabulary
from pm_mined.tokenizer.registry import named_vocabularies

# Before anything imports Triton: without a GPU, its interpreter runs the kernels.
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"

SHARED = Path(__file__).parents[2] / "shared" / "data"


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
