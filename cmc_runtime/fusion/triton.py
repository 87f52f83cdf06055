"""Fused logits by the Triton kernels; to be imported only where they run."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmc_runtime.maps.tensors import MapTensors
from pm_mined.kernels.fused_logits import (
    gather_add,
    gather_add_argmax,
    gather_add_sample,
    scatter_sum,
)

from .arguments import CheckedFusion
from .gather import gather_delta


def fuse_triton(fusion: CheckedFusion) -> Tensor:
    """[..., num_src_logits] in the base's dtype, differentiable as `fuse_logits` says."""
    rows = _rows(fusion)
    fused: Tensor = _GatherAdd.apply(  # type: ignore[no-untyped-call] # torch
        rows.base, rows.delta, rows.alpha, rows.fill, fusion.tensors
    )
    return fused.reshape(fusion.base.shape)


def choose_triton(fusion: CheckedFusion, temperature: float, seed: int) -> Tensor:
    """int64 [...]: the tokens of `next_tokens`; fused logits are never written."""
    rows = _rows(fusion)
    case = rows.base, rows.delta, fusion.tensors.index, rows.alpha, rows.fill
    if temperature > 0:
        chosen = gather_add_sample(*case, temperature=temperature, seed=seed)
    else:
        chosen = gather_add_argmax(*case)
    return chosen.reshape(fusion.base.shape[:-1])


class _Rows(NamedTuple):
    """The kernels' arguments: one leading dimension, and one alpha for all."""

    base: Tensor  # [rows, num_src_logits]
    delta: Tensor  # [rows, num_dst_logits]
    alpha: float
    fill: Tensor | None  # [rows]


def _rows(fusion: CheckedFusion) -> _Rows:
    base, delta, tensors, alpha = fusion.base, fusion.delta, fusion.tensors, fusion.alpha
    if isinstance(alpha, Tensor):
        delta, alpha = delta.float() * alpha.float(), 1.0
    fill = None
    if fusion.fill is not None:
        delta = delta.float()  # here, so that the gradients of both its uses are added unrounded
        fill = fusion.fill(base, gather_delta(delta, tensors, alpha), tensors).flatten()
    return _Rows(_flat(base), _flat(delta), alpha, fill)


def _flat(logits: Tensor) -> Tensor:
    """[rows, width] with dense rows."""
    flat = logits.reshape(math.prod(logits.shape[:-1]), logits.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


class _GatherAdd(torch.autograd.Function):
    """`gather_add` with its gradients for `base`, `delta` and `fill`."""

    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor,
        delta: Tensor,
        alpha: float,
        fill: Tensor | None,
        tensors: MapTensors,
    ) -> Tensor:
        ctx.alpha, ctx.tensors, ctx.delta_dtype = alpha, tensors, delta.dtype
        return gather_add(base, delta, tensors.index, alpha, fill)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, Tensor | None, None]:
        delta_grad = fill_grad = None
        if ctx.needs_input_grad[1]:
            offsets, src_id = ctx.tensors.inverse
            delta_grad = scatter_sum(_flat(grad), offsets, src_id, ctx.alpha, ctx.delta_dtype)
        if ctx.needs_input_grad[3]:
            of_unmapped = grad.masked_fill(ctx.tensors.mapped, 0)
            fill_grad = of_unmapped.sum(1, dtype=torch.float32)
        return grad, delta_grad, None, fill_grad, None
