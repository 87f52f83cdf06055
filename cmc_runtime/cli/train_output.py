"""Output of `cmc-runtime train`: its progress, and a summary of what was made."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pm_mined.cli.output import print_json, progress_bar, say

from .processes import is_main_process

if TYPE_CHECKING:
    from rich.progress import TaskID

    from cmc_runtime.models.load import LoadedModel


class TrainingProgress:
    """Progress bars, one for each part of the work."""

    def __init__(self) -> None:
        self._bar = progress_bar(shown=is_main_process())
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, what: str, done: int, total: int) -> None:
        """Show the progress of a part."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)


def print_training(output: Path, delta: "LoadedModel", seconds: float, *, as_json: bool) -> None:
    """Print what a training run made, as text or as JSON.

    Raises:
        TrainingError: its figures are damaged.
    """
    from cmc_runtime.delta_card import read_card
    from cmc_runtime.errors import TrainingError
    from cmc_runtime.training.record import METRICS, PICTURE, last_epoch, read_metrics

    metrics, card = read_metrics(output / METRICS), read_card(output)
    kept = {} if card is None else card.training["kept"]
    if not metrics:
        raise TrainingError(f"{output / METRICS}: no step of the run is in it; the model is whole")
    document = {
        "output": str(output),
        "parameters": sum(one.numel() for one in delta.model.parameters()),
        "steps": int(metrics[-1]["step"]),
        "loss": last_epoch(metrics),
        "seconds": round(seconds, 1),
        "kept": kept,
    }
    if as_json:
        print_json(document)
    else:
        say(
            f"{output}: a delta of {document['parameters']:,} parameters, {document['steps']:,} "
            f"steps in {seconds:.1f} s\nobjective in the last epoch  {document['loss']:.4f}\n"
            f"{_validated(kept)}{output / METRICS}, {output / PICTURE}"
        )


def _validated(kept: dict[str, Any]) -> str:
    if "eval_loss" not in kept:
        return ""
    return f"validation loss  {kept['eval_loss']:.4f}, of step {kept['step']:,}, which is kept\n"
