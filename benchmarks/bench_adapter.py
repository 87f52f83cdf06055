"""The cost of an adapter as a delta in decoding, beside one forward of its small model, on a CPU.

    python benchmarks/bench_adapter.py [--model MODEL] [--rank R] [--rows N] [--json]

Texts grow by a token a step, on the cache that decoding uses. Nothing is timed before the logits
were found to be the difference of two forwards. The columns are milliseconds of one core's time,
medians over the steps, in which all take turns, so that other work on the machine slows them all:

- `plain` is the small model alone: what a delta of its size costs.
- `adapter` is the difference that an adapter of all its linear layers makes: one forward of pairs.
- `two forwards` is the same by two models, one of them with the adapter merged into its weights.
"""

import argparse
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from statistics import median
from typing import Any

import torch
from measure import Report

from cmc_runtime import load_model, new_adapter
from cmc_runtime.models.difference import DifferenceModel
from cmc_runtime.steering.cached_model import CachedModel

LENGTHS = (16, 256)  # tokens
STEPS = 25
TOLERANCE = 1e-2  # logits, of hundreds in float32
GOAL = 1.15  # times: what the adapter may cost, of what the plain model does
PACKAGES = ("torch", "transformers")


def random_adapter(name: str, rank: int) -> DifferenceModel:
    """An adapter that changes every linear layer by a tenth of its weights."""
    model: Any = new_adapter(load_model(name, device="cpu"), rank=rank).model
    difference: DifferenceModel = model
    torch.manual_seed(0)
    for path, layer in difference.adapter.layers.items():
        weight = difference.plain.get_submodule(path).weight
        layer.lora_B.normal_()
        change = layer.scaling * layer.lora_B @ layer.lora_A
        layer.lora_B.mul_(0.1 * weight.norm() / change.norm())
    return difference


def merged(difference: DifferenceModel) -> Any:
    """A copy of the small model with the adapter in its weights."""
    model = deepcopy(difference.plain)
    for path, layer in difference.adapter.layers.items():
        model.get_submodule(path).weight.add_(layer.lora_B @ layer.lora_A, alpha=layer.scaling)
    return model


class Texts:
    """Texts that grow by a token a step, and the models that follow them."""

    def __init__(self, models: list[Any], length: int, rows: int) -> None:
        self._ids = torch.randint(1000, (rows, length + STEPS)).tolist()
        self._followed = [
            (model, [model.begin(ids[:length]) for ids in self._ids])
            for model in map(CachedModel, models)
        ]

    def step(self) -> list[torch.Tensor]:
        """The logits of each model, after one more token of each text."""
        found = []
        for model, sequences in self._followed:
            found.append(model.logits(sequences))
            for sequence, ids in zip(sequences, self._ids, strict=True):
                sequence.ids.append(ids[len(sequence.ids)])
        return found


def check(difference: DifferenceModel, adapted: Any) -> None:
    """Exit unless the logits are those of two forwards."""
    texts = Texts([difference, adapted, difference.plain], LENGTHS[0], 2)
    for _ in range(3):
        found, after, before = texts.step()
        if not torch.allclose(found, after - before, atol=TOLERANCE, rtol=TOLERANCE):
            worst = (found - after + before).abs().max()
            sys.exit(f"logits differ by {worst:.3g} from those of two forwards, so no times")


def milliseconds(run: Callable[[], object]) -> float:
    """One core's time."""
    start = time.process_time()
    run()
    return 1000 * (time.process_time() - start)


def measure(ways: dict[str, list[Any]], length: int, rows: int) -> dict[str, list[float]]:
    """Milliseconds of each step, of each way."""
    texts = {name: Texts(models, length, rows) for name, models in ways.items()}
    for one in texts.values():
        one.step()  # the prompt
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(STEPS - 1):
        for name, one in texts.items():
            found[name].append(milliseconds(one.step))
    return found


@torch.inference_mode()
def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="the small model")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")
    parser.add_argument("--rows", type=int, default=1, help="texts at once")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    report = Report("adapter", json_only=options.json, packages=PACKAGES)
    torch.set_num_threads(1)
    difference = random_adapter(options.model, options.rank)
    adapted = merged(difference)
    check(difference, adapted)
    report.line("gate: the logits are those of two forwards\n")
    ways = {
        "plain": [difference.plain],
        "adapter": [difference],
        "two forwards": [adapted, difference.plain],
    }
    rows = {}
    for length in LENGTHS:
        found = measure(ways, length, options.rows)
        rows[length] = {name: median(some) for name, some in found.items()}
        for name in ("adapter", "two forwards"):
            pairs = zip(found[name], found["plain"], strict=True)
            rows[length][f"{name} / plain"] = median(one / plain for one, plain in pairs)
    report.table(
        ["tokens", *rows[LENGTHS[0]]],
        [[f"{length:,}", *map("{:.2f}".format, row.values())] for length, row in rows.items()],
    )
    worst = max(row["adapter / plain"] for row in rows.values())
    said = "met" if worst <= GOAL else "missed"
    report.line(f"at most {worst:.2f} times the plain model (goal {GOAL}: {said})")
    about = {"model": options.model, "rank": options.rank, "rows": options.rows}
    report.document |= about | {"ms": rows}
    report.finish()


if __name__ == "__main__":
    main()
