"""Triton kernels for the cross-entropy of logits that are turned into its gradient in place.

cross_entropy_torch.py defines the results. The kernels need a GPU, or TRITON_INTERPRET=1 set before
Triton is imported. All sums are in float32.

The logits are read once for the losses and, for the gradient, read and written once more; torch's
six operations of the twin pass over them eight times. Several programs share a row, as in
fused_logits.py; the second kernel joins their results, in the same order in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fused_logits import BLOCK, LOWEST, has_dense_rows, packed, programs_for_a_row


def cross_entropy_(
    logits: Tensor, targets: Tensor, *, gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """Losses and likeliest columns: see `cross_entropy_torch.cross_entropy_`.

    Losses are float32.

    Raises:
        ValueError: shapes, dtypes, strides or devices are not as the twin says.
    """
    _check(logits, targets)
    rows, columns = logits.shape
    splits = programs_for_a_row(rows, columns)
    largest, total = logits.new_empty(2, rows, splits, dtype=torch.float32)
    best = targets.new_empty(rows, splits)
    losses, chosen = logits.new_empty(rows, dtype=torch.float32), torch.empty_like(targets)
    if rows:
        with torch.cuda.device_of(logits):
            given = logits, logits.stride(0), targets, largest, total, best, losses
            _statistics_kernel[(rows * splits,)](*given, columns, splits, BLOCK)
            _finish_kernel[(rows * (splits if gradient else 1),)](
                *(*given, chosen, columns, splits, triton.next_power_of_2(splits), BLOCK, gradient)
            )
    return losses, chosen


def _check(logits: Tensor, targets: Tensor) -> None:
    if logits.ndim != 2 or not logits.shape[1] or not has_dense_rows(logits):
        raise ValueError("logits must be [rows, columns] with dense rows, and some columns")
    if len(logits) > 1 and logits.stride(0) < logits.shape[1]:
        raise ValueError("the rows of logits must not overlap: they are written")
    if not logits.is_floating_point() or logits.dtype == torch.float64:
        raise ValueError(f"logits must be of a floating dtype up to float32, not {logits.dtype}")
    if targets.shape != logits.shape[:1] or targets.dtype != torch.int64:
        raise ValueError("targets must be int64 with one for each row")
    if not targets.is_contiguous() or targets.device != logits.device:
        raise ValueError("targets must be dense, on the device of the logits")


@triton.jit
def _exp_below(logits, largest):
    """exp(logits - largest); 0 where all are -inf."""
    return tl.exp(logits - tl.where(largest == float("-inf"), 0.0, largest))


@triton.jit
def _statistics_kernel(
    logits,  # [rows, columns]
    stride,
    targets,  # int64 [rows]
    largest,  # float32 [rows, splits]: the largest logit that a program saw
    total,  # float32 [rows, splits]: the sum of exp(logit - largest)
    best,  # int64 [rows, splits]: the largest, packed with its column
    losses,  # float32 [rows]: here, the logit of the target
    num_columns,
    splits,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    logits += row * stride
    if split == 0:
        tl.store(losses + row, tl.load(logits + tl.load(targets + row)).to(tl.float32))
    most = float("-inf")
    summed = 0.0
    found = tl.full([BLOCK], LOWEST, tl.int64)
    for first in range(split * BLOCK, num_columns, splits * BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < num_columns
        some = tl.load(logits + columns, mask=inside, other=float("-inf")).to(tl.float32)
        before = most
        most = tl.maximum(most, tl.max(some, 0))
        summed = summed * _exp_below(before, most) + tl.sum(_exp_below(some, most), 0)
        found = tl.maximum(found, tl.where(inside, packed(some, columns), LOWEST))
    tl.store(largest + tl.program_id(0), most)
    tl.store(total + tl.program_id(0), summed)
    tl.store(best + tl.program_id(0), tl.max(found, 0))


@triton.jit
def _finish_kernel(
    logits,  # [rows, columns]: becomes the gradient, if it is wanted
    stride,
    targets,  # as above
    largest,
    total,
    best,
    losses,  # float32 [rows]: logits of targets, which become the losses
    chosen,  # int64 [rows]
    num_columns,
    splits,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    row = (tl.program_id(0) // (splits if GRADIENT else 1)).to(tl.int64)
    split = tl.program_id(0) % splits if GRADIENT else 0
    part = tl.arange(0, SPLITS)
    parts = row * splits + part
    each = tl.load(largest + parts, mask=part < splits, other=float("-inf"))
    most = tl.max(each, 0)
    sums = tl.load(total + parts, mask=part < splits, other=0.0) * _exp_below(each, most)
    summed = tl.sum(sums, 0)
    if split == 0:
        target_logit = tl.load(losses + row)
        tl.store(losses + row, most - target_logit + tl.log(summed))
        highest = tl.max(tl.load(best + parts, mask=part < splits, other=LOWEST), 0)
        tl.store(chosen + row, (highest & 0x7FFFFFFF) ^ 0x7FFFFFFF)
    if GRADIENT:
        logits += row * stride
        target = tl.load(targets + row)
        for first in range(split * BLOCK, num_columns, splits * BLOCK):
            columns = first + tl.arange(0, BLOCK)
            inside = columns < num_columns
            some = tl.load(logits + columns, mask=inside, other=float("-inf")).to(tl.float32)
            share = _exp_below(some, most) / summed - tl.where(columns == target, 1.0, 0.0)
            tl.store(logits + columns, share.to(logits.dtype.element_ty), mask=inside)
