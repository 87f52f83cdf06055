"""How alike two models are shifted on the same texts, whatever their tokenizers: see similarity.

A shift comes from a delta model, or from tuned weights. Two models with different tokenizers are
compared at the places of a response at which both predict: where tokens of both begin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmc_runtime.delta import Delta
from cmc_runtime.examples import Example
from cmc_runtime.fuse import fuse_logits
from cmc_runtime.map_tensors import MapTensors, vocabulary_of_tokenizer
from cmc_runtime.models import LoadedModel
from cmc_runtime.output_head import OutputHead
from cmc_runtime.samples import Sample, SampleMaker, sample_batch
from cmc_runtime.tree_attention import tree_states
from pm_mined import OptionError

from .losses import Fusion
from .similarity import Similarity, TopShifts, log_probability_shift, similarity, top_shifts


@dataclass(frozen=True, eq=False)
class ShiftedModel:
    """A model and what shifts its logits.

    Attributes:
        base: The model as it was.
        by: A delta model for it, as it was trained; or the tuned model, with the same tokenizer.
        form: The form in which it reads prompts: see `encode_prompt`.
    """

    base: LoadedModel
    by: Delta | LoadedModel
    form: str


def compare_shifts(
    reference: ShiftedModel,
    other: ShiftedModel,
    examples: Sequence[Example],
    tensors: MapTensors,
    *,
    top: int = 100,
    on_example: Callable[[], object] = lambda: None,
) -> Similarity:
    """Compare the shifts of two models on the responses of examples: see `shift_similarity`.

    The reference's tokens are ranked by its shifted logits. One example runs at a time; of each
    step, only the tokens that are compared are kept.

    Args:
        reference: The model whose likeliest tokens are compared.
        other: Another one, or the same with another shift.
        examples: Prompts with responses.
        tensors: The map from the reference model's vocabulary to the other's; on its device.
        top: How many tokens of each step.
        on_example: Told when an example is done.

    Raises:
        OptionError: there are no examples; a tuned model has another width than its base; a
            tokenizer writes other text than the response; or as `shift_similarity` says.
    """
    first, second = _Shifts(reference), _Shifts(other)
    parts = []
    for example in examples:
        ours, theirs = first.of(example), second.of(example)
        mine, yours = _common_places(ours.starts, theirs.starts)
        parts.append(
            top_shifts(ours.shift[mine], theirs.shift[yours], ours.ranking[mine], tensors, top=top)
        )
        on_example()
    if not parts:
        raise OptionError("there are no examples to compare shifts on")
    return similarity(TopShifts(*(torch.cat(one) for one in zip(*parts, strict=True))))


@dataclass(frozen=True, eq=False)
class _Steps:
    """One response, as a model predicts it."""

    starts: NDArray[np.int64]  # [steps]: how many bytes of the response are before each token
    shift: Tensor  # float [steps, logits]
    ranking: Tensor  # float [steps, logits]


class _Shifts:
    """The shifts of one model."""

    def __init__(self, model: ShiftedModel) -> None:
        self._model = model
        self._delta = model.by if isinstance(model.by, Delta) else None
        tuned = model.by.loaded if isinstance(model.by, Delta) else model.by
        self._heads = OutputHead.of(model.base.model), OutputHead.of(tuned.model)
        if self._delta is None and self._heads[0].width != self._heads[1].width:
            raise OptionError(f"{tuned.spec} has other logits than {model.base.spec}")
        self._tuned = tuned
        self._maker = SampleMaker(model.base, model.form, self._delta)
        self._pieces = vocabulary_of_tokenizer(model.base.tokenizer).packed.tolist()

    @torch.no_grad()
    def of(self, example: Example) -> _Steps:
        sample = self._maker.make(example.prompt, example.response, example.row)
        base, shifted = self._logits(sample)
        starts = self._starts(sample, example)
        return _Steps(starts, log_probability_shift(shifted, base), shifted)

    def _logits(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """[steps, logits] of the base, and shifted."""
        model, (head, tuned_head) = self._model.base.model, self._heads
        batch = sample_batch([sample]).to(model.device)
        base = head(batch.user_states(model))
        if self._delta is None or batch.tree is None:
            return base, tuned_head(batch.user_states(self._tuned.model))
        delta = tuned_head(tree_states(self._tuned.model, batch.tree))
        tensors, alpha, unmapped = Fusion.of(self._delta)
        return base, fuse_logits(base, delta, tensors, alpha, unmapped=unmapped)

    def _starts(self, sample: Sample, example: Example) -> NDArray[np.int64]:
        ids = sample.ids[sample.num_prompt :]
        pieces = [self._pieces[one] for one in ids[: sample.num_text]]
        lead = sample.num_chars - len(example.response)
        if b"".join(pieces) != b" " * lead + example.response.encode():
            raise OptionError(
                f"row {example.row}: {self._model.base.spec} writes the response otherwise than it "
                "stands there, so that its tokens have no places in it"
            )
        ends = np.cumsum([0, *map(len, pieces)])
        return ends[: len(ids)] - lead


def _common_places(
    first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which steps of both are at the same places."""
    _, mine, yours = np.intersect1d(first, second, return_indices=True)
    return mine, yours
