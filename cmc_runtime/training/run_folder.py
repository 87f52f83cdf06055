"""The folder of a training run, and what the run is: `run.json`."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pm_mined import OptionError
from pm_mined.atomic_file import write_atomically
from pm_mined.json_lines import has_lone_surrogate

from .checkpoints import all_checkpoints, check_checkpoint, last_checkpoint, remove_unfinished

FILE = "run.json"
_MODELS = ("config.json", "adapter_config.json")


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse a folder that cannot be used, before anything takes its time; none is made.

    Raises:
        OptionError: it has a run that is not to be resumed, or another model; or cannot be made.
    """
    if has_lone_surrogate(str(output)):
        raise OptionError(f"{output}: its name is not UTF-8: choose another folder")
    new = _new_folders(output)
    _make(output)
    for folder in new:
        folder.rmdir()
    if not (output / FILE).exists():
        if _has_results(output) or all_checkpoints(output) or any(output.glob("*.safetensors")):
            raise OptionError(f"{output}: there is a model in it: choose another folder")
    elif _has_results(output) and not resume:
        raise OptionError(f"{output}: there is a run in it: resume it, or choose another folder")


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{output}: cannot be a folder: {error.strerror}") from error


def _new_folders(output: Path) -> list[Path]:
    """The folder, and those around it, that are not there yet; the innermost first."""
    return [folder for folder in (output, *output.parents) if not folder.exists()]


def _has_results(output: Path) -> bool:
    """True if there is a checkpoint or a model; without one, a run may begin anew."""
    has_model = any((output / name).exists() for name in _MODELS)
    return has_model or last_checkpoint(output) is not None


@contextmanager
def begun_run(output: Path, run: dict[str, Any], *, resume: bool) -> Iterator[None]:
    """Write down what the run is; a new folder goes again if nothing comes of the run.

    Raises:
        OptionError: there is a run that is not to be resumed, or that was another one.
        TrainingError: its last checkpoint is damaged.
    """
    check_output(output, resume=resume)
    new = _new_folders(output)
    try:
        _make(output)
        _begin(output, run)
        yield
    except BaseException:
        if new and not _has_results(output):
            shutil.rmtree(output)
            for folder in new[1:]:
                folder.rmdir()
        raise


def _begin(output: Path, run: dict[str, Any]) -> None:
    path = output / FILE
    if path.exists() and _has_results(output):
        _check_same(output, _read(path), json.loads(json.dumps(run)))
    checkpoint = last_checkpoint(output)
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    remove_unfinished(output)
    write_atomically(path, json.dumps(run, indent=2).encode())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"{path}: damaged: {error}; choose another folder") from error


def _check_same(output: Path, before: Any, now: dict[str, Any]) -> None:
    had, has = _flat(before), _flat(now)
    for name in has | had:
        if had.get(name) != has.get(name) and ".versions." not in name:
            raise OptionError(
                f"{output}: the run in it had another {name}, {had.get(name)!r} and not "
                f"{has.get(name)!r}: give what it had, or choose another folder"
            )


def _flat(document: Any, prefix: str = "") -> dict[str, Any]:
    """Nested keys as one, `a.b`."""
    if not isinstance(document, dict):
        return {prefix: document}
    return {
        name: one
        for key, value in document.items()
        for name, one in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }
