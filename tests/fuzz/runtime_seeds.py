"""Right inputs of `cmc-runtime`: tiny models, deltas, a run with a checkpoint, options, rows."""

from contextlib import chdir
from pathlib import Path

import torch
from tiny_models import CHAT, save_model
from training_runs import save_rows

from cmc_runtime import load_model
from cmc_runtime.data.examples import read_examples
from cmc_runtime.training.new_delta import new_delta
from cmc_runtime.training.options import TrainingOptions
from cmc_runtime.training.train import train

from .seeds import Seed

_OPTIONS = """\
epochs = 1
lr = 0.01
batch-size = 2
prompt-template = "Q: {prompt}\\nA: {response}"
unmapped = "keep"
max-length = 60
seed = 3
"""


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


SEEDS = [
    Seed("model", "model", _user),
    Seed("data.jsonl", "training rows", lambda path: save_rows(path, 4)),
    Seed("trained", "delta", _run),
    Seed("run", "run", _run),
    Seed("options.toml", "options", lambda path: path.write_text(_OPTIONS)),
]


def make_beside(folder: Path) -> list[str]:
    """Write what commands take beside the changed input; return the names."""
    _run(folder / "delta")
    return ["user", "rows.jsonl", "delta"]
