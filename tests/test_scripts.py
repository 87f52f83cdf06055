"""The scripts in examples/, as a person runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import quick_first
from tiny_models import save_model

from cmc_runtime import Sampling, generate, load_model

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("tokenizer", quick_first(["byte-level", "metaspace"]))
def test_a_decode_loop(tmp_path, tokenizer):
    """With strength 0 it is the model alone; else it is another text."""
    user = save_model(tmp_path / "user", "byte-level")
    delta = save_model(tmp_path / "delta", tokenizer, seed=1)
    options = ("--model", user, "--delta", delta, "--prompt", "the quick", "--max-new-tokens", "6")
    made = [run("decode_loop.py", *options, "--alpha", alpha) for alpha in (0, 2)]
    (alone,) = generate(load_model(user, device="cpu"), ["the quick"], sampling=Sampling(6))
    assert made[0].encode() == f"{alone.text}\n".encode()
    assert made[1] != made[0]


def test_the_client_says_what_it_takes():
    pytest.importorskip("openai")
    assert "--delta" in run("vllm_client.py", "--help")
