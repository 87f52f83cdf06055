"""The record of a training run: progress, figures as JSON Lines, and a picture of them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from transformers import TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from pm_mined.json_lines import parse_line, read_lines

from .rows import rows_of_step

METRICS = "metrics.jsonl"
PICTURE = "loss.png"
EVAL_FIGURES = ("eval_loss", "eval_accuracy")
_FIGURES = ("loss", "grad_norm", "learning_rate", *EVAL_FIGURES)
_NO_FIGURE = 2**53

Progress: TypeAlias = Callable[[str, int, int], object]
"""Told what is being done, how much of it is done, and how much there is to do."""


class TrainingRecord(TrainerCallback):
    """Writes a line for each step and for each validation, and tells them.

    Args:
        path: The file; of a run that is resumed, it is made anew from its checkpoint.
        epoch_rows: How many rows an epoch has.
        progress: See `Progress`.
        note: Told the loss of each validation, in a line.
    """

    def __init__(
        self,
        path: Path,
        epoch_rows: int,
        progress: Progress = lambda *_: None,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._path = path
        self._epoch_rows = epoch_rows
        self._progress, self._note = progress, note
        self._validated = 0  # batches

    # The trainer hands on what it has, whatever is needed of it.
    # ruff: noqa: ARG002

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the file, with the steps before the checkpoint."""
        if state.best_global_step:  # its path is that of the folder before, which may have moved
            best = Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}"
            state.best_model_checkpoint = str(best)
        if state.is_world_process_zero:
            lines = [self._line(args, logs) for logs in state.log_history if _is_recorded(logs)]
            self._path.write_text("".join(lines), "utf-8")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count epochs for whom it is reported to; the trainer has the rows of all as one."""
        state.epoch = state.global_step * rows_of_step(args) / self._epoch_rows

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        """A step is done, or a validation."""
        if not state.is_world_process_zero or not _is_recorded(others["logs"]):
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._line(args, state.log_history[-1]))
        if "loss" in others["logs"]:
            self._progress("training", state.global_step, state.max_steps)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        """A batch is validated."""
        self._validated += 1
        self._progress("validation", self._validated, len(others["eval_dataloader"]))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **others: Any,
    ) -> None:
        """All batches are validated."""
        self._validated = 0
        if not state.is_world_process_zero:
            return
        loss, accuracy = (others["metrics"][name] for name in EVAL_FIGURES)
        self._note(f"step {state.global_step}: validation loss {loss:.4f}, accuracy {accuracy:.4f}")

    def _line(self, args: TrainingArguments, logs: Mapping[str, float]) -> str:
        """The figures of a step, or of a validation, from what the trainer logs of it."""
        step = logs["step"]
        row = {"step": step, "epoch": round(step * rows_of_step(args) / self._epoch_rows, 4)}
        return json.dumps(row | {name: logs[name] for name in _FIGURES if name in logs}) + "\n"


def _is_recorded(logs: Mapping[str, float]) -> bool:
    return "loss" in logs or "eval_loss" in logs


def read_metrics(path: Path, figure: str = "loss") -> list[dict[str, float]]:
    """The figures of each step of a run, or, for `eval_loss`, of each validation.

    A line that the end of the process cut off is skipped.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        rows = [_row(line, figure) for _, line in read_lines(file)]
    return [row for row in rows if row is not None]


def _row(line: bytes, figure: str) -> dict[str, float] | None:
    """The figures of a line that has this one; None for others, and damaged ones."""
    try:
        row = parse_line(line)
    except ValueError:
        return None
    needed = ("step", "epoch", figure)
    if isinstance(row, dict) and all(_is_figure(row.get(name)) for name in needed):
        return row
    return None


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _NO_FIGURE  # neither NaN nor infinite


def plot_metrics(metrics: Path, picture: Path) -> None:
    """The loss of each step, its mean over an epoch, and that of each validation, as a PNG."""
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs, losses = [row["epoch"] for row in rows], [row["loss"] for row in rows]
    axes.plot(epochs, losses, linewidth=0.8, alpha=0.5, label="each step")
    axes.plot(*_by_epoch(epochs, losses), marker="o", label="mean of the epoch")
    validated = read_metrics(metrics, "eval_loss")
    if validated:
        curve = [row["epoch"] for row in validated], [row["eval_loss"] for row in validated]
        axes.plot(*curve, marker="s", label="validation")
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
