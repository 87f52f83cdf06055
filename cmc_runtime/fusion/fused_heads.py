"""The output heads of two models, fused: losses of hidden states, chunk by chunk."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cmc_runtime.maps.tensors import MapTensors
from cmc_runtime.models.output_head import OutputHead
from pm_mined import OptionError

from .arguments import Unmapped
from .chunks import chunks, slices
from .fuse_logits import fuse_logits
from .token_objectives import Objective


class ChunkLoss(NamedTuple):
    """The loss of a chunk of tokens."""

    rows: slice
    total: Tensor  # scalar: the sum of the losses
    gradient: Tensor  # of it, for what the delta's head projects: [tokens, delta width]


@dataclass(frozen=True, eq=False)
class FusedHeads:
    """The heads of a frozen model and of its delta, and how their logits are fused.

    Attributes:
        base: The frozen model's.
        delta: The delta model's.
        tensors: The map, for the widths of both.
        alpha: The strength of the delta.
        unmapped: The policy for unmapped tokens: see `Unmapped`.
    """

    base: OutputHead
    delta: OutputHead
    tensors: MapTensors
    alpha: float
    unmapped: Unmapped

    def check(self, base_hidden: Tensor, delta_hidden: Tensor) -> None:
        """Refuse hidden states that do not fit; fusing none of their rows checks all else.

        Raises:
            OptionError: they do not fit the heads or each other, or as `fuse_logits` says.
        """
        if not base_hidden.ndim == delta_hidden.ndim == 2 or len(base_hidden) != len(delta_hidden):
            raise OptionError(
                f"hidden states are {list(base_hidden.shape)} and {list(delta_hidden.shape)}; "
                "expected [tokens, size], with the same tokens"
            )
        self._fused(self.base(base_hidden[:0]), self.delta(delta_hidden[:0]))

    def in_dtype_of_products(
        self, base_hidden: Tensor, delta_hidden: Tensor
    ) -> "tuple[FusedHeads, Tensor, Tensor]":
        """Convert heads and hidden states for autocast at once, and not chunk by chunk."""
        base, delta = (_autocast(hidden) for hidden in (base_hidden, delta_hidden))
        heads = replace(self, base=self.base.to(base.dtype), delta=self.delta.to(delta.dtype))
        return heads, base, delta

    def losses(
        self, base_hidden: Tensor, delta_hidden: Tensor, objective: Objective, *, gradients: bool
    ) -> Iterator[ChunkLoss]:
        """The losses of hidden states [tokens, size], one chunk after the other.

        Without `gradients`, any tensor of their shape takes their place.
        """
        for rows in chunks(len(delta_hidden), self.base):
            base, hidden = self.base(base_hidden[rows]), delta_hidden[rows]
            if self._is_sum_of_products(base, hidden):
                yield self._add_product_(base, hidden, rows, objective)
            else:
                yield self._fuse(base, hidden, rows, objective, gradients=gradients)
            del base  # before the next are made

    def _fuse(
        self, base: Tensor, hidden: Tensor, rows: slice, objective: Objective, *, gradients: bool
    ) -> ChunkLoss:
        """The loss of a chunk; its gradient takes the place of the projected hidden states."""
        projected = self.delta.project(hidden)
        total = base.new_zeros(())
        for part, some_base, some in slices(base, rows, projected):
            loss = objective(some_base, part)
            leaf = some.detach().requires_grad_(gradients)
            with torch.set_grad_enabled(gradients):
                fused = self._fused(some_base, self.delta.finish(leaf))
            total += loss(fused.detach()).sum()
            if gradients:
                some.copy_(torch.autograd.grad(fused, leaf, fused.detach())[0])
        return ChunkLoss(rows, total, projected)

    def _fused(self, base: Tensor, delta: Tensor) -> Tensor:
        return fuse_logits(base, delta, self.tensors, self.alpha, unmapped=self.unmapped)

    def _is_sum_of_products(self, base: Tensor, hidden: Tensor) -> bool:
        """True if fusing only adds one matrix product to another."""
        adds_nothing_else = self.unmapped == "zero" or self.base.width <= self.delta.width
        is_product = self.delta.bias is None and self.delta.softcap is None
        in_one_dtype = base.dtype == hidden.dtype == self.delta.weight.dtype
        return self.tensors.is_identity and adds_nothing_else and is_product and in_one_dtype

    def _add_product_(
        self, base: Tensor, hidden: Tensor, rows: slice, objective: Objective
    ) -> ChunkLoss:
        """The same as `_fuse` in the base logits' place, without a pass over them to fuse."""
        losses = [objective(some, part) for part, some in slices(base, rows)]
        factor = self.alpha * self.delta.scale
        self._add_(base, hidden, factor)
        total = base.new_zeros(())
        for loss, (_, fused) in zip(losses, slices(base, rows), strict=True):
            total += loss(fused).sum()
        grad = self._of_delta_(base)
        return ChunkLoss(rows, total, grad if factor == 1 else grad.mul_(factor))

    def _add_(self, base: Tensor, hidden: Tensor, factor: float) -> None:
        """Add the delta's logits times a factor to the base logits that the map gives them to."""
        weight, moved = self.delta.weight, self.tensors.moved
        if moved is not None:
            end = hidden @ weight[moved.dst_id]
            with_end = base[:, moved.src_id].add_(end[:, None], alpha=factor)
        common = min(self.base.width, self.delta.width)
        base[:, :common].addmm_(hidden, weight[:common].t(), alpha=factor)
        if moved is not None:
            base[:, moved.src_id] = with_end

    def _of_delta_(self, grad: Tensor) -> Tensor:
        """The gradient of the logits that `_add_` adds, in the place of that of their sums."""
        moved, beyond = self.tensors.moved, self.delta.width - self.base.width
        if moved is not None:
            of_moved = grad[:, moved.src_id].sum(1)
            grad[:, moved.src_id] = 0
        grad = grad[:, : self.delta.width] if beyond <= 0 else functional.pad(grad, (0, beyond))
        if moved is not None:
            grad[:, moved.dst_id] += of_moved
        return grad


def _autocast(hidden: Tensor) -> Tensor:
    """Hidden states in the dtype in which matrix products are made here."""
    device = hidden.device.type
    if not torch.is_autocast_enabled(device):
        return hidden
    return hidden.to(torch.get_autocast_dtype(device))
