"""Losses of fused logits straight from hidden states: no matrix of tokens x vocabulary is kept.

Tokens are taken in chunks. The logits of a chunk are made, turned where they lie into the gradient
of its losses, sent back through the map, multiplied into the gradients of the delta's hidden states
and output head, and forgotten. So the gradients are there as soon as the loss is; backward scales
them. Four matrix products are the least there can be, and are most of the time on a CPU: the
logits of both models, and the gradients of the delta's states and head. On a GPU, Triton kernels
fuse (triton.py) and turn logits into gradients (kernels/cross_entropy.py); elsewhere torch does.

    losses            the public functions: arguments, and which tokens count
    mean_loss         the mean for autograd, and the sums of gradients
    fused_heads       logits, losses and gradients of one chunk
    token_objectives  losses of each token, which leave their gradient in the logits' place
    chunks            how many tokens at a time

Source of the idea: Hsu et al., Liger Kernel (arXiv 2410.10989).
"""

from typing import Literal

import torch
from torch import Tensor

from cmc_runtime.maps.tensors import MapTensors
from cmc_runtime.models.output_head import OutputHead
from pm_mined import OptionError

from .arguments import Unmapped
from .chunks import chunks, slices
from .fused_heads import FusedHeads
from .mean_loss import mean_loss
from .token_objectives import (
    LossesByToken,
    TokenLosses,
    cross_entropy,
    kl_from_base,
    kl_from_uniform,
)

__all__ = ["TokenLosses", "fused_cross_entropy", "fused_kl", "fused_token_losses", "token_losses"]

_REFERENCES = {"base": kl_from_base, "uniform": kl_from_uniform}


def fused_cross_entropy(
    base_hidden: Tensor,
    base_head: OutputHead,
    delta_hidden: Tensor,
    delta_head: OutputHead,
    targets: Tensor,
    tensors: MapTensors,
    *,
    alpha: float = 1.0,
    unmapped: Unmapped = "zero",
    ignore_index: int = -100,
) -> Tensor:
    """The mean cross-entropy, in nats, of the logits `fuse_logits` makes: `base + alpha * delta`.

    The fused logits are never held as a whole. `backward()` may be called once.

    Args:
        base_hidden: Floating [tokens, base hidden size], as `hidden_states` returns them.
        base_head: The user model's output head; it is frozen and gets no gradient.
        delta_hidden: Floating [tokens, delta hidden size]; gets a gradient.
        delta_head: The delta model's output head; its weight and bias get gradients.
        targets: int64 [tokens]: the id that each row of hidden states predicts.
        tensors: The map, for the widths of both heads.
        alpha: The strength of the delta.
        unmapped: The policy for unmapped tokens: see `Unmapped`.
        ignore_index: Rows with this target do not count.

    Returns:
        A scalar in float32, or in float64 for float64 hidden states; 0, with zero gradients, where
        no row counts. Matrix products are in the hidden states' dtypes, or autocast's; logits, and
        gradients of the head from chunk to chunk, are added in float32 at least.

    Raises:
        OptionError: shapes, dtypes or widths do not fit together, a target is not an id of the
            base head, or `fuse_logits` refuses an argument.

    >>> from cmc_runtime.maps.tensors import identity_map_tensors
    >>> base, delta = OutputHead(torch.zeros(2, 1)), OutputHead(torch.zeros(2, 1).requires_grad_())
    >>> states, targets = torch.ones(3, 1), torch.tensor([0, 1, 1])
    >>> loss = fused_cross_entropy(states, base, states, delta, targets, identity_map_tensors(2))
    >>> loss.backward()
    >>> round(loss.item(), 4), delta.weight.grad.flatten().tolist()
    (0.6931, [0.1666666716337204, -0.1666666716337204])
    """
    counted = _counted(targets, len(base_hidden), base_head, ignore_index)
    heads = FusedHeads(base_head, delta_head, tensors, alpha, unmapped)
    return mean_loss(heads, base_hidden, delta_hidden, counted, cross_entropy(targets[counted]))


def fused_kl(
    base_hidden: Tensor,
    base_head: OutputHead,
    delta_hidden: Tensor,
    delta_head: OutputHead,
    mask: Tensor,
    tensors: MapTensors,
    *,
    alpha: float = 1.0,
    unmapped: Unmapped = "zero",
    reference: Literal["base", "uniform"] = "base",
) -> Tensor:
    """The mean Kullback-Leibler divergence, in nats, of the fused distribution from a reference.

    A row's divergence is the sum of `p * log(p / p_fused)`, where `p` is the base's distribution
    or the uniform one over all its logits. The mean is over the rows where `mask`, bool [tokens],
    is true; 0 where there are none. Other arguments, gradients and errors are those of
    `fused_cross_entropy`.
    """
    if mask.dtype != torch.bool or mask.shape != base_hidden.shape[:1]:
        raise OptionError(
            f"the mask is {mask.dtype} {list(mask.shape)}; expected bool [{len(base_hidden)}]"
        )
    counted = mask.nonzero()[:, 0]
    heads = FusedHeads(base_head, delta_head, tensors, alpha, unmapped)
    return mean_loss(heads, base_hidden, delta_hidden, counted, _REFERENCES[reference])


@torch.no_grad()
def fused_token_losses(
    base_hidden: Tensor,
    base_head: OutputHead,
    delta_hidden: Tensor,
    delta_head: OutputHead,
    targets: Tensor,
    tensors: MapTensors,
    *,
    alpha: float = 1.0,
    unmapped: Unmapped = "zero",
    ignore_index: int = -100,
) -> TokenLosses:
    """The cross-entropy of each token, and whether it is the likeliest, without gradients.

    Arguments and errors are those of `fused_cross_entropy`.
    """
    counted = _counted(targets, len(base_hidden), base_head, ignore_index)
    heads = FusedHeads(base_head, delta_head, tensors, alpha, unmapped)
    heads.check(base_hidden, delta_hidden)
    found = LossesByToken(targets[counted])
    hidden = base_hidden[counted], delta_hidden[counted]
    for _ in heads.losses(*hidden, found.objective, gradients=False):
        pass
    return found.spread(counted, len(targets))


@torch.no_grad()
def token_losses(
    hidden: Tensor, head: OutputHead, targets: Tensor, *, ignore_index: int = -100
) -> TokenLosses:
    """The same of one model alone: `hidden` is floating [tokens, hidden size].

    >>> head = OutputHead(torch.tensor([[0.0], [3.0]]))
    >>> token_losses(torch.ones(2, 1), head, torch.tensor([1, 0])).correct
    tensor([ True, False])
    """
    counted = _counted(targets, len(hidden), head, ignore_index)
    found = LossesByToken(targets[counted])
    for chunk in chunks(len(counted), head):
        logits = head(hidden[counted[chunk]])
        for rows, some in slices(logits, chunk):
            found.objective(some, rows)(some)
    return found.spread(counted, len(targets))


def _counted(targets: Tensor, tokens: int, head: OutputHead, ignore_index: int) -> Tensor:
    """int64: the places of the targets that are not ignored, all of them ids of the head."""
    if targets.dtype != torch.int64 or targets.shape != (tokens,):
        raise OptionError(
            f"targets are {targets.dtype} {list(targets.shape)}; expected int64 [{tokens}]"
        )
    counts = targets != ignore_index
    unknown = targets[counts & ((targets < 0) | (targets >= head.width))]
    if len(unknown):
        raise OptionError(f"a target is {int(unknown[0])}, but there are {head.width:,} logits")
    return counts.nonzero()[:, 0]
