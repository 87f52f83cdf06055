"""Triton kernels for fused logits: gather + scale + add, argmax, sampling, and the backward pass.

fused_logits_reference.py defines arguments and results. The kernels need a GPU, or
TRITON_INTERPRET=1 set before Triton is imported. They are invisible to autograd: `scatter_sum` is
the gradient for the delta; the base's is the gradient of the fused logits itself.

Several programs share a row, so that even one row fills a GPU; each walks over blocks of columns.
For the argmax and the sample each program keeps its best column, packed with its value into one
integer, and a second kernel takes the best of each row: fused logits are never written. Each pass
is O(rows * columns); the backward pass is O(rows * mapped columns).
Products are not contracted with sums (`enable_fp_fusion`), so that sums equal the twin's bit for
bit and ties are the same ties.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # columns that a program has in hand at once
PROGRAMS = 1024  # to fill a GPU of some 130 multiprocessors with several each
DESTINATIONS = 64  # columns of the delta that a program of the backward pass sums up
GROUP = 8  # columns of the gradient that it reads at once for each of them
LONG = 64  # columns of the gradient that one of them sums up beside the others

LOWEST = tl.constexpr(-(2**63))  # below every packed value


def gather_add(
    base: Tensor,
    delta: Tensor,
    index: Tensor,
    alpha: float,
    fill: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`base + alpha * delta[:, index]`: see `fused_logits_reference.gather_add`.

    Raises:
        ValueError: shapes, dtypes or strides are not as the twin says; so for all functions here.
    """
    _check(base, delta, index, fill)
    out = torch.empty_like(base, memory_format=torch.contiguous_format) if out is None else out
    if out.shape != base.shape or out.dtype != base.dtype or out.device != base.device:
        raise ValueError("out must have the shape, dtype and device of base")
    if not has_dense_rows(out):
        raise ValueError("out must have dense rows")
    rows, columns = base.shape
    splits = programs_for_a_row(rows, columns)
    if base.numel():
        with torch.cuda.device_of(base):
            _gather_add_kernel[(rows * splits,)](
                *(base, base.stride(0), delta, delta.stride(0), index, fill, float(alpha)),
                *(out, out.stride(0), columns, splits, BLOCK),
                enable_fp_fusion=False,
            )
    return out


def gather_add_argmax(
    base: Tensor, delta: Tensor, index: Tensor, alpha: float, fill: Tensor | None = None
) -> Tensor:
    """The column of the largest fused logit: see `fused_logits_reference.gather_add_argmax`."""
    return _best_column(base, delta, index, alpha, fill, None, 0)


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
    """A column drawn from the softmax: see `fused_logits_reference.gather_add_sample`."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be finite and at least 0, not {temperature}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2**63 - 1, not {seed}")
    return _best_column(base, delta, index, alpha, fill, float(temperature), seed)


def scatter_sum(
    grad: Tensor,
    offsets: Tensor,
    src_id: Tensor,
    alpha: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The gradient for the delta, without atomics: see `fused_logits_reference.scatter_sum`."""
    if grad.ndim != 2 or not has_dense_rows(grad):
        raise ValueError("grad must be [rows, columns] with dense rows")
    for name, ids in (("offsets", offsets), ("src_id", src_id)):
        _check_ids(name, ids, grad)
    rows, num_dst = len(grad), len(offsets) - 1
    out = grad.new_empty(rows, num_dst, dtype=dtype)
    blocks = triton.cdiv(num_dst, DESTINATIONS)
    if out.numel():
        with torch.cuda.device_of(grad):
            _scatter_sum_kernel[(rows * blocks,)](
                *(grad, grad.stride(0), offsets, src_id, float(alpha)),
                *(out, num_dst, blocks, DESTINATIONS, GROUP, LONG, BLOCK),
                enable_fp_fusion=False,
            )
    return out


def _best_column(
    base: Tensor,
    delta: Tensor,
    index: Tensor,
    alpha: float,
    fill: Tensor | None,
    temperature: float | None,
    seed: int,
) -> Tensor:
    _check(base, delta, index, fill)
    rows, columns = base.shape
    if columns == 0:
        raise ValueError("base has no columns to choose from")
    splits = programs_for_a_row(rows, columns)
    best = base.new_empty(rows, splits, dtype=torch.int64)
    chosen = base.new_empty(rows, dtype=torch.int64)
    if rows:
        with torch.cuda.device_of(base):
            _best_kernel[(rows * splits,)](
                *(base, base.stride(0), delta, delta.stride(0), index, fill, float(alpha)),
                *(temperature, seed, best, columns, splits, BLOCK),
                enable_fp_fusion=False,
            )
            _choose_kernel[(rows,)](best, chosen, splits, triton.next_power_of_2(splits))
    return chosen


def programs_for_a_row(rows: int, columns: int) -> int:
    """The number of programs that share a row, so that even one row fills a GPU."""
    return int(min(triton.cdiv(columns, BLOCK), triton.cdiv(PROGRAMS, max(rows, 1))))


def _check(base: Tensor, delta: Tensor, index: Tensor, fill: Tensor | None) -> None:
    """Refuse what would make a kernel read elsewhere; the values of `index` are its maker's."""
    if base.ndim != 2 or not has_dense_rows(base):
        raise ValueError("base must be [rows, columns] with dense rows")
    if delta.ndim != 2 or len(delta) != len(base) or not has_dense_rows(delta):
        raise ValueError("delta must have the rows of base, and they must be dense")
    _check_ids("index", index, base)
    if len(index) != base.shape[1]:
        raise ValueError(f"index has {len(index)} columns, base {base.shape[1]}")
    if fill is not None and (fill.shape != (len(base),) or not fill.is_contiguous()):
        raise ValueError("fill must have one value for each row of base")
    if delta.device != base.device or (fill is not None and fill.device != base.device):
        raise ValueError("base, delta and fill must be on one device")


def _check_ids(name: str, ids: Tensor, logits: Tensor) -> None:
    if ids.ndim != 1 or ids.dtype != torch.int32 or not ids.is_contiguous():
        raise ValueError(f"{name} must be a dense int32 vector")
    if ids.device != logits.device:
        raise ValueError(f"{name} is on {ids.device}, the logits are on {logits.device}")


def has_dense_rows(matrix: Tensor) -> bool:
    """True if the columns of a row lie side by side."""
    return matrix.stride(1) == 1 or matrix.shape[1] <= 1


@triton.jit
def _fused(base, delta, index, unmapped, alpha, columns, inside):
    """Fused logits of some columns of one row, float32 [BLOCK]."""
    ids = tl.load(index + columns, mask=inside, other=-1)
    mapped = tl.load(delta + ids, mask=ids >= 0, other=0.0).to(tl.float32)
    logits = tl.load(base + columns, mask=inside, other=0.0).to(tl.float32)
    return logits + tl.where(ids >= 0, alpha * mapped, unmapped)


@triton.jit
def _unmapped(fill, row):
    """The value that the unmapped columns of the row add."""
    if fill is None:
        return 0.0
    else:  # noqa: RET505 - Triton has no return before the end of a block
        return tl.load(fill + row).to(tl.float32)


@triton.jit
def _gather_add_kernel(
    base,  # [rows, columns]
    base_stride,
    delta,  # [rows, num_dst]
    delta_stride,
    index,  # [columns]
    fill,  # [rows] or None
    alpha,
    out,  # [rows, columns]
    out_stride,
    num_columns,
    splits,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    unmapped = _unmapped(fill, row)
    base += row * base_stride
    delta += row * delta_stride
    out += row * out_stride
    for first in range(split * BLOCK, num_columns, splits * BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < num_columns
        fused = _fused(base, delta, index, unmapped, alpha, columns, inside)
        tl.store(out + columns, fused.to(out.dtype.element_ty), mask=inside)


@triton.jit
def packed(value, column):
    """Value and column as an int64: the larger value is larger, NaN largest, then lower columns."""
    value = tl.where(value == 0, 0.0, value)  # -0 ties with 0
    bits = value.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = tl.where(value == value, key, 0x7FFFFFFF)
    return (key.to(tl.int64) << 32) | (column ^ 0x7FFFFFFF).to(tl.int64)


@triton.jit
def _gumbel(seed, row, first, BLOCK: tl.constexpr):
    """Noise of the columns from `first`, a multiple of 4, float32 [BLOCK]: see the twin."""
    counter = first // 4 + tl.arange(0, BLOCK // 4)
    zero = counter * 0
    a, b, c, d = tl.philox(seed, counter, zero + row.to(tl.int32), zero, zero)
    words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    uniform = tl.minimum((words.to(tl.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    # log1p(-uniform), as Kahan has it: the rounding of `rest` is undone by the quotient.
    rest = 1.0 - uniform
    log1p = tl.where(rest == 1.0, -uniform, tl.log(rest) * uniform / tl.maximum(1.0 - rest, 1e-9))
    return -tl.log(-log1p)


@triton.jit(do_not_specialize=["seed"])
def _best_kernel(
    base,  # [rows, columns]
    base_stride,
    delta,  # [rows, num_dst]
    delta_stride,
    index,  # [columns]
    fill,  # [rows] or None
    alpha,
    temperature,  # None: without noise
    seed,
    best,  # int64 [rows, splits], packed
    num_columns,
    splits,
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    unmapped = _unmapped(fill, row)
    base += row * base_stride
    delta += row * delta_stride
    largest = tl.full([BLOCK], LOWEST, tl.int64)
    for first in range(split * BLOCK, num_columns, splits * BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < num_columns
        value = _fused(base, delta, index, unmapped, alpha, columns, inside)
        if temperature is not None:
            value += temperature * _gumbel(seed, row, first, BLOCK)
        largest = tl.maximum(largest, tl.where(inside, packed(value, columns), LOWEST))
    tl.store(best + tl.program_id(0), tl.max(largest, 0))


@triton.jit
def _choose_kernel(
    best,  # int64 [rows, splits], packed
    chosen,  # int64 [rows]
    splits,
    SPLITS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    largest = tl.max(tl.load(best + row * splits + split, mask=split < splits, other=LOWEST), 0)
    tl.store(chosen + row, (largest & 0x7FFFFFFF) ^ 0x7FFFFFFF)


@triton.jit
def _read(grad, src_id, entries, inside):
    """The gradients of some entries of the inverse map, float32."""
    columns = tl.load(src_id + entries, mask=inside, other=0)
    return tl.load(grad + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _scatter_sum_kernel(
    grad,  # [rows, num_src]
    grad_stride,
    offsets,  # [num_dst + 1]
    src_id,  # [mapped]
    alpha,
    out,  # [rows, num_dst]
    num_dst,
    blocks,
    DESTINATIONS: tl.constexpr,
    GROUP: tl.constexpr,
    LONG: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Programs of one row are neighbours: its gradient stays in the cache.
    row = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * DESTINATIONS
    grad += row * grad_stride
    dst = first + tl.arange(0, DESTINATIONS)
    inside = dst < num_dst
    start = tl.load(offsets + dst, mask=inside, other=0)
    stop = tl.load(offsets + dst + 1, mask=inside, other=0)
    longest = tl.max(stop - start, 0)
    tile = tl.zeros([DESTINATIONS, GROUP], tl.float32)
    for done in range(0, tl.minimum(longest, LONG), GROUP):
        entries = start[:, None] + done + tl.arange(0, GROUP)[None, :]
        tile += _read(grad, src_id, entries, entries < stop[:, None])
    sums = tl.sum(tile, 1)
    if longest > LONG:
        # One after another, each by the whole program: there are few, but one may have thousands.
        for i in range(first, tl.minimum(first + DESTINATIONS, num_dst)):
            last = tl.load(offsets + i + 1)
            rest = tl.zeros([BLOCK], tl.float32)
            for entry in range(tl.load(offsets + i) + LONG, last, BLOCK):
                more = entry + tl.arange(0, BLOCK)
                rest += _read(grad, src_id, more, more < last)
            sums += tl.where(dst == i, tl.sum(rest, 0), 0.0)
    sums = (alpha * sums).to(out.dtype.element_ty)
    tl.store(out + row * num_dst + dst, sums, mask=inside)
