"""Fused logits: `base + alpha * delta[map]`, and what tokens read that the map leaves out."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pm_mined import OptionError

from .map_tensors import ChoiceTensors, Inverse, MapTensors

Unmapped: TypeAlias = Literal["zero", "keep", "mean"]
"""What unmapped tokens read, padding among them. With `read` for `alpha * delta[map]`:

- `zero`: 0, as in the paper. How much that favours them depends on the delta's offset in the row,
  which says nothing: it makes no difference to the delta's own distribution.
- `keep`: `logsumexp(base + read) - logsumexp(base)`, both over the mapped tokens of the row. Then
  the mapped ones have together the probability that they had, and each unmapped one its own: with
  `Z` for the sum of `exp(base)` over the mapped and `e^c Z` after, `exp(base_u + c) / (e^c Z +
  e^c U) = exp(base_u) / (Z + U)`. An offset of the delta makes no difference.
- `mean`: the mean of `read` over the mapped tokens of the row. Nor does it here.
"""

Implementation: TypeAlias = Literal["auto", "torch", "triton"]


def fuse_logits(
    base: Tensor,
    delta: Tensor,
    tensors: MapTensors,
    alpha: float | Tensor = 1.0,
    *,
    unmapped: Unmapped = "zero",
    implementation: Implementation = "auto",
) -> Tensor:
    """Add to the user model's logits those that a delta model has for the mapped tokens.

    `base` is floating [..., num_src_logits], `delta` floating [..., num_dst_logits] with the same
    leading dimensions. `alpha` is a number, or a tensor that broadcasts over these. A source token
    reads the logit of its destination token; where it has several, their mean by weight, or the
    largest. `unmapped` says what the others read: see `Unmapped`.

    Returns `base`'s shape and dtype; sums are made in float32 at least, and rounded once. It is
    differentiable in `base`, `delta` and `alpha`, and the gradients are the same in every run.
    NaN and infinite logits go where adding takes them; an `alpha` on a GPU is not waited for, so
    that a NaN in it comes out as NaN.

    `implementation`: `"torch"` runs everywhere; `implementation_of` says what `"auto"` takes.

    Raises:
        OptionError: a width, shape, dtype or device is not the map's; `alpha` is not finite;
            there is no such policy or implementation.

    Source: Liu et al., Cross-model Control (arXiv 2410.17599); `keep` is our own.

    >>> from pm_mined import Kind, Vocabulary, build_map
    >>> from cmc_runtime.map_tensors import load_map_tensors
    >>> src = Vocabulary.from_tokens([b" cats", b"<s>"], [Kind.TEXT, Kind.SPECIAL])
    >>> dst = Vocabulary.from_tokens([b"a", b" cat"], [Kind.TEXT, Kind.TEXT])
    >>> tensors = load_map_tensors(build_map(src, dst))
    >>> fuse_logits(torch.tensor([1.0, 2.0]), torch.tensor([8.0, 4.0]), tensors, 0.5)
    tensor([3., 2.])
    """
    _check_logits(base, delta, tensors)
    if unmapped not in _FILLS:
        raise OptionError(f"unmapped is {unmapped!r}; expected one of {', '.join(_FILLS)}")
    fuse = _IMPLEMENTATIONS[implementation_of(implementation)]
    return fuse(base, delta, tensors, _per_row(alpha, base), _FILLS[unmapped])


def implementation_of(implementation: Implementation = "auto") -> str:
    """Which implementation `fuse_logits` runs: it is chosen here and nowhere else.

    Raises:
        OptionError: there is no such implementation.
    """
    chosen = "torch" if implementation == "auto" else implementation
    if chosen not in _IMPLEMENTATIONS:
        known = ", ".join(["auto", *_IMPLEMENTATIONS])
        raise OptionError(f"implementation is {implementation!r}; expected one of {known}")
    return chosen


_Fill: TypeAlias = Callable[[Tensor, Tensor, MapTensors], Tensor]


def _keep(base: Tensor, read: Tensor, tensors: MapTensors) -> Tensor:
    """[..., 1]: what makes the probability of all unmapped tokens what it is without the delta."""
    before = base.to(read.dtype).masked_fill(~tensors.mapped, -math.inf)
    had = before.logsumexp(-1, keepdim=True)
    shift = (before + read).logsumexp(-1, keepdim=True) - had
    return shift.masked_fill(had == -math.inf, 0)  # no mapped token is possible: nothing to keep to


def _mean(base: Tensor, read: Tensor, tensors: MapTensors) -> Tensor:  # noqa: ARG001 - as `_keep`
    """[..., 1]: the mean of what the mapped tokens read."""
    return read.sum(-1, keepdim=True) / max(tensors.num_mapped, 1)


_FILLS: dict[str, _Fill | None] = {"zero": None, "keep": _keep, "mean": _mean}


def _fuse_torch(
    base: Tensor, delta: Tensor, tensors: MapTensors, alpha: float | Tensor, fill: _Fill | None
) -> Tensor:
    at_least = torch.promote_types(torch.promote_types(base.dtype, delta.dtype), torch.float32)
    read = _read(delta.to(at_least), tensors, alpha)
    if fill is not None:
        read = torch.where(tensors.mapped, read, fill(base, read, tensors))
    return read.add_(base).to(base.dtype)  # in place: memory is what it costs


_IMPLEMENTATIONS = {"torch": _fuse_torch}


def _read(delta: Tensor, tensors: MapTensors, alpha: float | Tensor) -> Tensor:
    """[..., num_src_logits]: what each source token reads, times alpha; 0 where unmapped.

    The delta is scaled before it is read where that is the same: it is the narrower one.
    """
    choices = tensors.choices
    if choices is None:
        return _gather(delta * alpha, tensors.padded_index, tensors.inverse)
    if choices.weight is not None:
        return torch.where(tensors.mapped, _reduce_choices(delta * alpha, choices), 0)
    return torch.where(tensors.mapped, _reduce_choices(delta, choices), 0) * alpha


def _reduce_choices(delta: Tensor, choices: ChoiceTensors) -> Tensor:
    """[..., num_src_logits]: the weighted sum, or the maximum, of each token's choices."""
    each = _gather(delta, choices.dst_id.long(), choices.inverse)
    if choices.weight is not None:
        each = each * choices.weight
    reduced = torch.segment_reduce(
        _columns(each),
        "max" if choices.weight is None else "sum",
        offsets=choices.offsets,
        unsafe=True,  # `load_map_tensors` has checked what would be checked on every call
    )
    return reduced.t().reshape(*delta.shape[:-1], len(reduced))


def _gather(logits: Tensor, index: Tensor, inverse: Inverse) -> Tensor:
    read: Tensor = _Gather.apply(logits, index, inverse)  # type: ignore[no-untyped-call]
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
