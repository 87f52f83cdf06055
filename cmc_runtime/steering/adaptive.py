"""A strength for each step: as much steering as the small models themselves were changed.

Dynamic Logit Fusion (arXiv 2406.15480) chooses alpha so that the fused distribution is as far from
the base model's as the small expert's is from its own base model's, in KL divergence.
"""

import torch
from torch import Tensor


def divergence(logits: Tensor, base: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(base)) over the last dimension, in nats.

    Tokens that both rule out (-inf) count nothing; one that only `base` rules out makes it
    infinite.

    >>> divergence(torch.tensor([0.0, 0.0]), torch.tensor([0.0, -torch.inf])).item()
    inf
    """
    log_p, log_q = logits.float().log_softmax(-1), base.float().log_softmax(-1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


def alpha_for_divergence(
    base: Tensor, shift: Tensor, target: Tensor, *, most: float | Tensor = 2.0, steps: int = 16
) -> Tensor:
    """float32 [rows]: alpha for which `base + alpha * shift` is `target` nats from `base`.

    Args:
        base: [rows, vocabulary], the logits to be steered.
        shift: [rows, vocabulary], what one unit of alpha adds.
        target: [rows], the divergence wanted; 0 gives alpha 0.
        most: the largest alpha, a number or float [rows]; it is the answer where even that does
            not reach the target.
        steps: halvings of the interval: 16 leave `most` / 65,536.

    For alpha >= 0 the divergence never falls: its derivative is alpha times the variance of
    `shift` under the fused distribution. So halving finds the answer.
    """
    low = torch.zeros_like(target, dtype=torch.float32)
    largest = high = low + most
    base, shift = base.float(), shift.float()
    reached = divergence(base + largest[:, None] * shift, base) <= target
    for _ in range(steps):
        middle = (low + high) / 2
        below = divergence(base + middle[:, None] * shift, base) <= target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(reached, largest, low)
