"""The cost of a steered step as the text grows, from 1 to 4,096 tokens, on a CPU.

    python benchmarks/bench_steps.py [--delta-shape 15m|42m|110m] [--rows N] [--json]

One processor follows texts of Qwen 3's tokens, for a delta model with the 32,000 tokens of Mistral
v1, and is called step by step as `model.generate` would call it. Nothing is timed before the delta
logits at every length were found to be those of an uncached forward over a context made from
scratch. The columns are milliseconds of one core's time, so that other work on the machine changes
little, as medians over the 15 steps from a length on:

- `around` is all but the delta model's forward: following the texts, contexts, choosing what is
  run, and fusing. Of one row, fusing 151,936 logits is most of it.
- `forward` is the delta model's forward on our cache. Its attention reads all keys and values, so
  it grows with the text, as any transformer's does.
- `plain` is the same forward on transformers' `DynamicCache`, which copies all of them as well.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import Report
from paper_deltas import paper_delta
from transformers import DynamicCache

from cmc_runtime import Delta, SteeringProcessor, load_delta
from cmc_runtime.models.load import cache_keyword
from cmc_runtime.training.new_delta import SHAPES
from pm_mined import load_encoder, load_vocabulary

USER, NUM_LOGITS = "qwen3", 151_936
LENGTHS = (1, 16, 64, 256, 1024, 4096)  # tokens
STEPS = 15  # timed, from each length on
TOLERANCE = 1e-3  # logits: what caching may change by rounding
GOAL = 1.25  # times: what `around` may cost at the longest text, of what it costs at the shortest
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")


class Stopwatch:
    """Adds up the seconds that a model's forwards take."""

    def __init__(self, model: Any) -> None:
        self.seconds = 0.0
        self._start = 0.0
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end)

    def _begin(self, *_: object) -> None:
        self._start = time.process_time()

    def _end(self, *_: object) -> None:
        self.seconds += time.process_time() - self._start


def texts_of(rows: int) -> torch.Tensor:
    """int64 [rows, longest]: Qwen 3's ids of this project's documents, each row from elsewhere."""
    root = Path(__file__).resolve().parents[1]
    text = "\n".join(path.read_text("utf-8") for path in sorted(root.glob("docs/*.md")))
    (ids,) = load_encoder(USER)([text])
    longest = LENGTHS[-1] + STEPS
    apart = (len(ids) - longest) // rows
    if apart < 1:
        sys.exit("the documents are too short for so many rows")
    return torch.tensor([ids[row * apart :][:longest].tolist() for row in range(rows)])


def make_delta(shape: str) -> Delta:
    """A delta model of the paper's shapes that reads texts of any length here."""
    loaded = paper_delta(shape)
    loaded.model.config.max_position_embeddings = 4 * LENGTHS[-1]
    return load_delta(loaded, load_vocabulary(USER), num_logits=NUM_LOGITS, token_map="pm-mined")


def check(delta: Delta, ids: Sequence[int]) -> None:
    """Exit unless the delta logits after a text are those of an uncached forward from scratch."""
    request = delta.begin("")
    for place, token_id in enumerate(ids, 1):
        request.append(token_id)
        if place in LENGTHS or place % 7 == 0:
            found = delta.logits(request.texts)[0]
        if place in LENGTHS:
            context = delta.context("")
            for before in ids[:place]:
                context.append(before)
            with torch.inference_mode():
                model: Any = delta.loaded.model
                logits = model(input_ids=torch.tensor([context.ids]), use_cache=False).logits
            if not torch.allclose(found, logits[0, -1], atol=TOLERANCE, rtol=TOLERANCE):
                sys.exit(f"wrong logits after {place} tokens, so no times")


def timed_steps() -> dict[int, int]:
    """Each step that is timed, and the length from which on it is."""
    return {length + more: length for length in LENGTHS for more in range(STEPS)}


def measure_ours(delta: Delta, texts: torch.Tensor) -> dict[int, dict[str, float]]:
    """Milliseconds `around` the forward and in it, for each length."""
    watch = Stopwatch(delta.loaded.model)
    prompt_ids = texts[:, :0]
    processor = SteeringProcessor(delta, prompt_ids, [""] * len(texts))
    base = torch.zeros(len(texts), NUM_LOGITS)
    found: dict[int, list[tuple[float, float]]] = {length: [] for length in LENGTHS}
    timed = timed_steps()
    for step in range(texts.shape[1] + 1):
        watch.seconds = 0.0
        start = time.process_time()
        processor(texts[:, :step], base)  # type: ignore[arg-type] # tensors of one kind
        seconds = time.process_time() - start
        if step in timed:
            found[timed[step]].append((seconds - watch.seconds, watch.seconds))
    return {
        length: {
            name: 1000 * median(some)
            for name, some in zip(("around", "forward"), zip(*samples, strict=True), strict=True)
        }
        for length, samples in found.items()
    }


@torch.inference_mode()
def measure_plain(delta: Delta, rows: int) -> dict[int, float]:
    """Milliseconds of a forward of one more token each, on transformers' cache, by length."""
    model: Any = delta.loaded.model
    found = {}
    for length in LENGTHS:
        cache = DynamicCache()
        keyword = {cache_keyword(model): cache}
        model(input_ids=torch.ones(rows, length, dtype=torch.long), logits_to_keep=1, **keyword)
        seconds = []
        for _ in range(STEPS):
            start = time.process_time()
            model(input_ids=torch.ones(rows, 1, dtype=torch.long), logits_to_keep=1, **keyword)
            seconds.append(time.process_time() - start)
        found[length] = 1000 * median(seconds)
    return found


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delta-shape", choices=SHAPES, default="15m")
    parser.add_argument("--rows", type=int, default=1, help="texts at once")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    report = Report("steps", json_only=options.json, packages=PACKAGES)
    torch.set_num_threads(1)
    texts = texts_of(options.rows)
    delta = make_delta(options.delta_shape)
    check(delta, texts[0].tolist())
    report.line(f"gate: logits at {', '.join(map(str, LENGTHS))} tokens as without a cache\n")
    plain = measure_plain(delta, options.rows)
    ours = measure_ours(delta, texts)
    rows = {length: {**ours[length], "plain": plain[length]} for length in LENGTHS}
    report.table(
        ["tokens", "around", "forward", "plain"],
        [[f"{length:,}", *(f"{value:.3f}" for value in rows[length].values())] for length in rows],
    )
    growth = rows[LENGTHS[-1]]["around"] / rows[LENGTHS[0]]["around"]
    said = "met" if growth <= GOAL else "missed"
    report.line(f"around, longest over shortest text: {growth:.2f} (goal {GOAL}: {said})")
    report.document |= {"rows": options.rows, "delta": options.delta_shape, "ms": rows}
    report.finish()


if __name__ == "__main__":
    main()
