"""The folder of a training run: what the run is, and its last whole checkpoint."""

import json
from pathlib import Path
from typing import Any

from pm_mined import OptionError
from pm_mined.atomic_file import write_atomically

FILE = "run.json"
_STATE = "trainer_state.json"  # what a checkpoint of the trainer is completed with


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse a folder that cannot be used, before anything takes its time.

    Raises:
        OptionError: it has a run that is not to be resumed, or another model; or cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{output}: cannot be a folder: {error.strerror}") from error
    if not (output / FILE).exists():
        if _has_results(output) or any(output.glob("*.safetensors")):
            raise OptionError(f"{output}: there is a model in it: choose another folder")
    elif _has_results(output) and not resume:
        raise OptionError(f"{output}: there is a run in it: resume it, or choose another folder")


def _has_results(output: Path) -> bool:
    """True if there is a checkpoint or a model; without one, a run may begin anew."""
    return (output / "config.json").exists() or last_checkpoint(output) is not None


def begin_run(output: Path, run: dict[str, Any], *, resume: bool) -> None:
    """Write down what the run is.

    Raises:
        OptionError: there is a run that is not to be resumed, or that was another one.
    """
    check_output(output, resume=resume)
    path = output / FILE
    if path.exists() and _has_results(output):
        _check_same(output, _read(path), json.loads(json.dumps(run)))
    write_atomically(path, json.dumps(run, indent=2).encode())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
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


def last_checkpoint(output: Path) -> Path | None:
    """The last checkpoint that was written to its end."""
    numbers = {path: path.name.partition("-")[2] for path in output.glob("checkpoint-*")}
    found = {int(number): path for path, number in numbers.items() if number.isdecimal()}
    for _, path in sorted(found.items(), reverse=True):
        try:
            json.loads((path / _STATE).read_text("utf-8"))
        except (OSError, ValueError):  # the process ended while it was written
            continue
        return path
    return None
