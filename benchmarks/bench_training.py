"""The time that keeping the frozen model's hidden states saves in training on a CPU.

    python benchmarks/bench_training.py --data ROWS [--template NAME] [--layers N] [--runs N]

A delta of the first layers of the frozen model is trained for a few steps, that model run in each
step or its states kept on disk; both start from the same weights and see the same rows. No time is
printed before the losses of both were found to be the same. `states` is what making them takes.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import Report, Spread, command_line, spread

from cmc_runtime import load_model
from cmc_runtime.data.examples import read_examples
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.training.new_delta import new_delta
from cmc_runtime.training.options import TrainingOptions
from cmc_runtime.training.record import METRICS, read_metrics
from cmc_runtime.training.train import train

ROWS = 16
PROMPT_TEMPLATE = "Question: {prompt}\nAnswer: {response}"
PACKAGES = ("torch", "transformers", "accelerate")


class Clock:
    """A callback that notes when each step ended, and when the first could begin."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.kept = 0.0
        self._last = time.perf_counter()

    def __call__(self, what: str, *_: int) -> None:
        """Note the end of a step."""
        now = time.perf_counter()
        if what == "training":
            self.ends.append(now)
        else:
            self.kept += now - self._last
        self._last = now


def run(
    template: LoadedModel, data: Path, layers: int, output: Path, states: Path | None
) -> tuple[Clock, list[float]]:
    """The times and losses of two epochs."""
    clock = Clock()
    train(
        template,
        new_delta(template, shape=None, layers=layers),
        read_examples(data, limit=ROWS),
        output,
        TrainingOptions(
            num_train_epochs=2,
            learning_rate=1e-4,
            prompt_template=PROMPT_TEMPLATE,
            save_steps=10**6,
        ),
        keep_states=states,
        progress=clock,
    )
    return clock, [row["loss"] for row in read_metrics(output / METRICS)]


def check(found: list[float], expected: list[float]) -> None:
    """Exit where the losses differ by more than a rounding."""
    for step, (one, other) in enumerate(zip(found, expected, strict=True), 1):
        if abs(one - other) > 1e-3 * abs(other):
            sys.exit(f"the loss of step {step} is {one} with kept states and {other} without")


def per_step(clocks: list[Clock]) -> Spread:
    """Seconds from the end of one step to that of the next."""
    return spread([b - a for c in clocks for a, b in zip(c.ends, c.ends[1:], strict=False)])


def main() -> None:
    """Print a table and a JSON line."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="questions and answers")
    parser.add_argument("--template", default="smollm2-135m")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()

    report = Report("training", json_only=options.json, packages=PACKAGES)
    template = load_model(options.template, device="cpu")
    clocks: dict[str, list[Clock]] = {"run in each step": [], "states kept": []}
    states = []
    with TemporaryDirectory() as folder:
        for i in range(options.runs):
            kept = Path(folder) / f"states-{i}"
            losses = {}
            for name, where in (("run in each step", None), ("states kept", kept)):
                output = Path(folder) / f"{name}-{i}"
                clock, losses[name] = run(template, options.data, options.layers, output, where)
                clocks[name].append(clock)
            check(losses["states kept"], losses["run in each step"])
            states.append(clocks["states kept"][-1].kept)
    times = {name: per_step(some) for name, some in clocks.items()}
    slow, fast = times.values()
    report.table(
        ["template", "seconds per step", "20 %", "80 %"],
        [[name, *(f"{one:.2f}" for one in each)] for name, each in times.items()],
    )
    report.line(
        f"{slow.median / fast.median:.2f} times as fast; states {spread(states).median:.1f} s"
    )
    report.document |= {"seconds_per_step": times, "states_seconds": states}
    report.finish()


if __name__ == "__main__":
    main()
