"""Steering inside `model.generate`: greedy, sampled, with beams, batched, streamed."""

import math
from collections.abc import Sequence
from typing import NoReturn

from torch import FloatTensor, LongTensor, Tensor
from transformers import LogitsProcessor

from cmc_runtime.errors import ModelError
from cmc_runtime.steering.requests import Row
from cmc_runtime.steering.ways import Steering
from pm_mined import OptionError


class SteeringProcessor(LogitsProcessor):
    """Adds steerings to the logits of `model.generate(..., logits_processor=[processor])`.

    One object serves one call of `generate`. Where a prompt has several rows, it returns
    log-probabilities, so that beams add up. With no steering, or where none changes anything, the
    scores are returned as they came.

    Args:
        steerings: One after the other, each on what the one before returned.
        prompt_length: How many ids of each row are the prompt, padding included:
            `inputs.input_ids.shape[1]`.
        prompts: How many prompts there are; the rows of one prompt stand together.
    """

    def __init__(self, steerings: Sequence[Steering], *, prompt_length: int, prompts: int) -> None:
        self._steerings = steerings
        self._prompt_length = prompt_length
        self._prompts = prompts

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> Tensor:
        """Float [rows, user logits]; `input_ids` is int64 [rows, ids so far]."""
        rows = self._rows(input_ids)
        fused: Tensor = scores
        for steering in self._steerings:
            fused = steering.fuse(fused, rows)
        if fused is scores:
            return scores
        if not fused.amax(-1).isfinite().all():  # the largest is NaN if there is one
            _refuse(scores, len(rows[0].generated))
        return fused if len(rows) == self._prompts else fused.log_softmax(-1)

    def _rows(self, input_ids: LongTensor) -> list[Row]:
        generated = input_ids[:, self._prompt_length :].tolist()
        each, left = divmod(len(generated), self._prompts)
        if left or not each:
            raise OptionError(f"{len(generated)} rows cannot be those of {self._prompts} prompts")
        return [Row(i // each, tuple(ids)) for i, ids in enumerate(generated)]


def _refuse(scores: Tensor, step: int) -> NoReturn:
    """Say whose logits are no numbers; -inf is one, of a token that was ruled out."""
    of_user = (~scores.isfinite() & (scores != -math.inf)).any()
    whose = "the user model's" if of_user else "the delta model's"
    raise ModelError(
        f"{whose} logits are NaN or infinite after {step} new tokens: its weights are damaged, or "
        "its dtype is too narrow"
    )
