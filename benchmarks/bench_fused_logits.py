"""The fused-logit kernels on a GPU: beside eager torch, torch.compile, and the speed of a copy.

    python benchmarks/bench_fused_logits.py [--rows N...] [--dtypes NAME...] [--json]
    TRITON_INTERPRET=1 python benchmarks/bench_fused_logits.py --gate-only --rows 1 3 --columns 1000

Nothing is timed before the kernels have given the answers of their plain twins on the same data.
A time is the median of CUDA events, the cache emptied before each call. `of copy` is the bytes
that must be moved (each input read once, each result written once) per second of that time,
divided by what copying 1 GiB on the device reaches in the same run. With `--gate-only` the answers
are checked and nothing is timed: with TRITON_INTERPRET=1 that needs no GPU.
"""

import argparse
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from measure import Report, Spread, command_line
from torch import Tensor

from pm_mined.kernels import fused_logits_reference as twin

ALPHA = 0.7
TEMPERATURE = 0.8
SEED = 20_241
COPIED = 2**30  # bytes
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Case(NamedTuple):
    """Random logits and a random one-token map with a tenth unmapped."""

    base: Tensor  # [rows, columns]
    delta: Tensor  # [rows, num_dst]
    dst_of: Tensor  # int32 [columns], the map
    offsets: Tensor  # int32 [num_dst + 1]
    src_id: Tensor  # int32 [mapped]
    dst_id: Tensor  # int64 [mapped], what each of `src_id` reads


class Workload(NamedTuple):
    """One operation: the kernel, its twin, plain torch, and the bytes to move."""

    kernel: Callable[[], Tensor]
    twin: Callable[[], Tensor]
    eager: Callable[[], Tensor]
    bytes: int


def make_case(rows: int, columns: int, num_dst: int, dtype: torch.dtype, device: str) -> Case:
    """The same for the same arguments."""
    rng = torch.Generator().manual_seed(0)
    base = 4 * torch.randn(rows, columns, generator=rng)
    delta = 2 * torch.randn(rows, num_dst, generator=rng)
    index = torch.randint(0, num_dst, (columns,), generator=rng)
    index[torch.rand(columns, generator=rng) < 0.1] = -1
    src_id = index.argsort(stable=True)[int((index < 0).sum()) :]
    dst_id = index[src_id]
    offsets = torch.searchsorted(dst_id, torch.arange(num_dst + 1))
    return Case(
        base.to(device, dtype),
        delta.to(device, dtype),
        index.to(device, torch.int32),
        offsets.to(device, torch.int32),
        src_id.to(device, torch.int32),
        dst_id.to(device),
    )


def bytes_of(*tensors: Tensor) -> int:
    """The size of the tensors, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def make_workloads(case: Case) -> dict[str, Workload]:
    """The four operations on one case."""
    from pm_mined.kernels import fused_logits as kernel

    base, delta, index, offsets, src_id, dst_id = case
    fused = base, delta, index, ALPHA
    inverse = base, offsets, src_id, ALPHA
    draw: dict[str, Any] = {"temperature": TEMPERATURE, "seed": SEED}
    mapped, ids = index >= 0, index.clamp(min=0).long()

    def add() -> Tensor:
        return base + ALPHA * torch.where(mapped, delta[:, ids], 0)

    def sample() -> Tensor:  # Gumbel-max as a race: torch.multinomial is slower
        weights = torch.softmax(add().float() / TEMPERATURE, dim=-1)
        return (weights / torch.empty_like(weights).exponential_()).argmax(-1)

    def sums() -> Tensor:
        zeros = base.new_zeros(len(base), len(offsets) - 1, dtype=torch.float32)
        return zeros.index_add_(1, dst_id, base[:, src_id].float(), alpha=ALPHA)

    read = bytes_of(base, delta, index)
    return {
        "gather_add": Workload(
            lambda: kernel.gather_add(*fused),
            lambda: twin.gather_add(*fused),
            add,
            read + bytes_of(base),
        ),
        "argmax": Workload(
            lambda: kernel.gather_add_argmax(*fused),
            lambda: twin.gather_add_argmax(*fused),
            lambda: add().argmax(-1),
            read,
        ),
        "sample": Workload(
            lambda: kernel.gather_add_sample(*fused, **draw),
            lambda: twin.gather_add_sample(*fused, **draw),
            sample,
            read,
        ),
        "scatter_sum": Workload(
            lambda: kernel.scatter_sum(*inverse),
            lambda: twin.scatter_sum(*inverse),
            sums,
            bytes_of(base, offsets, src_id) + 4 * delta.numel(),
        ),
    }


def check(name: str, workload: Workload, what: str) -> None:
    """The correctness gate: exit 1 unless kernel and twin agree to a rounding."""
    found, expected = workload.kernel(), workload.twin()
    eps = torch.finfo(found.dtype).eps if found.is_floating_point() else 0
    if not torch.allclose(found, expected, rtol=eps, atol=32 * eps):
        rows = (found - expected).abs().reshape(len(found), -1).amax(1)
        sys.exit(f"{what}, {name}: wrong answer in row {int(rows.argmax())}, so no times")


def seconds_of(run: Callable[[], object]) -> Spread:
    """Seconds by CUDA events, the cache emptied before each run."""
    from triton.testing import do_bench

    return Spread(*do_bench(run, quantiles=[0.5, 0.2, 0.8])).scaled(1e-3)


def copy_speed() -> float:
    """Bytes per second, read and written, of a large copy on the device."""
    source = torch.empty(COPIED, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * COPIED / seconds_of(lambda: target.copy_(source)).median


def measure(workload: Workload, copying: float) -> dict[str, Any]:
    """The times of one operation, and speeds from them."""
    torch.compiler.reset()  # else the shapes seen before count against this one
    seconds = {
        "ours": seconds_of(workload.kernel),
        "eager": seconds_of(workload.eager),
        "compiled": seconds_of(torch.compile(workload.eager, dynamic=False)),
    }
    ours = seconds["ours"].median
    return {
        "seconds": seconds,
        "share_of_copy": workload.bytes / ours / copying,
        "over_eager": seconds["eager"].median / ours,
        "over_compiled": seconds["compiled"].median / ours,
    }


def table_row(figures: dict[str, Any]) -> list[str]:
    """One operation of one case, for people."""
    return [
        f"{figures['operation']}, {figures['dtype']}, {figures['rows']} rows",
        *(f"{one.median * 1e6:.1f}" for one in figures["seconds"].values()),
        f"{figures['share_of_copy']:.0%}",
        f"{figures['over_eager']:.1f} x",
        f"{figures['over_compiled']:.1f} x",
    ]


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    parser.add_argument("--columns", type=int, default=151_936, help="logits of the large model")
    parser.add_argument("--num-dst", type=int, default=32_000, help="logits of the delta model")
    parser.add_argument("--gate-only", action="store_true", help="check the answers, time nothing")
    return parser.parse_args()


def find_device(*, gate_only: bool) -> str:
    """The device to run on; exit 1 with one line if there is none."""
    if find_spec("triton") is None:
        sys.exit("bench_fused_logits.py needs Triton: pip install triton")
    if gate_only and os.environ.get("TRITON_INTERPRET") == "1":
        return "cpu"
    if not torch.cuda.is_available():
        sys.exit(
            "bench_fused_logits.py needs an NVIDIA GPU, and there is none;"
            " TRITON_INTERPRET=1 with --gate-only checks the answers without one"
        )
    return "cuda"


def main() -> None:
    """Check and measure every case; print a table, then one JSON line."""
    options = parse_options()
    device = find_device(gate_only=options.gate_only)
    packages = ("pm-mined", "torch", "triton")
    report = Report("fused_logits", json_only=options.json, packages=packages)
    timing = not options.gate_only
    if timing:
        copying = copy_speed()
        report.document |= {"gpu": torch.cuda.get_device_name(), "copy_bytes_per_second": copying}
        report.line(f"{report.document['gpu']}, copying at {copying / 1e9:,.0f} GB/s\n")
    results = []
    for dtype in options.dtypes:
        for rows in options.rows:
            case = make_case(rows, options.columns, options.num_dst, DTYPES[dtype], device)
            for name, workload in make_workloads(case).items():
                check(name, workload, f"{dtype}, {rows} rows")
                figures = {"operation": name, "dtype": dtype, "rows": rows}
                results.append(figures | (measure(workload, copying) if timing else {}))
    report.document |= {"columns": options.columns, "num_dst": options.num_dst, "results": results}
    report.line(f"{len(results)} answers agree with the twins\n")
    if timing:
        header = ["us", "ours", "eager", "compiled", "of copy", "over eager", "over compiled"]
        report.table(header, [table_row(figures) for figures in results])
    report.finish()


if __name__ == "__main__":
    main()
