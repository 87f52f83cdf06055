"""The arguments of fusing, checked: logits, a map, a strength, what unmapped tokens get."""

import math
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from cmc_runtime.maps.tensors import MapTensors
from pm_mined import OptionError

Unmapped: TypeAlias = Literal["zero", "keep", "mean"]
"""The policy for unmapped tokens, padding among them. With `read` for `alpha * delta[map]`:

- `zero`: 0, as in the paper. How much that favours them depends on the delta's offset in the row,
  which says nothing: it makes no difference to the delta's own distribution.
- `keep`: `logsumexp(base + read) - logsumexp(base)`, both over the mapped tokens of the row. Then
  the mapped ones have together the probability that they had, and each unmapped one its own: with
  `Z` for the sum of `exp(base)` over the mapped and `e^c Z` after, `exp(base_u + c) / (e^c Z +
  e^c U) = exp(base_u) / (Z + U)`. An offset of the delta makes no difference.
- `mean`: the mean of `read` over the mapped tokens of the row. Nor does it here.
"""


def default_unmapped(tensors: MapTensors) -> Unmapped:
    """The policy that is used where none is asked for.

    With its own vocabulary a delta has no unmapped tokens but padding, and `zero` costs nothing.
    Carried to another, its offset is what training left there: where all that it knows of is
    lowered, `zero` would raise what it does not know of, and texts run into such tokens.

    >>> from cmc_runtime import identity_map_tensors
    >>> default_unmapped(identity_map_tensors(4, 3))
    'zero'
    """
    return "zero" if tensors.is_identity else "keep"


Implementation: TypeAlias = Literal["auto", "torch", "triton"]

_IMPLEMENTATIONS = get_args(Implementation)
KERNEL_DTYPES = {torch.float32, torch.bfloat16, torch.float16}


def implementation_of(
    base: Tensor, delta: Tensor, tensors: MapTensors, implementation: Implementation = "auto"
) -> Literal["torch", "triton"]:
    """Choose the implementation for these logits; nothing else does.

    `"auto"` takes Triton for CUDA tensors in float32, bfloat16 or float16 and a map with one token
    each, where Triton is installed, and torch for all else.

    Raises:
        OptionError: there is no such implementation, or it cannot run here.

    >>> from cmc_runtime import identity_map_tensors
    >>> base, delta = torch.zeros(1, 4), torch.zeros(1, 3)
    >>> implementation_of(base, delta, identity_map_tensors(4, 3))
    'torch'
    """
    if implementation not in _IMPLEMENTATIONS:
        known = ", ".join(_IMPLEMENTATIONS)
        raise OptionError(f"implementation is {implementation!r}; expected one of {known}")
    if implementation == "torch" or (implementation == "auto" and not base.is_cuda):
        return "torch"
    obstacle = _obstacle_to_triton(base, delta, tensors)
    if obstacle is None:
        return "triton"
    if implementation == "triton":
        raise OptionError(f"implementation 'triton' cannot run: {obstacle}; take auto or torch")
    return "torch"


def _obstacle_to_triton(base: Tensor, delta: Tensor, tensors: MapTensors) -> str | None:
    """The reason why the kernels cannot run, or None."""
    if tensors.choices is not None:
        return "the map has several tokens for one"
    for name, logits in (("base", base), ("delta", delta)):
        if logits.dtype not in KERNEL_DTYPES:
            return f"{name} is {logits.dtype}, and not float32, bfloat16 or float16"
    if not base.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the logits are on {base.device}, and not on a GPU"
    if not has_triton():
        return "Triton is not installed"
    return None


def has_triton() -> bool:
    """Look whether Triton is installed."""
    return find_spec("triton") is not None


Fill: TypeAlias = Callable[[Tensor, Tensor, MapTensors], Tensor]
"""A policy: from base logits, mapped delta logits and map to unmapped logits, float [..., 1]."""


class CheckedFusion(NamedTuple):
    """Logits to be fused, and how; `checked_fusion` makes one."""

    base: Tensor
    delta: Tensor
    tensors: MapTensors
    alpha: float | Tensor  # a tensor broadcasts to the logits
    fill: Fill | None  # None: 0
    implementation: Literal["torch", "triton"]


def checked_fusion(
    base: Tensor,
    delta: Tensor,
    tensors: MapTensors,
    alpha: float | Tensor,
    unmapped: Unmapped,
    implementation: Implementation,
) -> CheckedFusion:
    """The arguments of `fuse_logits`, which says what they are and what is raised."""
    _check_logits(base, delta, tensors)
    if unmapped not in _FILLS:
        raise OptionError(f"unmapped is {unmapped!r}; expected one of {', '.join(_FILLS)}")
    chosen = implementation_of(base, delta, tensors, implementation)
    return CheckedFusion(base, delta, tensors, _per_row(alpha, base), _FILLS[unmapped], chosen)


def _keep(base: Tensor, read: Tensor, tensors: MapTensors) -> Tensor:
    """[..., 1]: what makes the probability of all unmapped tokens what it is without the delta."""
    before = base.to(read.dtype).masked_fill(~tensors.mapped, -math.inf)
    hopeless = (before == -math.inf).all(-1, keepdim=True)  # no mapped token: nothing to keep to
    before = before.masked_fill(hopeless, 0)  # else its gradient is NaN
    shift = (before + read).logsumexp(-1, keepdim=True) - before.logsumexp(-1, keepdim=True)
    return shift.masked_fill(hopeless, 0)


def _mean(base: Tensor, read: Tensor, tensors: MapTensors) -> Tensor:  # noqa: ARG001 - as `_keep`
    """[..., 1]: the mean of what the mapped tokens read."""
    return read.sum(-1, keepdim=True) / max(tensors.num_mapped, 1)


_FILLS: dict[str, Fill | None] = {"zero": None, "keep": _keep, "mean": _mean}


def _per_row(alpha: float | Tensor, base: Tensor) -> float | Tensor:
    """Alpha as a number, or as a tensor with one more dimension for the tokens."""
    if not isinstance(alpha, Tensor):
        if not math.isfinite(alpha):
            raise OptionError(f"alpha is {alpha}; expected a finite number")
        return float(alpha)
    leading = base.shape[:-1]
    if alpha.device != base.device:
        raise OptionError(f"alpha is on {alpha.device}, the logits are on {base.device}")
    if not _broadcasts(alpha.shape, leading):
        raise OptionError(
            f"alpha is {list(alpha.shape)}; expected what broadcasts to the rows, {list(leading)}"
        )
    if alpha.device.type == "cpu" and not alpha.isfinite().all():
        raise OptionError("alpha has a value that is not finite; expected finite numbers")
    return alpha.unsqueeze(-1)


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    if len(shape) > len(to):
        return False
    return all(one in (1, other) for one, other in zip(shape[::-1], to[::-1], strict=False))


def _check_logits(base: Tensor, delta: Tensor, tensors: MapTensors) -> None:
    widths = {"base": tensors.num_src_logits, "delta": tensors.num_dst_logits}
    for name, logits in (("base", base), ("delta", delta)):
        if not logits.is_floating_point():
            raise OptionError(f"{name} is {logits.dtype}; expected floating logits")
        if logits.ndim == 0 or logits.shape[-1] != widths[name]:
            raise OptionError(
                f"{name} is {list(logits.shape)}, but the map is for {widths[name]:,} logits in "
                "the last dimension; load_map_tensors takes the widths of the models' logits"
            )
        if logits.device != tensors.device:
            raise OptionError(f"{name} is on {logits.device}, the map is on {tensors.device}")
    if base.shape[:-1] != delta.shape[:-1]:
        raise OptionError(
            f"base is {list(base.shape)} and delta {list(delta.shape)}; expected the same "
            "leading dimensions"
        )
