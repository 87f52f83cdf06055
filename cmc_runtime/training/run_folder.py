"""The folder of a training run: what the run is, and its last whole checkpoint."""

import json
from pathlib import Path
from typing import Any

from pm_mined import OptionError, write_atomically

FILE = "run.json"
_STATE = "trainer_state.json"  # what a checkpoint of the trainer is completed with


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse a folder that cannot be used, before anything takes its time.

    Raises:
        OptionError: it has a run that is not to be resumed, or cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{output}: cannot be a folder: {error.strerror}") from error
    if (output / FILE).exists() and not resume:
        raise OptionError(
            f"{output}: there is a run in it: --resume goes on with it; or choose another folder"
        )


def begin_run(output: Path, run: dict[str, Any], *, resume: bool) -> None:
    """Write down what the run is.

    Raises:
        OptionError: there is a run that is not to be resumed, or that was another one.
    """
    check_output(output, resume=resume)
    path = output / FILE
    if path.exists():
        _check_same(output, json.loads(path.read_text("utf-8")), json.loads(json.dumps(run)))
    write_atomically(path, json.dumps(run, indent=2).encode())


def _check_same(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    had = _flat(before)
    for name, value in _flat(now).items():
        if had.get(name) != value and ".versions." not in name:
            raise OptionError(
                f"{output}: the run in it had another {name}, {had.get(name)!r} and not {value!r}: "
                "give what it had, or choose another folder"
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
    found = {int(path.name.partition("-")[2]): path for path in output.glob("checkpoint-*")}
    for _, path in sorted(found.items(), reverse=True):
        try:
            json.loads((path / _STATE).read_text("utf-8"))
        except (OSError, ValueError):  # the process ended while it was written
            continue
        return path
    return None
