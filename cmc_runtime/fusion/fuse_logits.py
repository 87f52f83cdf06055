"""Fused logits: `base + alpha * delta[map]`."""

import torch
from torch import Tensor

from cmc_runtime.maps.tensors import MapTensors

from .arguments import CheckedFusion, Implementation, Unmapped, checked_fusion
from .gather import gather_delta


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
    gets the logit of its destination token; where it has several, their mean by weight, or the
    largest. `unmapped` says what the others get: see `Unmapped`.

    Returns `base`'s shape and dtype; sums are made in float32 at least, and rounded once. It is
    differentiable in `base`, `delta` and `alpha`, and the gradients are the same in every run.
    NaN and infinite logits go where adding takes them; an `alpha` on a GPU is not waited for, so
    that a NaN in it comes out as NaN.

    `implementation`: `"torch"` runs everywhere, `"triton"` makes one pass over the base logits on
    a GPU; `implementation_of` says what `"auto"` takes.

    Raises:
        OptionError: a width, shape, dtype or device is not the map's; `alpha` is not finite;
            there is no such policy or implementation, or it cannot run here.

    Source: Liu et al., Cross-model Control (arXiv 2410.17599); `keep` is our own.

    >>> from pm_mined import Kind, Vocabulary, build_map
    >>> from cmc_runtime.maps.tensors import load_map_tensors
    >>> src = Vocabulary.from_tokens([b" cats", b"<s>"], [Kind.TEXT, Kind.SPECIAL])
    >>> dst = Vocabulary.from_tokens([b"a", b" cat"], [Kind.TEXT, Kind.TEXT])
    >>> tensors = load_map_tensors(build_map(src, dst))
    >>> fuse_logits(torch.tensor([1.0, 2.0]), torch.tensor([8.0, 4.0]), tensors, 0.5)
    tensor([3., 2.])
    """
    fusion = checked_fusion(base, delta, tensors, alpha, unmapped, implementation)
    if fusion.implementation == "torch":
        return fuse_unrounded(fusion).to(base.dtype)
    from .triton import fuse_triton

    return fuse_triton(fusion)


def fuse_unrounded(fusion: CheckedFusion) -> Tensor:
    """[..., num_src_logits] by torch alone, in float32 at least: not yet in the base's dtype."""
    base, delta, tensors = fusion.base, fusion.delta, fusion.tensors
    at_least = torch.promote_types(torch.promote_types(base.dtype, delta.dtype), torch.float32)
    read = gather_delta(delta.to(at_least), tensors, fusion.alpha)
    if fusion.fill is not None:
        read = torch.where(tensors.mapped, read, fusion.fill(base, read, tensors))
    return read.add_(base)  # in place: memory is what it costs
