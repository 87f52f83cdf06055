"""Losses of each token that turn logits, where they lie, into the gradient of their sum.

An objective takes a slice of the base logits first, since fusing may overwrite them, and returns
the loss of the fused logits of these rows.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from pm_mined.kernels import cross_entropy_torch

from .arguments import KERNEL_DTYPES, has_triton

Loss: TypeAlias = Callable[[Tensor], Tensor]
"""Fused logits [rows, width] to losses [rows]; the logits become the gradient of their sum."""

Objective: TypeAlias = Callable[[Tensor, slice], Loss]
"""Base logits [rows, width], not to be changed or kept, and which rows they are, to their loss."""


class TokenLosses(NamedTuple):
    """The cost of each token, and whether it was the likeliest."""

    loss: Tensor  # float32 [tokens], in nats; 0 where the target is ignored
    correct: Tensor  # bool [tokens]: the target has the largest logit; False where it is ignored


def cross_entropy(targets: Tensor) -> Objective:
    """The cross-entropy of the fused logits; `targets` is int64 [all rows], checked."""
    return lambda _base, rows: lambda fused: _cross_entropy_(fused, targets[rows])[0]


def kl_from_base(base: Tensor, _rows: slice) -> Loss:
    """The Kullback-Leibler divergence of the fused distribution from the base's."""
    expected = base.log_softmax(-1)
    return lambda fused: _divergence_(fused, expected)


def kl_from_uniform(_base: Tensor, _rows: slice) -> Loss:
    """The Kullback-Leibler divergence of the fused distribution from the uniform one."""
    return _divergence_from_uniform_


class LossesByToken:
    """The cross-entropy as an objective that keeps the losses, and makes no gradients."""

    def __init__(self, targets: Tensor) -> None:
        self._targets = targets
        self._losses = targets.new_zeros(len(targets), dtype=torch.float32)
        self._correct = torch.zeros_like(targets, dtype=torch.bool)

    def objective(self, _base: Tensor, rows: slice) -> Loss:
        """The loss of some rows; it overwrites the logits with scratch values."""

        def loss(fused: Tensor) -> Tensor:
            targets = self._targets[rows]
            losses, best = _cross_entropy_(fused, targets, gradient=False)
            self._losses[rows], self._correct[rows] = losses, best == targets
            return losses

        return loss

    def spread(self, counted: Tensor, tokens: int) -> TokenLosses:
        """The losses at the places `counted` (int64 [targets]) of so many tokens, 0 elsewhere."""
        return TokenLosses(
            self._losses.new_zeros(tokens).index_copy_(0, counted, self._losses),
            self._correct.new_zeros(tokens).index_copy_(0, counted, self._correct),
        )


def _cross_entropy_(
    fused: Tensor, targets: Tensor, *, gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """Losses and likeliest ids [rows], by Triton on a GPU and by torch elsewhere."""
    if fused.is_cuda and fused.dtype in KERNEL_DTYPES and has_triton():
        from pm_mined.kernels import cross_entropy

        return cross_entropy.cross_entropy_(fused, targets, gradient=gradient)
    return cross_entropy_torch.cross_entropy_(fused, targets, gradient=gradient)


def _divergence_(fused: Tensor, expected: Tensor) -> Tensor:
    """The divergence [rows] from log-probabilities, which are overwritten as well."""
    found = fused.log_softmax(-1)
    torch.exp(found, out=fused)
    difference = found.neg_().add_(expected)
    expected.exp_()
    fused.sub_(expected)
    divergence: Tensor = torch.linalg.vecdot(expected, difference)
    return divergence


def _divergence_from_uniform_(fused: Tensor) -> Tensor:
    """The divergence [rows], which is `logsumexp - mean - log(width)`."""
    width = fused.shape[-1]
    total, mean = fused.logsumexp(-1, keepdim=True), fused.mean(-1)
    fused.sub_(total).exp_().sub_(1 / width)
    return total[:, 0] - mean - math.log(width)
