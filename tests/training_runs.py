"""Short training runs on tiny models."""

import json
from functools import partial

import safetensors.torch
import torch

from cmc_runtime.data.examples import read_examples
from cmc_runtime.training.new_delta import new_delta
from cmc_runtime.training.objectives import needs_retain
from cmc_runtime.training.options import TrainingOptions
from cmc_runtime.training.train import train

PROMPT_TEMPLATE = "Q: {prompt}\nA: {response}"
WORDS = [
    "the quick brown fox",
    "日本語のテキスト",
    "crème brûlée, 12 euros",
    "don't, can't",
    "🙂🙃",
]


def save_rows(path, count, shift=0):
    rows = [
        {"question": f"{i} {WORDS[i % 5]}?", "answer": f"{WORDS[(2 * i + shift) % 5]} {i}"}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


OPTIONS = partial(
    TrainingOptions, num_train_epochs=3, learning_rate=1e-2, prompt_template=PROMPT_TEMPLATE
)


def run(folder, template, output, options=None, *, start=None, objective="sft", **more):
    start = start or new_delta(template, shape=None, layers=1)
    retain = read_examples(folder / "retain.jsonl") if needs_retain(objective) else None
    return train(
        *(template, start, read_examples(folder / "data.jsonl"), output),
        options or OPTIONS(objective),
        retain=retain,
        **more,
    )


def weights_of(output):
    return safetensors.torch.load_file(output / "model.safetensors")


def assert_same_weights(one, other, **tolerance):
    found, expected = weights_of(one), weights_of(other)
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], **(tolerance or {"rtol": 0, "atol": 0}))
