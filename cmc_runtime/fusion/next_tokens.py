"""The next token of each row: the best of the fused logits, or one drawn from them."""

import math

import torch
from torch import Tensor

from cmc_runtime.maps.tensors import MapTensors
from pm_mined import OptionError
from pm_mined.kernels.gumbel import gumbel

from .arguments import CheckedFusion, Implementation, Unmapped, checked_fusion
from .fuse_logits import fuse_unrounded


@torch.no_grad()
def next_tokens(
    base: Tensor,
    delta: Tensor,
    tensors: MapTensors,
    alpha: float | Tensor = 1.0,
    *,
    unmapped: Unmapped = "zero",
    temperature: float = 0.0,
    seed: int = 0,
    implementation: Implementation = "auto",
) -> Tensor:
    """The token with the largest fused logit, or with a temperature one drawn from their softmax.

    The first four arguments, `unmapped` and `implementation` are those of `fuse_logits`; the
    logits are compared before they would be rounded to the base's dtype. On a GPU the kernels
    make one pass, and fused logits are never written. Ties go to the lowest id; NaN counts as
    larger than everything.

    A draw from `softmax(fused / temperature)` takes the largest `fused + temperature * noise`
    (Gumbel-max). The noise of a logit depends on the seed, its row (counted over all leading
    dimensions) and its id only: give each step another seed. So the same seed draws the same
    tokens with every implementation, save where the two best differ by no more than a rounding.

    Returns int64 [...], the leading dimensions of `base`.

    Raises:
        OptionError: as `fuse_logits`; there is no token to choose; `temperature` is negative or
            not finite; `seed` is not from 0 to 2**63 - 1.

    >>> from cmc_runtime.maps.tensors import identity_map_tensors
    >>> base, delta = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[4.0, 0.0, 0.0]])
    >>> next_tokens(base, delta, identity_map_tensors(3), alpha=0.5)
    tensor([0])
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise OptionError(f"temperature is {temperature}; expected a finite number, 0 or more")
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise OptionError(f"seed is {seed!r}; expected a whole number from 0 to 2**63 - 1")
    fusion = checked_fusion(base, delta, tensors, alpha, unmapped, implementation)
    if tensors.num_src_logits == 0:
        raise OptionError("the map is for 0 user logits; expected at least one to choose from")
    if fusion.implementation == "torch":
        return _choose_torch(fusion, temperature, seed)
    from .triton import choose_triton

    return choose_triton(fusion, temperature, seed)


def _choose_torch(fusion: CheckedFusion, temperature: float, seed: int) -> Tensor:
    value = fuse_unrounded(fusion)
    if temperature > 0:
        rows = math.prod(value.shape[:-1])
        noise = gumbel(rows, value.shape[-1], seed, value.device)
        value = value + temperature * noise.reshape(value.shape)
    return value.argmax(-1)
