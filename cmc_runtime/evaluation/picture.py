"""The losses of an evaluation as a picture."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pm_mined import PmMinedError
from pm_mined.atomic_file import write_atomically


def draw_losses(path: Path, models: Sequence[Mapping[str, Any]]) -> None:
    """Write a picture of the loss per character of models: a bar for each result.

    `models` have a `model` and what `Evaluation.to_json` returned as `data`; all have as many
    results. The ending of the path, such as `.png` or `.svg`, is the format. Needs `matplotlib`.

    Raises:
        PmMinedError: it cannot be written.
    """
    from matplotlib.figure import Figure

    results = [model["data"]["results"] for model in models]
    figure = Figure(figsize=(2 + 1.2 * len(models) * len(results[0]), 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(results[0])
    for i, column in enumerate(zip(*results, strict=True)):
        x = np.arange(len(models)) + (i - (len(results[0]) - 1) / 2) * width
        _draw_bars(axes, x, column, width)
    axes.set_xticks(range(len(models)), [str(model["model"]) for model in models])
    axes.set_ylabel("loss per character (nats)")
    figure.legend(loc="outside right upper", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    made = io.BytesIO()
    figure.savefig(made, format=path.suffix[1:], dpi=150)
    try:
        write_atomically(path, made.getvalue())
    except OSError as error:
        raise PmMinedError(f"{path}: cannot write: {error.strerror or error}") from error


def _draw_bars(axes: Any, x: NDArray[Any], column: Sequence[Any], width: float) -> None:
    """The bars of one result of each model, with their intervals."""
    alpha = column[0]["alpha"]
    label = "alone" if alpha is None else f"alpha {alpha:g}"
    heights = np.array([result["loss_per_character"] for result in column])
    low, high = np.array([result["interval"] for result in column]).T
    errors = np.clip([heights - low, high - heights], 0, None)  # rounding
    axes.bar(x, heights, width, yerr=errors, capsize=3, label=label)
