"""The record of a training run: progress, figures as JSON Lines, and a picture of them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from pm_mined.json_lines import parse_line, read_lines

METRICS = "metrics.jsonl"
PICTURE = "loss.png"
_KEPT = ("loss", "grad_norm", "learning_rate")
_NO_FIGURE = 2**53

OnStep = Callable[[int, int], object]
"""Told after each step its number, and how many there are."""


class TrainingRecord(TrainerCallback):
    """Writes a line for each step, and tells it.

    Args:
        path: The file; of a run that is resumed, it is made anew from its checkpoint.
        epoch_rows: How many rows an epoch has.
        on_step: See `OnStep`.
    """

    def __init__(self, path: Path, epoch_rows: int, on_step: OnStep) -> None:
        self._path = path
        self._epoch_rows = epoch_rows
        self._on_step = on_step

    # The trainer hands on what it has, whatever is needed of it.
    # ruff: noqa: ARG002

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the file, with the steps before the checkpoint."""
        if state.is_world_process_zero:
            rows = [self._row(args, logs) for logs in state.log_history if "loss" in logs]
            self._path.write_text("".join(map(_line, rows)), "utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        """A step is done."""
        if not state.is_world_process_zero or "loss" not in others["logs"]:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(self._row(args, state.log_history[-1])))
        self._on_step(state.global_step, state.max_steps)

    def _row(self, args: TrainingArguments, logs: Mapping[str, float]) -> dict[str, float]:
        """The figures of a step, from what the trainer logs of it."""
        step_rows = (
            args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        )
        step = logs["step"]
        row = {"step": step, "epoch": round(step * step_rows / self._epoch_rows, 4)}
        return row | {name: logs[name] for name in _KEPT if name in logs}


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(row) + "\n"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The figures of each step of a run; a line that the end of the process cut off is skipped."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        rows = [_row(line) for _, line in read_lines(file)]
    return [row for row in rows if row is not None]


def _row(line: bytes) -> dict[str, float] | None:
    """The figures of a step; None for a damaged line."""
    try:
        row = parse_line(line)
    except ValueError:
        return None
    needed = ("step", "epoch", "loss")
    if isinstance(row, dict) and all(_is_figure(row.get(name)) for name in needed):
        return row
    return None


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _NO_FIGURE  # neither NaN nor infinite


def plot_metrics(metrics: Path, picture: Path) -> None:
    """The loss of each step, and its mean over an epoch, as a PNG."""
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs, losses = [row["epoch"] for row in rows], [row["loss"] for row in rows]
    axes.plot(epochs, losses, linewidth=0.8, alpha=0.5, label="each step")
    axes.plot(*_by_epoch(epochs, losses), marker="o", label="mean of the epoch")
    axes.set(xlabel="epoch", ylabel="objective, nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=120)


def _by_epoch(epochs: list[float], losses: list[float]) -> tuple[list[int], list[float]]:
    """The ends of the epochs, and the mean loss of each."""
    of_epoch: dict[int, list[float]] = {}
    for epoch, loss in zip(epochs, losses, strict=True):
        of_epoch.setdefault(-int(-epoch // 1), []).append(loss)
    return list(of_epoch), [sum(some) / len(some) for some in of_epoch.values()]


def last_epoch(metrics: list[dict[str, float]]) -> float:
    """The mean loss of the last epoch; at least one step."""
    _, means = _by_epoch([row["epoch"] for row in metrics], [row["loss"] for row in metrics])
    return means[-1]
