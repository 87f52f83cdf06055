"""Checkpoints of a run: folders that are complete, or passed over."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from transformers import TrainerState

from cmc_runtime.errors import TrainingError
from cmc_runtime.models.file_digests import fault_of, is_complete
from cmc_runtime.models.torch_errors import is_out_of_memory


def all_checkpoints(output: Path) -> list[Path]:
    """The folders of all checkpoints, complete or not, the last first."""
    numbers = {path: path.name.partition("-")[2] for path in output.glob("checkpoint-*")}
    found = {int(number): path for path, number in numbers.items() if number.isdecimal()}
    folders = sorted(found.items(), reverse=True)
    return [path for _, path in folders if path.is_dir()]


def last_checkpoint(output: Path) -> Path | None:
    """The last checkpoint that was written to its end."""
    return next((path for path in all_checkpoints(output) if is_complete(path)), None)


def remove_unfinished(output: Path) -> None:
    """Remove the checkpoints in which the writing process ended."""
    for path in all_checkpoints(output):
        if not is_complete(path):
            shutil.rmtree(path)


def stopped_at(checkpoint: Path) -> int | None:
    """The step at which a run had stopped, early or at its end, when it wrote a checkpoint.

    Raises:
        TrainingError: its state cannot be loaded.
    """
    with loading(checkpoint):
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        stops = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
    return state.global_step if stops else None


@contextmanager
def whole_or_nothing(folder: Path) -> Iterator[None]:
    """Remove a folder again if it cannot be written to its end."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_checkpoint(checkpoint: Path) -> None:
    """Refuse a complete checkpoint of which anything is not as it was written.

    Raises:
        TrainingError: a file is missing, damaged or new.
    """
    fault = fault_of(checkpoint)
    if fault is None:
        return
    raise TrainingError(f"{checkpoint}: damaged: {fault}; {_way_out(checkpoint)}")


@contextmanager
def loading(checkpoint: Path) -> Iterator[None]:
    """Say in one line what of a checkpoint cannot be loaded, though it is as it was written.

    Raises:
        TrainingError: something cannot.
    """
    try:
        yield
    except Exception as error:  # those of json, torch, safetensors and transformers
        if is_out_of_memory(error):
            raise
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        out = _way_out(checkpoint)
        raise TrainingError(f"{checkpoint}: cannot be loaded: {reason}; {out}") from error


def _way_out(checkpoint: Path) -> str:
    """The checkpoint before, if there is a whole one."""
    others = [path for path in all_checkpoints(checkpoint.parent) if is_complete(path)]
    before = others[others.index(checkpoint) + 1 :]
    whole = next((path for path in before if fault_of(path) is None), None)
    rest = "begin anew: there is no other" if whole is None else f"resume from {whole.name}"
    return f"delete {checkpoint.name} and {rest}"
