"""Plain torch twins of the fused-logit kernels: the oracle for tests, on any device.

Each has the signature and the answers of its namesake in fused_logits.py, and keeps the whole
[rows, num_src] matrix that the kernel avoids.

>>> base, delta = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
>>> index = torch.tensor([1, 0, -1], dtype=torch.int32)
>>> gather_add(base, delta, index, 0.5)
tensor([[3., 2., 0.]])
>>> gather_add_argmax(base, delta, index, 0.5)
tensor([0])
"""

import torch
from torch import Tensor

from .gumbel import gumbel


def gather_add(
    base: Tensor,
    delta: Tensor,
    index: Tensor,
    alpha: float,
    fill: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`base + alpha * delta[:, index]`, in float32, rounded once to the dtype of `base`.

    Args:
        base: [rows, num_src] logits in float32, bfloat16 or float16.
        delta: [rows, num_dst] logits in one of these.
        index: int32 [num_src], the column of `delta` that each column maps to; -1 is unmapped.
        alpha: strength of the delta.
        fill: [rows], what unmapped columns add to the base, `alpha` not applied; without it, 0.
        out: [rows, num_src] in the dtype of `base`, may be `base` itself.

    Returns:
        `out`, or a new tensor in its place.
    """
    fused = _fused(base, delta, index, alpha, fill).to(base.dtype)
    return fused if out is None else out.copy_(fused)


def gather_add_argmax(
    base: Tensor, delta: Tensor, index: Tensor, alpha: float, fill: Tensor | None = None
) -> Tensor:
    """The column of the largest fused logit of each row, before it is rounded to `base`'s dtype.

    Ties go to the lowest column. NaN counts as larger than everything, as in `torch.argmax`: the
    first NaN wins. The arguments are those of `gather_add`.

    Returns:
        int64 [rows].
    """
    return _fused(base, delta, index, alpha, fill).argmax(1)


def gather_add_sample(
    base: Tensor,
    delta: Tensor,
    index: Tensor,
    alpha: float,
    fill: Tensor | None = None,
    *,
    temperature: float,
    seed: int,
) -> Tensor:
    """One column of each row, drawn from `softmax(fused / temperature)`.

    The Gumbel-max trick: the largest `fused + temperature * noise` wins, and its noise depends
    on seed, row and column only. So the same seed draws the same columns; draw each step with
    another seed. Temperature 0 is `gather_add_argmax`; NaN and ties are settled as there.

    Args:
        base: [rows, num_src]; this and what follows it as for `gather_add`.
        delta: [rows, num_dst].
        index: int32 [num_src].
        alpha: strength of the delta.
        fill: [rows] or None.
        temperature: at least 0, finite.
        seed: from 0 to 2**63 - 1.

    Returns:
        int64 [rows].
    """
    fused = _fused(base, delta, index, alpha, fill)
    noise = gumbel(len(fused), fused.shape[1], seed, fused.device)
    return (fused + temperature * noise).argmax(1)


def scatter_sum(
    grad: Tensor,
    offsets: Tensor,
    src_id: Tensor,
    alpha: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The gradient of `gather_add` for `delta`: for each of its columns, that of all mapped to it.

    Column d is `alpha` times the sum over `src_id[offsets[d] : offsets[d + 1]]` of `grad`, added
    up in float32. The kernel adds in an order that never changes; so does this twin on a CPU.

    Args:
        grad: [rows, num_src], the gradient of the fused logits.
        offsets: int32 [num_dst + 1], rising from 0 to the length of `src_id`.
        src_id: int32, the columns of `grad` by the column of the delta that they map to.
        alpha: strength of the delta.
        dtype: of the result.

    Returns:
        [rows, num_dst] in `dtype`.
    """
    counts = offsets.diff()
    dst_id = torch.arange(len(counts), device=grad.device).repeat_interleave(counts)
    sums = torch.zeros(len(grad), len(counts), device=grad.device)
    return (alpha * sums.index_add_(1, dst_id, grad[:, src_id].float())).to(dtype)


def _fused(base: Tensor, delta: Tensor, index: Tensor, alpha: float, fill: Tensor | None) -> Tensor:
    mapped = alpha * delta.float()[:, index.clamp(min=0).long()]
    unmapped = base.new_zeros(len(base)) if fill is None else fill
    return base.float() + torch.where(index < 0, unmapped.float()[:, None], mapped)
