"""A whole decode step on a GPU: a model of 7B shape alone, and with a delta model beside it.

    python benchmarks/bench_decode_gpu.py [--batch N...] [--deltas 15m|42m|110m...] [--json]
    python benchmarks/bench_decode_gpu.py --tiny --device cpu

Weights are random, the map has one token each with a tenth unmapped, and a step is all that makes
one token of each row from the token before: both forwards, and the best fused logit. The delta
model reads the delta token of the token before; where there is none, a decoder would encode text
on the CPU, which bench_decode.py measures.

`eager` launches every kernel from Python. `graph` replays the step from one CUDA graph, `streams`
from one in which the delta's forward runs beside the model's. All use transformers' StaticCache.
Nothing is timed before a StaticCache gave the logits of a DynamicCache, and every graph the tokens
of the eager step. `floor` is the bytes that a step must read (weights, keys and values, once) at
the speed at which the same run copies memory. `--tiny` runs toy shapes in float32, to try the
script; on a CPU, without graphs.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from time import perf_counter
from typing import Any, NamedTuple

import torch
from bench_fused_logits import bytes_of, copy_speed, make_case
from measure import Report, Spread, interleaved, spread
from paper_deltas import step_parameters
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, StaticCache

from cmc_runtime import MapTensors, next_tokens
from cmc_runtime.maps.tensors import Inverse
from cmc_runtime.models.load import cache_keyword
from cmc_runtime.training.new_delta import SHAPES, delta_of_shape

SEED = 20_241
DELTA_TOKENS = 32_000
ALPHA = 4.0  # random weights make small logits: so that the delta has a say in the tokens
CHECKED = 8  # steps
GOAL = 0.05
# In deviations of the logits. Rounding in 32 layers of bfloat16 comes to 0.01, another context to
# 1.5; a position that is off by one to 0.02 only: that is for float32 and `--tiny` to find.
FAR = {torch.bfloat16: 0.1, torch.float32: 1e-3}
TIE = {torch.bfloat16: 0.1, torch.float32: 1e-3}  # fused logits that rounding may swap
PACKAGES = ("torch", "transformers", "pm-mined")


class Size(NamedTuple):
    """What is run, and how often."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    context: int  # tokens before the first step
    steps: int  # in one sample
    samples: int


LLAMA_2_7B = Size(4096, 32, 32, 11_008, context=512, steps=16, samples=10)
TINY = Size(32, 2, 4, 48, context=12, steps=8, samples=3)


# --- One step ------------------------------------------------------------------------------------


@dataclass
class Side:
    """A model and its cache, which a step goes on with."""

    model: Any
    cache: StaticCache

    def logits(self, ids: Tensor) -> Tensor:
        """Float [rows, logits] after int64 [rows, tokens], which are added to the cache."""
        # On the device, so that a graph reads it anew in each replay.
        length = self._layers[0].cumulative_length.to(ids.device)
        positions = length + torch.arange(ids.shape[1], device=ids.device)
        slots = torch.arange(self._layers[0].max_cache_len, device=ids.device)
        output = self.model(
            input_ids=ids,
            position_ids=positions[None],
            attention_mask=(slots <= positions[:, None])[None, None],
            use_cache=True,
            logits_to_keep=1,
            **{self.cache_keyword: self.cache},
        )
        return output.logits[:, -1]  # type: ignore[no-any-return]

    @cached_property
    def cache_keyword(self) -> str:
        """Looked up once: it is not a part of a step."""
        return cache_keyword(self.model)

    def rewind(self, length: int) -> None:
        """Forget what came after the first so many tokens."""
        for layer in self._layers:
            layer.cumulative_length.fill_(length)

    @property
    def bytes_read(self) -> int:
        """Weights, keys and values of a step, each once."""
        weights = step_parameters(self.model) * self.model.dtype.itemsize
        return int(weights) + sum(bytes_of(layer.keys, layer.values) for layer in self._layers)

    @property
    def _layers(self) -> list[Any]:
        return self.cache.layers


@dataclass
class Decoder:
    """A model, with or without a delta model; `step` is what is measured."""

    user: Side
    delta: Side | None
    tensors: MapTensors
    start: Tensor  # int64 [rows, 1], the tokens before the first step
    context: int  # how many were read before these

    def __post_init__(self) -> None:
        self.tokens = self.start.clone()  # the last ones; the same memory in every step

    def step(self) -> None:
        """The next token of each row."""
        base, delta = self.forward()
        self.tokens.copy_(self.choose(base, delta)[:, None])

    def choose(self, base: Tensor, delta: Tensor | None) -> Tensor:
        """int64 [rows]: the best tokens."""
        if delta is None:
            return base.argmax(-1)
        return next_tokens(base, delta, self.tensors, ALPHA)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """The logits of both models."""
        base = self.user.logits(self.tokens)
        return base, None if self.delta is None else self.delta.logits(self.delta_tokens())

    def delta_tokens(self) -> Tensor:
        """int64 [rows, 1]: what the delta model reads; the first token in place of none."""
        return self.tensors.index[self.tokens].clamp(min=0).long()

    @property
    def sides(self) -> list[Side]:
        """The models."""
        return [side for side in (self.user, self.delta) if side is not None]

    def rewind(self) -> None:
        """Back to where the first step starts."""
        for side in self.sides:
            side.rewind(self.context)
        self.tokens.copy_(self.start)


class StreamsDecoder(Decoder):
    """The same, with the delta's forward on a stream of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """The logits of both models."""
        assert self.delta is not None
        main = torch.cuda.current_stream()
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            delta = self.delta.logits(self.delta_tokens())
        base = self.user.logits(self.tokens)
        main.wait_stream(self.stream)
        return base, delta


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as one CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # what is compiled, chosen and allocated once
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


# --- Making it -----------------------------------------------------------------------------------


@dataclass
class Setup:
    """The models, and what all batches share."""

    size: Size
    device: str
    dtype: torch.dtype
    user: Any
    deltas: dict[str, Any]
    tensors: MapTensors

    @property
    def slots(self) -> int:
        """How many tokens a cache holds."""
        return -(-(self.size.context + max(self.size.steps, CHECKED)) // 64) * 64


def make_setup(options: argparse.Namespace) -> Setup:
    """Models with random weights, the large one made on the device."""
    size, dtype = (TINY, torch.float32) if options.tiny else (LLAMA_2_7B, torch.bfloat16)
    device = options.device
    torch.manual_seed(SEED)
    with torch.device(device):
        user: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            user_config(size, options.columns), dtype=dtype
        )
    deltas = {
        shape: delta_of_shape(shape, DELTA_TOKENS).to(device, dtype).eval()
        for shape in options.deltas
    }
    case = make_case(1, options.columns, DELTA_TOKENS, dtype, device)
    tensors = MapTensors(
        index=case.dst_of,
        num_dst_logits=DELTA_TOKENS,
        choices=None,
        inverse=Inverse(case.offsets, case.src_id),
        is_identity=False,
    )
    return Setup(size, device, dtype, user.eval(), deltas, tensors)


def user_config(size: Size, columns: int) -> LlamaConfig:
    """The configuration of the large model."""
    return LlamaConfig(
        vocab_size=columns,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.feed_forward,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )


def make_side(model: Any, rows: int, setup: Setup) -> Side:
    """A model that has read a random prompt, and does with a StaticCache what it does without."""
    num_ids = model.config.vocab_size
    prompt = torch.randint(0, num_ids, (rows, setup.size.context), device=setup.device)
    side = Side(model, StaticCache(config=model.config, max_cache_len=setup.slots))
    side.logits(prompt)
    check_cache(side, prompt)
    return side


# --- The gate ------------------------------------------------------------------------------------


def check_cache(side: Side, prompt: Tensor) -> None:
    """Exit unless the next step's logits are those with a DynamicCache, to a rounding."""
    cache, first = DynamicCache(config=side.model.config), prompt[:1]
    for ids in (first, first[:, :1]):
        output = side.model(
            input_ids=ids, use_cache=True, logits_to_keep=1, **{side.cache_keyword: cache}
        )
    expected = output.logits[0, -1].float()
    for _ in range(2):  # the second time after going back
        found = side.logits(prompt[:, :1])[0].float()
        side.rewind(prompt.shape[1])
    error = float((found - expected).square().mean().sqrt() / expected.std())
    if not error <= FAR[side.model.dtype]:
        sys.exit(f"a StaticCache gives wrong logits, so no times: {error:.2g} deviations off")


def check_choice(decoder: Decoder, what: str) -> None:
    """Exit unless the eager step takes the best token of logits that are added by hand."""
    fused = fused_by_hand(decoder, 0)
    chosen = written(decoder, decoder.step)[0]
    gaps = fused.amax(1) - fused.gather(1, chosen[:, None])[:, 0]
    if not (gaps <= TIE[decoder.user.model.dtype]).all():
        sys.exit(f"{what}, eager: wrong token, so no times")


def check_graph(decoder: Decoder, graphed: Decoder, replay: Callable[[], None], what: str) -> None:
    """Exit unless a graph writes the tokens of the eager step; a row may part from it at a tie."""
    expected, found = written(decoder, decoder.step), written(graphed, replay)
    for row in (expected != found).any(0).nonzero().flatten().tolist():
        step = int((expected[:, row] != found[:, row]).nonzero()[0])
        wanted, got = int(expected[step, row]), int(found[step, row])
        fused = fused_by_hand(decoder, step)[row]
        if not fused[wanted] - fused[got] <= TIE[decoder.user.model.dtype]:
            sys.exit(
                f"{what}: wrong token, so no times: step {step} of row {row} gives {got}, "
                f"eager {wanted}"
            )


def written(decoder: Decoder, run: Callable[[], None]) -> Tensor:
    """int64 [CHECKED, rows]: the tokens of the first steps."""
    decoder.rewind()
    tokens = []
    for _ in range(CHECKED):
        run()
        tokens.append(decoder.tokens[:, 0].clone())
    return torch.stack(tokens)


def fused_by_hand(decoder: Decoder, steps: int) -> Tensor:
    """Float32 [rows, logits]: what the step after so many eager ones chooses from."""
    decoder.rewind()
    for _ in range(steps):
        decoder.step()
    base, delta = decoder.forward()
    if delta is None:
        return base.float()
    index = decoder.tensors.index
    read = torch.where(index >= 0, delta.float()[:, index.clamp(min=0)], 0)
    return base.float() + ALPHA * read


# --- Measuring -----------------------------------------------------------------------------------

Runs = dict[str, Callable[[], float]]


def seconds_per_step(decoder: Decoder, run: Callable[[], None], setup: Setup) -> float:
    """The mean over one sample's steps, until the device has done them."""
    decoder.rewind()
    finish(setup.device)
    start = perf_counter()
    for _ in range(setup.size.steps):
        run()
    finish(setup.device)
    return (perf_counter() - start) / setup.size.steps


def finish(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def make_runs(decoder: Decoder, what: str, setup: Setup) -> Runs:
    """By mode, what takes one sample; all have passed the gate."""
    check_choice(decoder, what)
    runs: Runs = {"eager": partial(seconds_per_step, decoder, decoder.step, setup)}
    if setup.device != "cuda":
        return runs
    graphed = {"graph": decoder}
    if decoder.delta is not None:
        parts = decoder.user, decoder.delta, decoder.tensors, decoder.start, decoder.context
        graphed["streams"] = StreamsDecoder(*parts)
    for mode, one in graphed.items():
        one.rewind()
        replay = captured(one.step)
        check_graph(decoder, one, replay, f"{what}, {mode}")
        runs[mode] = partial(seconds_per_step, one, replay, setup)
    return runs


def measure(rows: int, setup: Setup, copying: float | None) -> list[dict[str, Any]]:
    """All figures of one batch size."""
    user = make_side(setup.user, rows, setup)
    start = torch.randint(0, setup.user.config.vocab_size, (rows, 1), device=setup.device)
    deltas = {shape: make_side(model, rows, setup) for shape, model in setup.deltas.items()}
    decoders = {
        name: Decoder(user, delta, setup.tensors, start, setup.size.context)
        for name, delta in {"alone": None, **deltas}.items()
    }
    runs = {
        (name, mode): run
        for name, decoder in decoders.items()
        for mode, run in make_runs(decoder, f"{rows} rows, {name}", setup).items()
    }
    samples = interleaved(setup.size.samples, runs)
    return [
        {
            "rows": rows,
            "delta": name,
            "mode": mode,
            "seconds": spread(found),
            "overhead": over(found, samples["alone", "eager" if mode == "eager" else "graph"]),
            "floor_seconds": floor(decoders[name], copying),
        }
        for (name, mode), found in samples.items()
    ]


def over(found: Sequence[float], alone: Sequence[float]) -> Spread:
    """What samples take beyond those beside them of the model alone, in parts of these."""
    return spread([one / other - 1 for one, other in zip(found, alone, strict=True)])


def floor(decoder: Decoder, copying: float | None) -> float | None:
    """Seconds that reading takes at the speed of copying."""
    return None if copying is None else sum(side.bytes_read for side in decoder.sides) / copying


# --- Reporting -----------------------------------------------------------------------------------


def table_row(found: dict[str, Any]) -> list[str]:
    """One line for people."""
    least, seconds = found["floor_seconds"], found["seconds"]
    return [
        f"{found['rows']} rows, {found['delta']}, {found['mode']}",
        *(f"{value * 1e3:.3f}" for value in seconds),
        *(f"{value:+.1%}" for value in found["overhead"]),
        "-" if least is None else f"{least * 1e3:.3f}",
        "-" if least is None else f"{least / seconds.median:.0%}",
    ]


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--deltas", nargs="+", choices=SHAPES, default=["15m", "110m"])
    parser.add_argument("--columns", type=int, default=151_936, help="logits of the large model")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy shapes, to try the script")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no NVIDIA GPU; --tiny --device cpu tries the script without one")
    return options


@torch.no_grad()
def main() -> None:
    """Check and measure every batch size; print tables, then one JSON line."""
    options = parse_options()
    report = Report("decode_gpu", json_only=options.json, packages=PACKAGES)
    setup = make_setup(options)
    shares = {
        shape: step_parameters(model) / step_parameters(setup.user)
        for shape, model in setup.deltas.items()
    }
    copying = None
    if options.device == "cuda":
        copying = copy_speed()
        report.document["gpu"] = torch.cuda.get_device_name()
        report.line(f"{report.document['gpu']}, copying at {copying / 1e9:,.0f} GB/s")
    else:
        report.line("no GPU: eager steps only, no graphs, no floor")
    for shape, share in shares.items():
        report.line(f"{shape}: {share:.2%} of the parameters of a step; goal: under {GOAL:.0%}")
    report.line()
    report.document |= {
        "columns": options.columns,
        "context": setup.size.context,
        "copy_bytes_per_second": copying,
        "parameter_shares": shares,
        "goal": GOAL,
        "results": [],
    }
    for rows in options.batch:
        results = measure(rows, setup, copying)
        header = ["ms per step", "median", "20 %", "80 %", "over alone", "20 %", "80 %"]
        report.table([*header, "floor", "of floor"], [table_row(found) for found in results])
        report.document["results"] += results
    report.finish()


if __name__ == "__main__":
    main()
