"""Validation during training: which rows, and the mean loss over all their tokens.

transformers' `Trainer` does the rest: it says when, stops early, and keeps the best checkpoint.
"""

from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from cmc_runtime.data.examples import Examples
from cmc_runtime.delta_card import LEARNS
from cmc_runtime.errors import TrainingError
from pm_mined import OptionError

from .options import TrainingOptions


def validation_rows(
    data: Examples, given: Examples | None, options: TrainingOptions
) -> tuple[Examples, Examples | None]:
    """The rows to train on, and those to validate on: the ones given, or a share of the data.

    Raises:
        OptionError: both are asked for, or something that needs validation without rows for it; a
            share of data that is to be forgotten, or too small a share.
    """
    if given is not None and options.eval_split is not None:
        raise OptionError("give validation rows, or the share eval_split of the data: one of them")
    if options.eval_split is not None:
        if options.objective != LEARNS:
            raise OptionError(
                f"objective {options.objective} makes a model forget the data: a share of it would "
                "not be forgotten, and tells nothing of what is kept; give validation rows"
            )
        return split(data, options.eval_split, options.seed)
    needs = [name for name in _NEED_ROWS if getattr(options, name)]
    if given is None and needs:
        raise OptionError(f"{needs[0]} needs validation: give rows, or eval_split, a share")
    return data, given


_NEED_ROWS = ("eval_steps", "early_stopping_patience", "load_best_model_at_end")


def split(data: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Hold out a share of the rows, by chance; each part keeps their order.

    Raises:
        OptionError: one of the parts would be empty.

    >>> [len(part.rows) for part in split(data, 0.2, seed=0)]  # doctest: +SKIP
    [8, 2]
    """
    count = round(share * len(data.rows))
    if not 0 < count < len(data.rows):
        raise OptionError(f"eval_split is {share:g} of {len(data.rows):,} rows: that is {count}")
    order = torch.randperm(len(data.rows), generator=torch.Generator().manual_seed(seed))
    held_out = set(order[:count].tolist())
    parts: tuple[list[Any], list[Any]] = [], []
    for i, row in enumerate(data.rows):
        parts[i in held_out].append(row)
    return Examples(parts[0], data.skipped), Examples(parts[1], data.skipped)


def means(found: EvalPrediction) -> dict[str, float]:
    """The mean loss of all tokens, and the share of them that were the likeliest.

    The predictions are what `FusedObjective.sums` returned for all rows.

    Raises:
        TrainingError: the loss is not a number.
    """
    loss, correct, tokens = np.asarray(found.predictions, np.float64).sum(0)
    if not np.isfinite(loss):
        raise TrainingError(
            f"the validation loss is {loss}; the last checkpoint is as it was: try a lower "
            "learning rate"
        )
    return {"loss": loss / tokens, "accuracy": correct / tokens}
