"""The mean of an objective over tokens, for autograd: gradients are made with the loss itself."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fused_heads import ChunkLoss, FusedHeads
from .token_objectives import Objective


def mean_loss(
    heads: FusedHeads,
    base_hidden: Tensor,
    delta_hidden: Tensor,
    counted: Tensor,
    objective: Objective,
) -> Tensor:
    """The mean over the tokens `counted`, int64 [number of them]; 0 where there are none.

    Hidden states are floating [tokens, size]. Gradients go to the delta's, and to its head.

    Raises:
        OptionError: the hidden states do not fit: see `FusedHeads.check`.
    """
    heads.check(base_hidden, delta_hidden)
    head = heads.delta
    trained: list[Any] = [delta_hidden[counted], head.weight, head.bias]
    if not torch.is_grad_enabled():
        trained = [None if one is None else one.detach() for one in trained]
    loss: Tensor = _MeanLoss.apply(  # type: ignore[no-untyped-call] # torch
        *trained, heads, base_hidden.detach()[counted], objective
    )
    return loss


class _MeanLoss(torch.autograd.Function):
    """The mean over all rows, differentiable in hidden states, weight and bias of the delta."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        heads: FusedHeads,
        base_hidden: Tensor,
        objective: Objective,
    ) -> Tensor:
        ctx.gradients = _Gradients((hidden, weight, bias), ctx.needs_input_grad)
        ctx.tokens = max(len(hidden), 1)
        heads, base_hidden, hidden = heads.in_dtype_of_products(base_hidden, hidden)
        dtype = _at_least_float32(torch.promote_types(base_hidden.dtype, hidden.dtype))
        total = torch.zeros((), dtype=dtype, device=hidden.device)
        wanted = any(ctx.needs_input_grad)
        for chunk in heads.losses(base_hidden, hidden, objective, gradients=wanted):
            total += chunk.total
            if wanted:
                ctx.gradients.add(chunk, hidden[chunk.rows], heads.delta.weight)
            del chunk  # before the next is made
        mean: Tensor = total / ctx.tokens
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # they are scaled in place
        if gradients is None:
            raise RuntimeError(
                "backward() was already called; a fused loss supports one backward pass"
            )
        return *gradients.scaled(grad / ctx.tokens), None, None, None


class _Gradients:
    """The gradients of hidden states, weight and bias, summed in float32 at least."""

    def __init__(self, inputs: Sequence[Tensor | None], needed: Sequence[bool]) -> None:
        self._dtypes = [None if one is None else one.dtype for one in inputs]
        self._sums = [
            torch.zeros_like(one, dtype=_at_least_float32(one.dtype))
            if one is not None and wanted
            else None
            for one, wanted in zip(inputs, needed, strict=False)  # what follows needs none
        ]

    def add(self, chunk: ChunkLoss, hidden: Tensor, weight: Tensor) -> None:
        """Add those of a chunk, whose head projects `weight @ hidden + bias`."""
        of_hidden, of_weight, of_bias = self._sums
        grad = chunk.gradient
        if of_hidden is not None:
            of_hidden[chunk.rows] = grad @ weight
        if of_weight is not None and of_weight.dtype == grad.dtype:
            of_weight.addmm_(grad.t(), hidden)  # without a copy of its size
        elif of_weight is not None:
            of_weight += grad.t() @ hidden
        if of_bias is not None:
            of_bias += grad.sum(0, dtype=of_bias.dtype)

    def scaled(self, factor: Tensor) -> list[Tensor | None]:
        """The sums times a number, in the dtypes of the inputs; the sums themselves are spent."""
        return [
            None if one is None else one.mul_(factor).to(dtype)
            for one, dtype in zip(self._sums, self._dtypes, strict=True)
        ]


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
