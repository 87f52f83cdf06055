"""Right inputs of `cmc-runtime`: tiny models, deltas, adapters, a run, options, rows, a talk."""

import json
import os
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import torch
from tiny_models import CHAT, save_model, write_gguf
from training_runs import save_rows

from cmc_runtime import load_model
from cmc_runtime.data.examples import read_examples
from cmc_runtime.training.new_delta import new_adapter, new_delta
from cmc_runtime.training.options import TrainingOptions
from cmc_runtime.training.train import train

from .seeds import CACHE, Seed

_OPTIONS = """\
epochs = 1
lr = 0.01
batch-size = 2
prompt-template = "Q: {prompt}\\nA: {response}"
unmapped = "keep"
max-length = 60
seed = 3
"""


_SETTINGS = {"alpha_pattern": {"v_proj": 3, r"layers\.1.*down_proj": 20}, "use_rslora": True}
_SAID = "Hello\n/alpha 2\nWho are you?\n/reset\n/help\nAnd then?\n/quit\n"


def _user(path: Path) -> None:
    save_model(path, "byte-level", chat_template=CHAT)


def _run(path: Path) -> None:
    """A training that has ended, in the folder of its delta model, where its checkpoints are."""
    torch.set_num_threads(1)  # more of them would not outlive a fork
    user, rows = (path.with_name(name) for name in ("user", "rows.jsonl"))
    _user(user)
    data = read_examples(save_rows(rows, 4))
    with chdir(path.parent):  # the run knows its models by these names
        frozen = load_model("user")
        train(frozen, new_delta(frozen, layers=1), data, path, TrainingOptions(num_train_epochs=1))


def _adapter(path: Path) -> None:
    """A trained adapter, with our card."""
    user, rows = (path.with_name(name) for name in ("user", "rows.jsonl"))
    _user(user)
    data = read_examples(save_rows(rows, 4))
    with chdir(path.parent):
        frozen = load_model("user")
        options = TrainingOptions(num_train_epochs=1)
        train(frozen, new_adapter(frozen, rank=2), data, path, options)
    _configure(path, base_model_name_or_path="user")  # it has the whole path of one of them


def _foreign_adapter(path: Path) -> None:
    """One that says nothing about how it was trained."""
    _adapter(path)
    (path / "delta.json").unlink()
    _configure(path, **_SETTINGS)


def _configure(adapter: Path, **settings: object) -> None:
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))


def _kept(path: Path) -> None:
    """A user's cache with a converted model."""
    path.mkdir()
    with patch.dict(os.environ, XDG_CACHE_HOME=str(path)):
        load_model(write_gguf(path.with_name("tiny.gguf")))


SEEDS = [
    Seed("model", "model", _user),
    Seed("data.jsonl", "training rows", lambda path: save_rows(path, 4)),
    Seed("trained", "delta", _run),
    Seed("run", "run", _run),
    Seed("options.toml", "options", lambda path: path.write_text(_OPTIONS)),
    Seed("adapter", "adapter", _adapter),
    Seed("foreign", "adapter", _foreign_adapter),
    Seed("base", "base", _user),
    Seed("talker", "talker", _user),
    Seed("talk", "talk", lambda path: path.write_text(_SAID)),
    Seed("model.gguf", "gguf", write_gguf),
    Seed(CACHE, "cache", _kept),
]


def make_beside(folder: Path) -> list[str]:
    """Write what commands take beside the changed input; return the names."""
    _run(folder / "delta")
    return ["user", "rows.jsonl", "delta", "adapter", "foreign", "tiny.gguf", "talk", CACHE]
