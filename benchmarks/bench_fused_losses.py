"""The fused cross-entropy beside eager autograd: time, and peak memory for logits.

    python benchmarks/bench_fused_losses.py [--cases NAME...] [--tokens N] [--dtype NAME] [--json]

Loss and both gradients, of 512 tokens. Nothing is timed before they were found to be those of
eager autograd in float32. `products` are the four matrix products that have to be made (logits of
base and delta, gradients of the delta's states and head), each at once and into memory that is
there: what is left of the time when all else is free. On a CPU, memory is the peak of a process
that does it once, less that of one that holds inputs and gradients only; on a GPU, the allocator's.
There, torch.compile and, for the identity and if installed, Liger-Kernel are measured as well: to
Liger-Kernel both models are one, whose states and weights are those of both side by side.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from measure import Report, Spread, command_line, run_process, seconds_of
from torch import Tensor
from torch.nn import functional

from cmc_runtime.fusion.losses import fused_cross_entropy
from cmc_runtime.maps.tensors import MapTensors, identity_map_tensors, load_map_tensors
from cmc_runtime.models.output_head import OutputHead
from pm_mined import build_map

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-5, "bf16": 0.02}  # of the norm of the gradients' error to their own
PACKAGES = ("pm-mined", "torch")
HOLD = "hold"  # the process that only holds what all have


class Shape(NamedTuple):
    """Widths of logits and hidden states; a map from one vocabulary to the other, or identity.

    Of the identity, the tokens `ends` map to token 0.
    """

    base_width: int
    delta_width: int
    base_hidden: int
    delta_hidden: int
    vocabularies: tuple[str, str] | None = None
    ends: tuple[int, ...] = ()


SHAPES = {
    "49k": Shape(49_152, 49_152, 576, 576),
    "49k-ends": Shape(49_152, 49_152, 576, 576, ends=(1, 2)),
    "152k": Shape(151_936, 151_936, 640, 288),
    "262k": Shape(262_144, 262_144, 640, 288),
    "llama3-qwen3": Shape(128_256, 151_936, 640, 288, ("llama3", "qwen3")),
    "qwen3-llama3": Shape(151_936, 128_256, 640, 288, ("qwen3", "llama3")),
}


class Case(NamedTuple):
    """Random hidden states, weights and targets."""

    base_hidden: Tensor
    base_weight: Tensor
    delta_hidden: Tensor
    delta_weight: Tensor
    targets: Tensor
    tensors: MapTensors


Workload = Callable[[], Tensor]


def make_case(shape: Shape, token_map: Path | None, tokens: int, dtype: str, device: str) -> Case:
    """The same for the same arguments."""
    random = torch.Generator().manual_seed(0)

    def normal(rows: int, columns: int, scale: float = 1.0) -> Tensor:
        numbers = torch.randn(rows, columns, generator=random).mul_(scale)
        return numbers.to(device, DTYPES[dtype])

    if token_map is None:
        ends = dict.fromkeys(shape.ends, 0)
        widths = shape.base_width, shape.delta_width
        tensors = identity_map_tensors(*widths, device=device, ends=ends)
    else:
        tensors = load_map_tensors(
            token_map,
            device=device,
            num_src_logits=shape.base_width,
            num_dst_logits=shape.delta_width,
        )
    return Case(
        normal(tokens, shape.base_hidden),
        normal(shape.base_width, shape.base_hidden, 0.1),
        normal(tokens, shape.delta_hidden).requires_grad_(),
        normal(shape.delta_width, shape.delta_hidden, 0.1).requires_grad_(),
        torch.randint(shape.base_width, (tokens,), generator=random).to(device),
        tensors,
    )


def is_plain_identity(case: Case) -> bool:
    """True if eager torch needs no map."""
    return case.tensors.is_identity and case.tensors.moved is None


def eager_loss(case: Case) -> Tensor:
    """The loss in plain torch."""
    base = functional.linear(case.base_hidden, case.base_weight)
    delta = functional.linear(case.delta_hidden, case.delta_weight)
    if not is_plain_identity(case):
        read = delta[:, case.tensors.index.clamp(min=0)]
        delta = torch.where(case.tensors.mapped, read, 0)
    return functional.cross_entropy((base + delta).float(), case.targets)


def fused_loss(case: Case) -> Tensor:
    """The loss of cmc_runtime."""
    base, delta = OutputHead(case.base_weight), OutputHead(case.delta_weight)
    states = case.base_hidden, base, case.delta_hidden, delta
    return fused_cross_entropy(*states, case.targets, case.tensors)


def backward(case: Case, loss_of: Callable[[Case], Tensor]) -> Workload:
    """Loss and gradients."""

    def run() -> Tensor:
        case.delta_hidden.grad = case.delta_weight.grad = None
        loss = loss_of(case)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return run


def products(case: Case) -> Workload:
    """The four matrix products."""
    base_hidden, base_weight, hidden, weight = (one.detach() for one in case[:4])
    of_base = base_hidden.new_empty(len(hidden), len(base_weight))
    of_delta = hidden.new_empty(len(hidden), len(weight))
    of_hidden, of_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def run() -> Tensor:
        torch.mm(base_hidden, base_weight.t(), out=of_base)
        torch.mm(hidden, weight.t(), out=of_delta)
        torch.mm(of_delta, weight, out=of_hidden)
        return torch.mm(of_delta.t(), hidden, out=of_weight)

    return run


def liger(case: Case) -> Workload:
    """Both models as one with the states of both side by side."""
    loss = import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss()

    def loss_of(case: Case) -> Tensor:
        hidden = torch.cat([case.base_hidden, case.delta_hidden], -1)
        weight = torch.cat([case.base_weight, case.delta_weight], -1)
        found: Tensor = loss(weight, hidden, case.targets)
        return found

    return backward(case, loss_of)


def make_workloads(case: Case) -> dict[str, Workload]:
    """The losses to compare, and the matrix products alone."""
    workloads = {"ours": backward(case, fused_loss), "eager": backward(case, eager_loss)}
    if case.targets.is_cuda:
        workloads["compiled"] = backward(case, torch.compile(eager_loss))
        if is_plain_identity(case) and find_spec("liger_kernel"):
            workloads["liger"] = liger(case)
    return workloads


def check(case: Case, dtype: str, what: str) -> None:
    """The correctness gate: exit 1 unless ours agrees with eager autograd in float32."""
    exact = case._replace(
        base_hidden=case.base_hidden.float(),
        base_weight=case.base_weight.float(),
        delta_hidden=case.delta_hidden.detach().float().requires_grad_(),
        delta_weight=case.delta_weight.detach().float().requires_grad_(),
    )
    expected = [backward(exact, eager_loss)(), exact.delta_hidden.grad, exact.delta_weight.grad]
    found = [backward(case, fused_loss)(), case.delta_hidden.grad, case.delta_weight.grad]
    for name, one, other in zip(("loss", "states", "weight"), found, expected, strict=True):
        assert one is not None
        assert other is not None
        error = float((one.float() - other).norm() / other.norm())
        if not error <= TOLERANCE[dtype]:
            sys.exit(f"{what}: {name} wrong by {error:.1e} of the norm, so no times")


def run_once(case: Case, variant: str) -> None:
    """The work of the processes whose memory is measured."""
    if variant == HOLD:
        case.delta_hidden.grad = torch.full_like(case.delta_hidden, 1)
        case.delta_weight.grad = torch.full_like(case.delta_weight, 1)
    else:
        make_workloads(case)[variant]()


def peak_memory(options: argparse.Namespace, name: str, token_map: Path | None) -> dict[str, float]:
    """MB for logits of each variant, on a CPU."""
    command = [sys.executable, __file__, "--tokens", str(options.tokens), "--dtype", options.dtype]
    command += ["--cases", name, "--map", str(token_map or "")]
    peaks = {
        variant: run_process([*command, "--once", variant]).peak_mb
        for variant in (HOLD, "ours", "eager")
    }
    held = peaks.pop(HOLD)
    return {variant: peak - held for variant, peak in peaks.items()}


def peak_memory_on_gpu(case: Case) -> dict[str, float]:
    """MB for logits of each variant, by the allocator's count."""
    found = {}
    for name, run in make_workloads(case).items():
        run()  # gradients are there, and all is compiled
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        found[name] = (torch.cuda.max_memory_allocated() - held) / 1e6
    return found


def seconds_on_gpu(workloads: dict[str, Workload]) -> dict[str, Spread]:
    """Seconds by CUDA events."""
    from triton.testing import do_bench

    return {
        name: Spread(*do_bench(run, quantiles=[0.5, 0.2, 0.8])).scaled(1e-3)
        for name, run in workloads.items()
    }


def measure(options: argparse.Namespace, name: str, folder: Path) -> dict[str, object]:
    """Check one case, then its times and its memory."""
    shape, token_map = SHAPES[name], None
    if shape.vocabularies:
        token_map = folder / f"{name}.arrow"
        build_map(*shape.vocabularies).save(token_map)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = make_case(shape, token_map, options.tokens, options.dtype, device)
    check(case, options.dtype, name)
    workloads = {**make_workloads(case), "products": products(case)}
    if device == "cuda":
        seconds, peaks = seconds_on_gpu(workloads), peak_memory_on_gpu(case)
    else:
        seconds, peaks = seconds_of(options.runs, workloads), peak_memory(options, name, token_map)
    return {"case": name, "shape": shape._asdict(), "seconds": seconds, "logits_mb": peaks}


def print_results(report: Report, results: list[dict[str, object]]) -> None:
    """One row for each variant of each case."""
    rows = []
    for result in results:
        seconds, peaks = result["seconds"], result["logits_mb"]
        assert isinstance(seconds, dict)
        assert isinstance(peaks, dict)
        for variant, time in seconds.items():
            peak = peaks.get(variant)
            rows.append(
                [
                    f"{result['case']}, {variant}",
                    *(f"{one:.3f}" for one in time),
                    f"{time.median / seconds['products'].median:.2f}",
                    f"{seconds['eager'].median / time.median:.2f}",
                    *(
                        ["", ""]
                        if peak is None
                        else [f"{peak:.0f}", f"{peaks['eager'] / peak:.1f}"]
                    ),
                ]
            )
    header = ["", "s", "20 %", "80 %", "of products", "eager / s", "MB for logits", "eager / MB"]
    report.table(header, rows)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--cases", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--once", help=argparse.SUPPRESS)  # a process whose memory is measured
    parser.add_argument("--map", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Check and measure every case; print a table, then one JSON line."""
    options = parse_options()
    if options.once:
        token_map = Path(options.map) if options.map else None
        (name,) = options.cases
        case = make_case(SHAPES[name], token_map, options.tokens, options.dtype, "cpu")
        run_once(case, options.once)
        return
    report = Report("fused_losses", json_only=options.json, packages=PACKAGES)
    report.line(f"{options.tokens} tokens, {options.dtype}, {torch.get_num_threads()} threads\n")
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(options, name, Path(folder)) for name in options.cases]
    report.document |= {"tokens": options.tokens, "dtype": options.dtype, "results": results}
    print_results(report, results)
    report.finish()


if __name__ == "__main__":
    main()
