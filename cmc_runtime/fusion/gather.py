"""Delta logits gathered for the user model's tokens, and the gradient that is sent back."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cmc_runtime.maps.tensors import ChoiceTensors, Inverse, MapTensors


def gather_delta(delta: Tensor, tensors: MapTensors, alpha: float | Tensor) -> Tensor:
    """[..., num_src_logits]: delta logits of the destinations, times alpha; 0 where unmapped.

    `delta` is floating [..., num_dst_logits]; `alpha` is a number or broadcasts to it. The result
    is in their common dtype, and a tensor of its own. The delta is scaled before it is read where
    that is the same: it is the narrower one.
    """
    scaled, choices = delta * alpha, tensors.choices
    if tensors.is_identity:
        return _pad(scaled, tensors)
    read = _gather(scaled, tensors.padded_index, tensors.inverse)
    if choices is None:
        return read
    if choices.weight is None:  # a negative alpha would make the least the largest
        reduced = _reduce_choices(delta, choices) * alpha
    else:
        reduced = _reduce_choices(scaled, choices)
    return read.index_copy_(-1, choices.src_id, reduced)


def _pad(scaled: Tensor, tensors: MapTensors) -> Tensor:
    """[..., num_src_logits]: the same logits, but for the tokens that are moved."""
    beyond, moved = tensors.num_src_logits - tensors.num_dst_logits, tensors.moved
    read = functional.pad(scaled, (0, beyond)) if beyond else scaled  # below 0 it cuts off
    if moved is None:
        return read
    end = scaled[..., moved.dst_id, None].clone()  # it may be moved itself
    return read.index_copy_(-1, moved.src_id, end.expand(*end.shape[:-1], len(moved.src_id)))


def _reduce_choices(delta: Tensor, choices: ChoiceTensors) -> Tensor:
    """[..., tokens with several]: the weighted sum, or the maximum, of each one's choices."""
    each = _gather(delta, choices.dst_id.long(), choices.inverse)
    if choices.weight is not None:
        each = each * choices.weight
    reduced = torch.segment_reduce(
        _columns(each),
        "max" if choices.weight is None else "sum",
        offsets=choices.offsets,
        unsafe=True,  # `load_map_tensors` has checked what would be checked on every call
    )
    rows = reduced.t().contiguous()  # what follows goes over rows
    return rows.reshape(*delta.shape[:-1], len(reduced))


def _gather(logits: Tensor, index: Tensor, inverse: Inverse) -> Tensor:
    read: Tensor = _Gather.apply(logits, index, inverse)  # type: ignore[no-untyped-call] # torch
    return read


class _Gather(torch.autograd.Function):
    """`logits[..., index]`, 0 where the index is one past the end; backward without atomics."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, inverse: Inverse) -> Tensor:
        ctx.inverse = inverse
        padded = functional.pad(logits, (0, 1))
        return padded.gather(-1, index.expand(*logits.shape[:-1], -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _segment_sum(grad, ctx.inverse), None, None


def _segment_sum(grad: Tensor, inverse: Inverse) -> Tensor:
    """[..., num_dst_logits]: the sum of the gradients of all that read a token, in their order."""
    num_dst = len(inverse.offsets) - 1
    if grad.numel() == 0:
        return grad.new_zeros(*grad.shape[:-1], num_dst)
    # A bag of embeddings is a segment sum: one pass, and the order of its sums is fixed.
    sums = functional.embedding_bag(
        inverse.src_id, _columns(grad), inverse.offsets, mode="sum", include_last_offset=True
    )
    return sums.t().reshape(*grad.shape[:-1], num_dst)


def _columns(logits: Tensor) -> Tensor:
    """[width, rows]: the leading dimensions become one, the last."""
    rows = math.prod(logits.shape[:-1])
    return logits.reshape(rows, logits.shape[-1]).t().contiguous()
