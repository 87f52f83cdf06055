"""The cross-entropy of logits, in place, in torch: runs on a CPU; the twin of cross_entropy.py."""

import torch
from torch import Tensor


def cross_entropy_(
    logits: Tensor, targets: Tensor, *, gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """The cross-entropy of each row and its likeliest column; the logits are overwritten.

    Args:
        logits: Floating [rows, columns], with dense rows.
        targets: int64 [rows], columns; not checked.
        gradient: Turn the logits into the gradient of the losses' sum; else they are scratch.

    Returns:
        The losses [rows], in nats, in float32 at least, and int64 [rows], the lowest of the
        largest columns. A row with a NaN, or with nothing but -inf, costs NaN.

    >>> logits = torch.zeros(1, 2)
    >>> cross_entropy_(logits, torch.tensor([1]))
    (tensor([0.6931]), tensor([0]))
    >>> logits
    tensor([[ 0.5000, -0.5000]])
    """
    best = logits.argmax(-1, keepdim=True)
    logits.sub_(logits.gather(-1, best))
    at_target = logits.gather(-1, targets[:, None])
    at_least = torch.promote_types(logits.dtype, torch.float32)  # float16 would overflow
    total = logits.exp_().sum(-1, keepdim=True, dtype=at_least)
    if gradient:
        logits.div_(total)
        logits[torch.arange(len(targets), device=targets.device), targets] -= 1
    return (total.log() - at_target)[:, 0], best[:, 0]
