"""Fusing a step of logits through each form of map, on one CPU thread.

    python benchmarks/bench_map_forms.py [--pair SRC DST] [--runs N] [--json]

One row of random logits of the widths of both vocabularies, by default 262k of Gemma 3 and 49k of
SmolLM2, whose files `cmc_runtime` knows by name. Nothing is timed before all answers were found to
be those of NumPy in float64. `backward` sends a gradient of 8 rows back to the delta's logits.
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from measure import Report, add_pairs, command_line, seconds_of
from numpy.typing import NDArray
from torch import Tensor

from cmc_runtime import MapTensors, fuse_logits, load_map_tensors
from cmc_runtime.models.packaged import packaged_model
from pm_mined import TokenMap, build_map, load_vocabulary

STRATEGIES = ("pm-mined", "first-token", "both-ways", "distribute")
ALPHA = 0.7
ROWS = 8  # of a gradient


def logits(rows: int, width: int, seed: int) -> Tensor:
    """Float32 [rows, width]: the same for the same arguments."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def expected(base: Tensor, delta: Tensor, token_map: TokenMap) -> NDArray[np.float64]:
    """Float64 [src]: one row, fused by NumPy."""
    of_base, of_delta = (one[0].double().numpy() for one in (base, delta))
    choices = token_map.choices
    if choices is None:
        read = np.where(token_map.dst_id < 0, 0.0, of_delta[token_map.dst_id])
        return np.asarray(of_base + ALPHA * read)
    counts = np.diff(choices.offsets)
    mapped, each = counts > 0, of_delta[choices.dst_id]
    ufunc = np.maximum if choices.weight is None else np.add
    each = each if choices.weight is None else each * choices.weight
    read = np.zeros(len(counts))
    read[mapped] = ufunc.reduceat(each, choices.offsets[:-1][mapped])
    return np.asarray(of_base + ALPHA * read)


def check(name: str, token_map: TokenMap, tensors: MapTensors) -> None:
    """Exit unless a step is fused as NumPy does it."""
    base, delta = logits(1, tensors.num_src_logits, 0), logits(1, tensors.num_dst_logits, 1)
    found = fuse_logits(base, delta, tensors, ALPHA)[0].double().numpy()
    if not np.allclose(found, expected(base, delta, token_map), atol=1e-5):
        sys.exit(f"{name}: wrong logits, so no times")


def step(tensors: MapTensors) -> Callable[[], object]:
    """One row, as in decoding."""
    base, delta = logits(1, tensors.num_src_logits, 0), logits(1, tensors.num_dst_logits, 1)

    def run() -> None:
        with torch.inference_mode():
            fuse_logits(base, delta, tensors, ALPHA)

    return run


def backward(tensors: MapTensors) -> Callable[[], object]:
    """The gradient of some rows for the delta's logits."""
    base, grad = (logits(ROWS, tensors.num_src_logits, seed) for seed in (0, 2))
    delta = logits(ROWS, tensors.num_dst_logits, 1).requires_grad_()
    fused = fuse_logits(base, delta, tensors, ALPHA)
    return lambda: torch.autograd.grad(fused, delta, grad, retain_graph=True)


def main() -> None:
    """Check and measure all forms, interleaved; print a table, then one JSON line."""
    parser = command_line(__doc__)
    add_pairs(parser)
    parser.add_argument("--runs", type=int, default=99)
    options = parser.parse_args()
    report = Report("map_forms", json_only=options.json, packages=("pm-mined", "torch"))
    torch.set_num_threads(1)
    ours = [[str(packaged_model(name)) for name in ("gemma3-270m", "smollm2-135m")]]
    for pair in options.pair or ours:
        src, dst = map(load_vocabulary, pair)
        maps = {name: build_map(src, dst, strategy=name) for name in STRATEGIES}
        tensors = {name: load_map_tensors(one) for name, one in maps.items()}
        for name, one in tensors.items():
            check(name, maps[name], one)
        found = {
            what: seconds_of(options.runs, {name: make(one) for name, one in tensors.items()})
            for what, make in (("step", step), ("backward", backward))
        }
        rows = [
            [f"{name}, {what}", *(f"{1000 * value:.2f}" for value in times[name])]
            for what, times in found.items()
            for name in STRATEGIES
        ]
        report.table([f"ms, {src.name} -> {dst.name}", "median", "20 %", "80 %"], rows)
        report.document |= {f"{src.name} -> {dst.name}": found}
    report.finish()


if __name__ == "__main__":
    main()
