"""Steering inside `model.generate`: greedy, sampled, with beams, batched, streamed."""

import math
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import FloatTensor, LongTensor, Tensor
from transformers import LogitsProcessor

from cmc_runtime.errors import ModelError
from cmc_runtime.steering.requests import Prompt, Request
from cmc_runtime.steering.ways import Steering
from pm_mined import OptionError


class SteeringProcessor(LogitsProcessor):
    """Steers the logits of `model.generate(..., logits_processor=[processor])`.

    One object serves one call of `generate`. Where a prompt has several rows, it returns
    log-probabilities, so that beams add up. Where no steering changes anything, the scores are
    returned as they came.

    Args:
        steering: A `Delta` or another steering; of several, each steers what the one before
            returned.
        input_ids: What `generate` gets: int64 [prompts, ids], padded on the left.
        prompts: The text of each, without the user model's prompt template; or its ids, without
            padding.
        alpha: How strongly to steer, or that for each prompt; by default as strongly as the
            steering says.

    Raises:
        OptionError: `input_ids` has not one row for each prompt; as `Delta.begin`.

    >>> processor = SteeringProcessor(delta, inputs["input_ids"], prompts)  # doctest: +SKIP
    >>> model.generate(**inputs, logits_processor=[processor])  # doctest: +SKIP
    """

    def __init__(
        self,
        steering: Steering | Sequence[Steering],
        input_ids: Tensor,
        prompts: Sequence[Prompt],
        alpha: float | Sequence[float | None] | None = None,
    ) -> None:
        if len(input_ids) != len(prompts):
            raise OptionError(f"{len(prompts)} prompts, but input_ids has {len(input_ids)} rows")
        self._steerings = list(steering) if isinstance(steering, Sequence) else [steering]
        self._prompts, self._prompt_ids = prompts, input_ids
        self._alphas = alphas_of(prompts, alpha)
        self._begin()

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> Tensor:
        """Float [rows, user logits]; `input_ids` is int64 [rows, ids so far]."""
        self._follow(input_ids)
        fused: Tensor = scores
        for number, steering in enumerate(self._steerings):
            fused = steering.fuse(fused, [of_row[number] for of_row in self._requests])
        if fused is scores:
            return scores
        if not fused.amax(-1).isfinite().all():  # the largest is NaN if there is one
            _refuse(scores, input_ids.shape[1] - self._prompt_ids.shape[1])
        return fused if len(input_ids) == len(self._prompts) else fused.log_softmax(-1)

    def _begin(self) -> None:
        """Have one row for each prompt, with a request for each steering."""
        self._ids = self._prompt_ids
        self._requests: list[list[Request]] = [
            [steering.begin(prompt, alpha) for steering in self._steerings]
            for prompt, alpha in zip(self._prompts, self._alphas, strict=True)
        ]

    def _follow(self, input_ids: Tensor) -> None:
        """Let the requests of each row go on from the row of the last call that it continues."""
        each, left = divmod(len(input_ids), len(self._prompts))
        if left or not each:
            raise OptionError(
                f"{len(input_ids)} rows cannot be those of {len(self._prompts)} prompts"
            )
        parents = self._parents(input_ids, each)
        if parents is None:
            self._begin()
            parents = [row // each for row in range(len(input_ids))]
        going, ended = [], dict(enumerate(self._requests))
        for parent in parents:
            last = ended.pop(parent, None)
            going.append(last or [request.copy() for request in self._requests[parent]])
        for requests in ended.values():
            for request in requests:
                request.remove()
        new_ids = input_ids[:, self._ids.shape[1] :].tolist()
        for requests, ids in zip(going, new_ids, strict=True):
            for request in requests:
                for token_id in ids:
                    request.append(token_id)
        self._ids, self._requests = input_ids, going

    def _parents(self, input_ids: Tensor, each: int) -> list[int] | None:
        """The row of the last call that each row continues; None if one continues none.

        The ids are compared where they lie, which takes microseconds for thousands of them.
        """
        length = self._ids.shape[1]
        known = input_ids[:, :length]
        if torch.equal(known, self._ids):  # without beams, always
            return list(range(len(known)))
        if known.shape[1] < length:
            return None
        prompts = len(self._prompts)
        before = self._ids.reshape(prompts, 1, -1, length)
        same = (known.reshape(prompts, each, 1, length) == before).all(-1)
        if not same.any(-1).all():
            return None
        first = torch.arange(prompts, device=same.device)[:, None] * before.shape[2]
        parents: list[int] = (same.int().argmax(-1) + first).flatten().tolist()
        return parents


def alphas_of(
    prompts: Sequence[Prompt], alpha: float | Sequence[float | None] | None
) -> Sequence[float | None]:
    """The strength for each prompt.

    Raises:
        OptionError: there is not one for each.
    """
    alphas = alpha if isinstance(alpha, Sequence) else [alpha] * len(prompts)
    if len(alphas) != len(prompts):
        raise OptionError(f"{len(prompts)} prompts, but {len(alphas)} strengths")
    return alphas


def _refuse(scores: Tensor, step: int) -> NoReturn:
    """Say whose logits are no numbers; -inf is one, of a token that was ruled out."""
    of_user = (~scores.isfinite() & (scores != -math.inf)).any()
    whose = "the user model's" if of_user else "the delta model's"
    raise ModelError(
        f"{whose} logits are NaN or infinite after {step} new tokens: its weights are damaged, or "
        "its dtype is too narrow"
    )
