"""Training objectives: losses of fused logits on data to learn, forget and retain."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cmc_runtime.contexts.tree_attention import TreeBatch, tree_states
from cmc_runtime.data.samples import SampleBatch
from cmc_runtime.delta import Delta
from cmc_runtime.fusion.losses import fused_cross_entropy, fused_kl, fused_token_losses
from cmc_runtime.models.output_head import OutputHead

from .square_head import output_layer, square_head

IGNORED = -100  # as a target

Objective: TypeAlias = Literal["sft", "grad-ascent", "grad-diff", "kl", "remember"]
"""Of which mean losses per token the whole is made:

- `sft`: cross-entropy of the data (instruction tuning).
- `grad-ascent`: its negative (unlearning).
- `grad-diff`: that, and the cross-entropy of the retained data.
- `kl`: that, and how far the fused distribution is from the frozen model's on the retained data.
- `remember`: the cross-entropy of the data, and five times how far from uniform the distribution
  is on the retained data, both of the delta model *alone*: of its logits, through the map, added
  to nothing. It is to be subtracted: steering with a negative strength takes away what it
  remembers, and where it knows nothing it changes nothing.

`remember` leaves the frozen model out, because that knows already what is to be forgotten: beside
it a delta would have nothing to learn, and then nothing to take away. Nor does it learn by how much
*this* model has to change, as the others do, so that it serves for models that know the data
better. A delta of a model's first layers, or an adapter, begins with logits of 0: uniform
everywhere, as it is to stay on all that is retained.

Sources: Maini et al., TOFU (arXiv 2401.06121); of `remember` Ji et al., ULD (arXiv 2406.08607),
whose assistant model is trained alone, too.
"""


class _Term(NamedTuple):
    """A part of an objective."""

    data: Literal["data", "retain"]
    weight: float
    reference: Literal["base", "uniform"] | None = None  # of `fused_kl`; else the cross-entropy
    alone: bool = False  # the delta's logits, added to nothing


_TERMS: dict[str, list[_Term]] = {
    "sft": [_Term("data", 1)],
    "grad-ascent": [_Term("data", -1)],
    "grad-diff": [_Term("data", -1), _Term("retain", 1)],
    "kl": [_Term("data", -1), _Term("retain", 1, "base")],
    "remember": [_Term("data", 1, alone=True), _Term("retain", 5, "uniform", alone=True)],
}
OBJECTIVES = list(_TERMS)


class Use(NamedTuple):
    """The settings that a delta is to be used with; its card keeps them."""

    alpha: float = 1.0
    plausible: float = 0.0  # see `Limits`


_USES = {"remember": Use(-0.8, 1e-2)}  # as ULD on TOFU


def use_of(objective: Objective) -> Use:
    """The settings that a delta of an objective is to be used with, if nothing else is said."""
    return _USES.get(objective, Use())


def needs_retain(objective: Objective) -> bool:
    """True if there must be data to retain."""
    return any(term.data == "retain" for term in _TERMS[objective])


def needs_frozen(objective: Objective) -> bool:
    """True if the frozen model has a part in the loss."""
    return not all(term.alone for term in _TERMS[objective])


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
        alpha: The strength of the delta; it does not matter where the delta is alone.
    """

    def __init__(
        self,
        delta: Delta,
        frozen: PreTrainedModel,
        objective: Objective,
        alpha: float,
    ) -> None:
        super().__init__()
        self.delta: Any = delta.loaded.model
        head = square_head(self.delta)
        with output_layer(self.delta, None if head is None else head.embeddings):
            self._delta_head = OutputHead.of(self.delta)
        self._frozen = (frozen, OutputHead.of(frozen))  # in a tuple: no part of this module
        self._is_of_frozen = getattr(self.delta, "plain", None) is frozen
        self._terms = _TERMS[objective]
        self._fusion: dict[str, Any] = {
            "tensors": delta.tensors,
            "alpha": alpha,
            "unmapped": delta.unmapped,
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
            term.weight * self._loss(term, batches[term.data], counts[term.data])
            for term in self._terms
        )
        return total

    def _loss(self, term: _Term, batch: SampleBatch, count: Tensor | int) -> Tensor:
        targets = counted_targets(batch)
        case, fusion = self._case(batch, alone=term.alone)
        counted = targets != IGNORED
        if term.reference is None:
            mean = fused_cross_entropy(*case, targets, **fusion, ignore_index=IGNORED)
        else:
            mean = fused_kl(*case, counted, **fusion, reference=term.reference)
        return mean * (counted.sum() / count)

    @torch.no_grad()
    def sums(self, batch: SampleBatch) -> Tensor:
        """Sum up the cross-entropy of each sample, to validate, and how often it is right.

        Returns:
            Float32 [samples, 3]: of a sample's counted tokens the losses, how many are the
            likeliest, and how many there are. The delta is alone where it is trained alone.
        """
        targets = counted_targets(batch)
        case, fusion = self._case(batch, alone=all(term.alone for term in self._terms))
        found = fused_token_losses(*case, targets, **fusion, ignore_index=IGNORED)
        figures = torch.stack([found.loss, found.correct, targets != IGNORED], dim=1)
        return figures.new_zeros(len(batch.rows), 3).index_add_(0, batch.sample_of, figures)

    def _case(
        self, batch: SampleBatch, *, alone: bool
    ) -> tuple[tuple[Tensor, OutputHead, Tensor, OutputHead], dict[str, Any]]:
        """The states of both models for a batch's tokens, each with its head; and their fusion."""
        if batch.tree is None:
            raise ValueError("the samples were made without a delta model")
        if alone:
            delta_states = self._own_states(batch.tree)
            nothing, fusion = self._nothing(delta_states), self._fusion | {"alpha": 1.0}
            return (*nothing, delta_states, self._delta_head), fusion
        states, head = self._frozen_states(batch)
        delta_states = self._delta_states(batch, batch.tree, states)
        return (states, head, delta_states, self._delta_head), self._fusion

    @torch.no_grad()
    def _frozen_states(self, batch: SampleBatch) -> tuple[Tensor, OutputHead]:
        """The frozen model's states [tokens, size], on the delta's device, and its head."""
        frozen, head = self._frozen
        return batch.user_states(frozen).to(batch.targets.device), head

    def _nothing(self, delta_states: Tensor) -> tuple[Tensor, OutputHead]:
        """States [tokens, 0] and a head, of a model all of whose logits are 0."""
        width = self._frozen[1].width
        return delta_states[:, :0].detach(), OutputHead(delta_states.new_zeros(width, 0))

    def _delta_states(self, batch: SampleBatch, tree: TreeBatch, base: Tensor) -> Tensor:
        """[tokens, size]: the delta's; of an adapter of the frozen model itself, whose plain half
        is the frozen model where both read the same ids, only the other half runs.
        """
        if self._is_of_frozen and _are_same_ids(batch, tree):
            return tree_states(self.delta.decoder.adapted, tree) - base
        return self._own_states(tree)

    def _own_states(self, tree: TreeBatch) -> Tensor:
        """[tokens, size]: the delta's, behind the square matrix if it has one."""
        states, head = tree_states(self.delta, tree), square_head(self.delta)
        return states if head is None else head.square(states)


def _are_same_ids(batch: SampleBatch, tree: TreeBatch) -> bool:
    """True if the contexts of both models are the same ids, and predict at the same places."""
    ids, mask = batch.input_ids, batch.attention_mask
    nodes = tree.input_ids.shape[1]
    # The last id of a row is predicted, and read by the frozen model alone.
    is_read = mask[:, 1:] == 1
    if not torch.equal(tree.visible, is_read) or ids.shape[1] != nodes + 1:
        return False
    same_ids = torch.equal(ids[:, :-1].masked_fill(~is_read, 0), tree.input_ids)
    row, place = tree.places // nodes, tree.places % nodes
    return same_ids and torch.equal(batch.places, row * (nodes + 1) + place)
