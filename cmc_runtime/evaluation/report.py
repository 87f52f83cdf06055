"""The results of an evaluation, for JSON and as a picture."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmc_runtime.data.examples import Skipped
from cmc_runtime.data.samples import FittingSamples
from cmc_runtime.delta import Delta
from pm_mined import PmMinedError, Rule
from pm_mined.atomic_file import write_atomically

from .evaluate import Scores, token_rules


def data_json(
    fitting: FittingSamples, scores: Sequence[Scores], delta: Delta | None
) -> dict[str, Any]:
    """The scores of a model on a file, alone and then with each fusion."""
    first = scores[0]
    rules = None if delta is None else token_rules(delta, first.targets)
    return {
        "samples": len(fitting.samples),
        "tokens": int(first.is_text.sum()),
        "characters": int(first.num_chars.sum()),
        "bytes": fitting.num_bytes,
        "skipped": skipped_json(fitting.skipped),
        "places": None if delta is None else _places(fitting),
        "results": [_result(one, fitting.num_bytes, rules) for one in scores],
    }


def skipped_json(skipped: Skipped) -> dict[str, int]:
    """The number of rows for each reason."""
    return dict(skipped.counts)


def _places(fitting: FittingSamples) -> dict[str, int]:
    """The number of tokens, end tokens included, that are predicted from each kind of context."""
    trees = [sample.tree for sample in fitting.samples if sample.tree is not None]
    return {
        "exact": sum(tree.num_exact for tree in trees),
        "reencoded": sum(tree.num_reencoded for tree in trees),
    }


def _result(scores: Scores, num_bytes: int, rules: NDArray[np.int8] | None) -> dict[str, Any]:
    fusion = scores.fusion
    return {
        "alpha": None if fusion is None else fusion.alpha,
        "unmapped": None if fusion is None else fusion.unmapped,
        "loss_per_character": scores.loss_per_character,
        "interval": scores.interval,
        "loss_per_token": scores.loss_per_token,
        "bits_per_byte": float(scores.losses.sum() / np.log(2) / num_bytes),
        "accuracy": scores.accuracy,
        "rules": None if rules is None else _by_rule(scores, rules),
    }


def _by_rule(scores: Scores, rules: NDArray[np.int8]) -> dict[str, dict[str, Any]]:
    """Of the text's tokens, by the rule that maps each."""
    found = {}
    for rule in Rule:
        chosen = scores.is_text & (rules == rule)
        if chosen.any():
            found[rule.name.lower()] = {
                "tokens": int(chosen.sum()),
                "share": float(chosen.sum() / scores.is_text.sum()),
                "loss_per_token": float(scores.loss[chosen].mean()),
                "accuracy": float(scores.correct[chosen].mean()),
            }
    return found


def draw_losses(path: Path, models: Sequence[Mapping[str, Any]]) -> None:
    """Write a picture of the loss per character of models: a bar for each result.

    `models` have a `model` and what `data_json` returned as `data`; all have as many results. The
    ending of the path, such as `.png` or `.svg`, is the format. Needs `matplotlib`.

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
        write_atomically(path, made.getbuffer())
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
