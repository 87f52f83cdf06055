"""LoRA fine-tuning (arXiv 2106.09685) of a copy of a model, by peft, to compare deltas with."""

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import get_cosine_schedule_with_warmup

from cmc_runtime import LoadedModel
from cmc_runtime.data.examples import Examples
from cmc_runtime.data.samples import Sample, fitting_samples, sample_batch
from cmc_runtime.models.output_head import OutputHead
from cmc_runtime.training.rows import training_rows
from pm_mined.atomic_file import write_atomically

_DONE = "tuning.json"  # beside the adapter, written last


@dataclass(frozen=True)
class Tuning:
    """Settings of the tuning; rank, alpha and dropout are those of TOFU's LoRA baseline."""

    prompt_template: str
    epochs: int
    learning_rate: float
    batch_size: int = 4
    warmup: float = 0.03  # share of the steps; from there it falls by a cosine to 0
    seed: int = 0
    rank: int = 32
    lora_alpha: int = 64
    dropout: float = 0.05


def check_installed() -> None:
    """Exit if peft is not installed."""
    if find_spec("peft") is None:
        sys.exit("LoRA needs peft: run `pip install peft`")


def tuned(base: LoadedModel, data: Examples, folder: Path, tuning: Tuning) -> LoadedModel:
    """Tune a copy of a model and merge its adapter, or load the one that is in the folder."""
    import peft

    made_of = {**asdict(tuning), "model": Path(base.spec).name, "data": data.digest}
    model: Any = copy.deepcopy(base.model)
    if (folder / _DONE).exists():
        _check_same(folder, made_of)
        model = peft.PeftModel.from_pretrained(model, folder)
    else:
        torch.manual_seed(tuning.seed)  # of the adapter's weights, and of dropout
        model = peft.get_peft_model(model, _config(tuning))
        _train(model, fitting_samples(base, data.rows, tuning.prompt_template).samples, tuning)
        model.save_pretrained(folder, save_embedding_layers=False)
        write_atomically(folder / _DONE, json.dumps(made_of, indent=2).encode())
    merged = model.merge_and_unload().eval().requires_grad_(False)
    return LoadedModel(merged, base.tokenizer, folder.name)


def _config(tuning: Tuning) -> Any:
    import peft

    return peft.LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.lora_alpha,
        lora_dropout=tuning.dropout,
        target_modules="all-linear",  # but for the output layer
        task_type="CAUSAL_LM",
    )


def _check_same(folder: Path, made_of: dict[str, Any]) -> None:
    before = json.loads((folder / _DONE).read_text("utf-8"))
    for name, value in made_of.items():
        if before.get(name) != value:
            sys.exit(
                f"{folder}: tuned with {name} {before.get(name)}, not {value}: give another --work"
            )


def _train(model: Any, samples: list[Sample], tuning: Tuning) -> None:
    """Train the adapter by the mean cross-entropy of the responses' tokens, ends included."""
    inner = model.get_base_model()
    head = OutputHead.of(inner)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=tuning.learning_rate, weight_decay=0.0)
    batches = list(_batches(samples, tuning))
    warmup = round(tuning.warmup * len(batches))
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, len(batches))
    model.train()
    for some in batches:
        batch = sample_batch(some)
        loss: Tensor = functional.cross_entropy(head(batch.user_states(inner)), batch.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)  # as transformers' trainer does
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def _batches(samples: list[Sample], tuning: Tuning) -> Iterator[list[Sample]]:
    """The rows of every epoch, in the same orders as in a delta's training."""
    rows = training_rows(len(samples), 0, epochs=tuning.epochs, seed=tuning.seed)
    order = [samples[rows[i]["data"]] for i in range(len(rows))]
    for start in range(0, len(order), tuning.batch_size):
        yield order[start : start + tuning.batch_size]
