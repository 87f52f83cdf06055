"""The similarity of two models' shifts on the same texts, with any tokenizers: see similarity.

A shift comes from a delta model, or from tuned weights. Two models with different tokenizers are
compared at the places of a response at which both predict: where tokens of both begin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmc_runtime.contexts.tree_attention import tree_states
from cmc_runtime.data.examples import Example, Skipped
from cmc_runtime.data.samples import Sample, SampleMaker, sample_batch, why_unusable
from cmc_runtime.delta import Delta
from cmc_runtime.errors import DataError
from cmc_runtime.maps.tensors import MapTensors
from cmc_runtime.models.load import LoadedModel
from cmc_runtime.models.output_head import OutputHead
from cmc_runtime.models.placement import main_device
from cmc_runtime.models.prompts import response_lead
from pm_mined import OptionError, load_vocabulary

from .scores import Fusion
from .similarity import Similarity, TopShifts, log_probability_shift, similarity, top_shifts


@dataclass(frozen=True, eq=False)
class ShiftedModel:
    """A model and what shifts its logits.

    Attributes:
        base: The model as it was.
        by: A delta model for it, as it was trained; or the tuned model, with the same tokenizer.
        prompt_template: That of the base model: see `encode_prompt`.
        fusion: How the delta model's logits are added; as in its training if not given.

    Raises:
        OptionError: the tuned model has another width or another tokenizer than its base.
    """

    base: LoadedModel
    by: Delta | LoadedModel
    prompt_template: str
    fusion: Fusion | None = None

    def __post_init__(self) -> None:
        if isinstance(self.by, Delta):
            return
        models = self.by, self.base
        tuned, base = (load_vocabulary(one.tokenizer).fingerprint for one in models)
        if tuned != base:
            raise OptionError(f"{self.by.spec} has another tokenizer than {self.base.spec}")
        if self.by.num_logits != self.base.num_logits:
            raise OptionError(f"{self.by.spec} has other logits than {self.base.spec}")


def compare_shifts(
    reference: ShiftedModel,
    other: ShiftedModel,
    examples: Sequence[Example],
    tensors: MapTensors,
    *,
    top: int = 100,
    max_length: int | None = None,
    on_example: Callable[[], object] = lambda: None,
) -> tuple[Similarity, Skipped]:
    """Compare the shifts of two models on the responses of examples: see `shift_similarity`.

    The reference's tokens are ranked by its shifted logits. One example runs at a time; of each
    step, only the tokens that are compared are kept. Examples are skipped, and counted, that are
    too long for a model, or whose response a tokenizer changes: its tokens have no places there.

    Args:
        reference: The model whose likeliest tokens are compared.
        other: Another one, or the same with another shift.
        examples: Prompts with responses.
        tensors: The map from the reference model's vocabulary to the other's; on its device.
        top: How many tokens of each step.
        max_length: How many tokens of an example at most; the position limits if not given.
        on_example: Told when an example is done.

    Raises:
        DataError: no example is left.
        OptionError: as `shift_similarity` says.
    """
    first, second = _Shifts(reference, max_length), _Shifts(other, max_length)
    parts, skipped = [], Skipped()
    for example in examples:
        ours, theirs = first.sample(example), second.sample(example)
        fault = first.fault(ours, example) or second.fault(theirs, example)
        if fault is None:
            parts.append(_top_shifts(first.of(ours), second.of(theirs), tensors, top))
        else:
            skipped.add(fault, example.row)
        on_example()
    if not parts:
        raise DataError(f"no row to compare shifts on: {skipped or 'there are none'}")
    joined = TopShifts(*(torch.cat(one) for one in zip(*parts, strict=True)))
    return similarity(joined), skipped


@dataclass(frozen=True, eq=False)
class _Steps:
    """One response, as a model predicts it."""

    starts: NDArray[np.int64]  # [steps]: how many bytes of the response are before each token
    shift: Tensor  # float [steps, logits]
    ranking: Tensor  # float [steps, logits]


class _Shifts:
    """The shifts of one model."""

    def __init__(self, model: ShiftedModel, max_length: int | None) -> None:
        self._model, self._max_length = model, max_length
        self._delta = model.by if isinstance(model.by, Delta) else None
        self._tuned = model.by.loaded if isinstance(model.by, Delta) else model.by
        self._heads = OutputHead.of(model.base.model), OutputHead.of(self._tuned.model)
        self._maker = SampleMaker(model.base, model.prompt_template, self._delta)
        self._lead = response_lead(model.prompt_template)
        self._pieces = load_vocabulary(model.base.tokenizer).packed.tolist()

    def sample(self, example: Example) -> Sample:
        """An example in the model's tokens."""
        return self._maker.make(example.prompt, example.response, example.row)

    def fault(self, sample: Sample, example: Example) -> str | None:
        """Why a sample cannot be compared, as `Skipped` has it; None if it can."""
        fault = why_unusable(sample, self._model.base, self._delta, self._max_length)
        written = b"".join(self._text(sample))
        if fault is None and written != (self._lead + example.response).encode():
            return "whose response a tokenizer changes"
        return fault

    @torch.no_grad()
    def of(self, sample: Sample) -> _Steps:
        """The shifts of each token of a sample."""
        base, shifted = self._logits(sample)
        ends = np.cumsum([0, *map(len, self._text(sample))])
        starts = ends[: sample.num_targets] - len(self._lead)
        return _Steps(starts, log_probability_shift(shifted, base), shifted)

    def _text(self, sample: Sample) -> list[bytes]:
        """The tokens of the response, with the spaces that lead to it, without its end."""
        ids = sample.ids[sample.num_prompt :]
        return [self._pieces[one] for one in ids[: sample.num_text]]

    def _logits(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """[steps, logits] of the base, and shifted."""
        model, (head, tuned_head) = self._model.base.model, self._heads
        batch = sample_batch([sample]).to(main_device(model))
        base = head(batch.user_states(model))
        if self._delta is None or batch.tree is None:
            return base, tuned_head(batch.user_states(self._tuned.model))
        delta = tuned_head(tree_states(self._tuned.model, batch.tree))
        fusion = self._model.fusion or Fusion.of(self._delta)
        return base, fusion.fuse(base, delta)


def _top_shifts(ours: _Steps, theirs: _Steps, tensors: MapTensors, top: int) -> TopShifts:
    """The shifts of both models where both predict."""
    _, mine, yours = np.intersect1d(ours.starts, theirs.starts, return_indices=True)
    return top_shifts(ours.shift[mine], theirs.shift[yours], ours.ranking[mine], tensors, top=top)
