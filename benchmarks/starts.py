"""Starts of a delta model: layers, output layer, learning rate, epochs, and what each reaches.

    python benchmarks/starts.py --data ROWS [--work DIR] [--rows N] [--held-out N]
                                [--starts TEXT ...] [--bf16] [--json]

Every start is trained beside one small model on the first rows, and tried on the rows after them:
on that model and, through the map, on one with another vocabulary. A start is written as `2 square
5e-4 2`: layers, output layer (`square` or `full`), learning rate, epochs. What is found is kept in
the folder of --work, where the next run finds it.

No figure is kept before the loss of the trained rows fell.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from measure import Report, command_line
from transfer_setup import TEMPLATE, USER, part

from cmc_runtime import Delta, LoadedModel, load_delta, load_model
from cmc_runtime.data.examples import Examples, read_examples
from cmc_runtime.data.samples import fitting_samples
from cmc_runtime.models.digest import model_digest
from cmc_runtime.training.frozen_states import frozen_states
from cmc_runtime.training.new_delta import delta_of_layers
from cmc_runtime.training.objectives import FusedObjective
from cmc_runtime.training.options import TrainingOptions
from cmc_runtime.training.record import METRICS, read_metrics
from cmc_runtime.training.rows import Data
from cmc_runtime.training.train import train

STARTS = ["1 square 5e-4 2", "2 square 5e-4 2", "4 square 5e-4 2", "2 full 5e-4 2"]
PROMPT_TEMPLATE = "Instruction: {prompt}\nResponse: {response}"
ALPHAS = (0.5, 1.0)
BATCH = 4
PACKAGES = ("pm-mined", "torch", "transformers")


@dataclass(frozen=True)
class Start:
    """What a delta begins as, and how it is trained."""

    layers: int
    head: Literal["square", "full"]
    learning_rate: float
    epochs: int

    @classmethod
    def of(cls, text: str) -> "Start":
        """Read `2 square 5e-4 2`."""
        layers, head, rate, epochs = text.split()
        if head not in ("square", "full"):
            sys.exit(f"--starts {text!r}: its output layer is {head}; expected square or full")
        return cls(int(layers), "square" if head == "square" else "full", float(rate), int(epochs))

    @property
    def name(self) -> str:
        """The start as `of` reads it."""
        return f"{self.layers} {self.head} {self.learning_rate:g} {self.epochs}"


@dataclass(frozen=True)
class Trial:
    """The models, the rows, and the folder of what is kept."""

    template: LoadedModel
    user: LoadedModel
    rows: Examples
    held_out: Examples
    options: TrainingOptions
    work: Path

    def measure(self, start: Start) -> dict[str, Any]:
        """The figures of a start, as they were found before if they were."""
        kept = self.work / f"{start.name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(self._trained(start)))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def _trained(self, start: Start) -> dict[str, Any]:
        model = delta_of_layers(self.template.model, start.layers, start.head)
        begun = LoadedModel(model, self.template.tokenizer, f"{start.layers} layers")
        folder, ends = self.work / start.name, [0.0]
        options = replace(
            self.options, learning_rate=start.learning_rate, num_train_epochs=start.epochs
        )
        own = train(
            *(self.template, begun, self.rows, folder, options),
            keep_states=self.work / "states",
            resume=True,
            progress=lambda what, *_: ends.append(time.process_time() if what == "training" else 0),
        )
        losses = [row["loss"] for row in read_metrics(folder / METRICS)]
        first, second = losses[: len(losses) // 2], losses[len(losses) // 2 :]
        if fmean(second) >= fmean(first):  # of one step it is that of a few rows
            sys.exit(f"{start.name}: the loss rose from {fmean(first):.4f} to {fmean(second):.4f}")
        steps = [one for one in ends if one]
        other = load_delta(
            *(own.loaded, self.user.tokenizer),
            num_logits=self.user.num_logits,
            prompt_template=own.prompt_template,
        )
        return asdict(start) | {
            "cpu_seconds_per_step": (steps[-1] - steps[0]) / max(len(steps) - 1, 1),
            "learned": self.losses(self.template, own, self.rows, [1.0]),
            "template": self.losses(self.template, own, self.held_out),
            "user": self.losses(self.user, other, self.held_out),
            "checkpoint_mb": _megabytes(next(folder.glob("checkpoint-*"))),
        }

    def losses(
        self, user: LoadedModel, delta: Delta, rows: Examples, alphas: Sequence[float] = ALPHAS
    ) -> dict[str, float]:
        """The mean loss per token by strength; the states of the user model are made once."""
        samples = fitting_samples(user, rows.rows, self.options.prompt_template, delta).samples
        kept = self.work / "states", user.model, model_digest(user.model), samples
        data = Data(samples, frozen_states(*kept, batch_size=BATCH))
        found = {}
        for alpha in alphas:
            objective = FusedObjective(delta, user.model, "sft", alpha)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.options.bf16):
                sums = [
                    objective.sums(data.batch(range(len(samples))[i : i + BATCH])).double().sum(0)
                    for i in range(0, len(samples), BATCH)
                ]
            loss, _, tokens = torch.stack(sums).sum(0).tolist()
            found[f"{alpha:g}"] = loss / tokens
        return found


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def alone(trial: Trial) -> dict[str, float]:
    """The losses of the held-out rows without a delta."""
    delta = LoadedModel(delta_of_layers(trial.template.model, 1), trial.template.tokenizer, "none")
    found = {}
    for name, user in (("template", trial.template), ("user", trial.user)):
        ready = load_delta(delta, user.tokenizer, num_logits=user.num_logits)
        found[name] = trial.losses(user, ready, trial.held_out, [0.0])["0"]
    return found


def main() -> None:
    """Train what is not there, measure, print a table and a JSON line."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="instructions and outputs")
    parser.add_argument("--work", type=Path, default=Path("starts"))
    parser.add_argument("--rows", type=int, default=120, help="rows to train on")
    parser.add_argument("--held-out", type=int, default=40, help="the rows after them")
    parser.add_argument("--starts", nargs="+", default=STARTS, help="such as '2 square 5e-4 2'")
    parser.add_argument("--bf16", action="store_true", help="multiply matrices in bfloat16")
    given = parser.parse_args()
    starts = [Start.of(text) for text in given.starts]

    report = Report("starts", json_only=given.json, packages=PACKAGES)
    data = read_examples(given.data, limit=given.rows + given.held_out)
    given.work.mkdir(parents=True, exist_ok=True)
    options = TrainingOptions(prompt_template=PROMPT_TEMPLATE, bf16=given.bf16)
    trial = Trial(
        load_model(TEMPLATE, device="cpu"),
        load_model(USER, device="cpu"),
        part(data, 0, given.rows),
        part(data, given.rows, None),
        options,
        given.work,
    )
    base = alone(trial)
    report.line(f"alone: {TEMPLATE} {base['template']:.4f}, {USER} {base['user']:.4f}")
    found = [trial.measure(start) for start in starts]
    columns = [("learned", "1")]
    columns += [(where, f"{alpha:g}") for where in ("template", "user") for alpha in ALPHAS]
    report.table(
        ["start", "CPU s/step", "MB", *(f"{where} {alpha}" for where, alpha in columns)],
        [
            [
                *(start.name, f"{one['cpu_seconds_per_step']:.2f}", f"{one['checkpoint_mb']:.0f}"),
                *(f"{one[where][alpha]:.4f}" for where, alpha in columns),
            ]
            for start, one in zip(starts, found, strict=True)
        ],
    )
    report.document |= {"alone": base, "starts": found, "rows": given.rows, "bf16": given.bf16}
    report.finish()


if __name__ == "__main__":
    main()
