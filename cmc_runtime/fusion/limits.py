"""Limits of steering: which rows of logits are steered, and which of their tokens."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pm_mined import OptionError


@dataclass(frozen=True)
class Limits:
    """The places at which fused logits replace the user model's; without any, everywhere.

    Attributes:
        plausible: From 0 to 1. Only tokens whose probability under the user model is at least
            this share of the likeliest token's are steered; the others keep its logits. So what
            the user model finds absurd is not raised by taking away what it finds likely. This is
            the filter of contrastive decoding (Li et al., arXiv 2210.15097), as ULD's program
            scores by it (Ji et al., arXiv 2406.08607). Both rule the others out when they
            *write*. Here they keep their logits: where one token alone is plausible, which is how
            a memorised text looks, ruling out the others would leave just that one. And what is
            written has the distribution that is scored.
        gate: From 0 to 1. Only rows in which the likeliest token's probability under the user
            model is below this are steered; 1 steers all. Where the user model is sure, a small
            one has little to add (Nudging, Fei et al., arXiv 2410.09300).

    Raises:
        OptionError: a number is not from 0 to 1.

    >>> base, fused = torch.tensor([[2.0, 1.0, -9.0]]), torch.tensor([[0.0, 3.0, 9.0]])
    >>> Limits(plausible=0.01).keep(base, fused)
    tensor([[ 0.,  3., -9.]])
    """

    plausible: float = 0.0
    gate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("plausible", "gate"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise OptionError(f"{name} is {value!r}; expected a number from 0 to 1")

    def keep(self, base: Tensor, fused: Tensor) -> Tensor:
        """The fused logits within the limits, and the base's elsewhere; both [..., width]."""
        fused = self.keep_tokens(base, fused)
        if self.gate == 1:
            return fused
        return torch.where(self.open_rows(base)[..., None], fused, base)

    def keep_tokens(self, base: Tensor, fused: Tensor) -> Tensor:
        """The same, but all rows are steered."""
        if self.plausible == 0:
            return fused
        least = base.amax(-1, keepdim=True) + math.log(self.plausible)
        return torch.where(base >= least, fused, base)

    def open_rows(self, base: Tensor) -> Tensor:
        """Bool [...]: the rows of base logits [..., width] that a gate below 1 lets through."""
        return base.float().softmax(-1).amax(-1) < self.gate


EVERYWHERE = Limits()
