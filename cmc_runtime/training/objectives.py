"""Training objectives: losses of fused logits on data to learn, forget and retain."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cmc_runtime.contexts.tree_attention import tree_states
from cmc_runtime.data.samples import SampleBatch
from cmc_runtime.delta import Delta
from cmc_runtime.fusion.arguments import Unmapped
from cmc_runtime.fusion.losses import fused_cross_entropy, fused_kl
from cmc_runtime.models.output_head import OutputHead

IGNORED = -100  # as a target

Objective: TypeAlias = Literal["sft", "grad-ascent", "grad-diff", "kl"]
"""Of which mean losses per token the whole is made:

- `sft`: cross-entropy of the data (instruction tuning).
- `grad-ascent`: its negative (unlearning).
- `grad-diff`: that, and the cross-entropy of the retained data.
- `kl`: that, and how far the fused distribution is from the frozen model's on the retained data.

Source: Maini et al., TOFU (arXiv 2401.06121).
"""


class _Term(NamedTuple):
    """A part of an objective."""

    data: Literal["data", "retain"]
    sign: int
    loss: Literal["cross-entropy", "kl"]


_TERMS: dict[str, list[_Term]] = {
    "sft": [_Term("data", 1, "cross-entropy")],
    "grad-ascent": [_Term("data", -1, "cross-entropy")],
    "grad-diff": [_Term("data", -1, "cross-entropy"), _Term("retain", 1, "cross-entropy")],
    "kl": [_Term("data", -1, "cross-entropy"), _Term("retain", 1, "kl")],
}
OBJECTIVES = list(_TERMS)


def needs_retain(objective: Objective) -> bool:
    """True if there must be data to retain."""
    return any(term.data == "retain" for term in _TERMS[objective])


def counted_targets(batch: SampleBatch) -> Tensor:
    """int64 [tokens]: the targets, -100 where the delta model's place is masked."""
    masked = batch.tree.masked if batch.tree is not None else torch.zeros_like(batch.is_text)
    return batch.targets.masked_fill(masked, IGNORED)


class FusedObjective(nn.Module):
    """The loss of a delta model beside its frozen model; only the delta has parameters here.

    Args:
        delta: The delta model, made ready for the frozen model.
        frozen: The frozen model; on the delta's device.
        objective: What to train for.
        alpha: The strength of the delta.
        unmapped: What unmapped tokens get: see `fuse_logits`.
    """

    def __init__(
        self,
        delta: Delta,
        frozen: PreTrainedModel,
        objective: Objective,
        alpha: float,
        unmapped: Unmapped,
    ) -> None:
        super().__init__()
        self.delta: Any = delta.loaded.model
        self._delta_head = OutputHead.of(self.delta)
        self._frozen = (frozen, OutputHead.of(frozen))  # in a tuple: no part of this module
        self._terms = _TERMS[objective]
        self._fusion: dict[str, Any] = {
            "tensors": delta.tensors,
            "alpha": alpha,
            "unmapped": unmapped,
        }

    def forward(
        self, batches: Mapping[str, SampleBatch], counts: Mapping[str, Tensor | int]
    ) -> Tensor:
        """The share that these batches have in the objective.

        Args:
            batches: `data`, and `retain` where the objective needs it.
            counts: How many targets count in each, in all batches that make a step together.
        """
        total: Tensor = sum(  # type: ignore[assignment]
            term.sign * self._loss(term, batches[term.data], counts[term.data])
            for term in self._terms
        )
        return total

    def _loss(self, term: _Term, batch: SampleBatch, count: Tensor | int) -> Tensor:
        frozen, head = self._frozen
        targets = counted_targets(batch)
        with torch.no_grad():
            base = batch.user_states(frozen).to(targets.device)
        if batch.tree is None:
            raise ValueError("the samples were made without a delta model")
        case = base, head, tree_states(self.delta, batch.tree), self._delta_head
        counted = targets != IGNORED
        if term.loss == "kl":
            mean = fused_kl(*case, counted, **self._fusion)
        else:
            mean = fused_cross_entropy(*case, targets, **self._fusion, ignore_index=IGNORED)
        return mean * (counted.sum() / count)
