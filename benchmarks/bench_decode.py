"""Decoding with a delta model on a CPU: the LLM alone, ours, and the algorithm of the reference.

    python benchmarks/bench_decode.py [--user NAME...] [--delta-shape 15m|42m|110m | --delta SPEC]
                                      [--tokens N] [--runs N] [--json]

Nothing is timed before the first tokens of both were found to be those of uncached forwards of
both models over contexts made from scratch. All three go through `model.generate`: greedy, with
nothing that ends a text, the same prompts in turn (A B C A B C).

The reference (Cross-model Control, arXiv 2410.17599), from its definition: one row; a token with
an exact counterpart adds that to the delta's context; for any other, the text so far is decoded
and encoded as a whole, and the delta's cache is dropped and filled again by a full forward. The
map is ours, and as in ours that forward computes the last logits only. By prompt, `re-encodes` are
such tokens among 100, `roll-backs` those that change earlier delta ids in ours.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import Report, Spread, interleaved, spread
from paper_deltas import paper_delta, step_parameters
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from cmc_runtime import Delta, LoadedModel, SteeringProcessor, fuse_logits, load_delta, load_model
from cmc_runtime.models.load import cache_keyword
from cmc_runtime.models.prompts import PLAIN, encode_prompt
from cmc_runtime.training.new_delta import SHAPES
from pm_mined import build_map, load_vocabulary
from pm_mined.bench import timed
from pm_mined.kernels.tokens import UNMAPPED, Rule

ALPHA = 1.0
CHECKED = 24  # tokens
TIE = 1e-3  # logits: what caching may change by rounding
MARGIN = 0.05  # what ours may cost beyond the delta's share of parameters
TIMES_LESS = 3.0
CONTEXT_US = 100.0
PACKAGES = ("torch", "transformers", "tokenizers", "numpy")
ALONE, OURS, REFERENCE = VARIANTS = ("alone", "ours", "reference")

# One by one the first three, all of them as a batch.
PROMPTS = [
    "The history of the small harbour town begins with",
    "def merge_intervals(intervals):\n    ",
    "从前有一座山，山里有一个",
    "To bake a good loaf of bread at home, you first",
    "SELECT name, COUNT(*) FROM orders JOIN",
    "La ville de Lyon est connue pour",
    "Once upon a time, a young fox named Ambrose",
    "The three laws of thermodynamics say that",
]
SINGLE = 3
BATCH = f"batch_{len(PROMPTS)}"


class Case(NamedTuple):
    """A user model, and a delta model made ready for it."""

    user: LoadedModel
    delta: Delta
    counterpart: list[int]  # [user tokens], the delta token with the same bytes, or UNMAPPED


class ReferenceProcessor(LogitsProcessor):
    """The reference's algorithm, for one row of `model.generate`."""

    def __init__(self, case: Case, prompt: str, prompt_length: int) -> None:
        self._case, self._prompt, self._prompt_length = case, prompt, prompt_length
        self._cache = DynamicCache()

    @torch.inference_mode()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Float [1, user logits]."""
        model: Any = self._case.delta.loaded.model
        new_ids = self._new_ids(input_ids[0, self._prompt_length :].tolist())
        output = model(
            input_ids=torch.tensor([new_ids]),
            use_cache=True,
            logits_to_keep=1,
            **{cache_keyword(model): self._cache},
        )
        return scores.float().log_softmax(-1) + ALPHA * self._read(output.logits[:, -1])

    def _new_ids(self, generated: list[int]) -> list[int]:
        """What the delta model has to read; everything once more where the cache is dropped."""
        if generated and self._case.counterpart[generated[-1]] != UNMAPPED:
            return [self._case.counterpart[generated[-1]]]
        self._cache = DynamicCache()
        return encode_as_a_whole(self._case, self._prompt, generated)

    def _read(self, delta: Tensor) -> Tensor:
        tensors = self._case.delta.tensors
        return torch.where(tensors.mapped, delta[:, tensors.index.clamp(min=0)], 0)


def encode_as_a_whole(case: Case, prompt: str, generated: Sequence[int]) -> list[int]:
    """The delta ids of the prompt and of what was written after it, as one text."""
    text = case.user.tokenizer.decode(generated, skip_special_tokens=True)
    return encode_prompt(case.delta.loaded.tokenizer, prompt + text)


def make_case(name: str, delta_model: LoadedModel) -> Case:
    """Load a user model and map its tokens."""
    user = load_model(name, device="cpu")
    user.model.generation_config.eos_token_id = []
    both = (load_vocabulary(one.tokenizer) for one in (user, delta_model))
    token_map = build_map(*both)
    delta = load_delta(
        *(delta_model, user.tokenizer),
        num_logits=user.num_logits,
        token_map=token_map,
        prompt_template=PLAIN,
        unmapped="zero",
    )
    exact = np.where(token_map.rule == Rule.EXACT, token_map.dst_id, UNMAPPED)
    return Case(user, delta, exact.tolist())


def padded(case: Case, prompts: Sequence[str]) -> dict[str, Tensor]:
    """The user model's ids, padded on the left: int64 [prompts, ids], and the mask."""
    rows = [encode_prompt(case.user.tokenizer, prompt) for prompt in prompts]
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }


def write(case: Case, prompts: Sequence[str], variant: str, tokens: int) -> list[list[int]]:
    """The tokens that the user model writes after each prompt."""
    inputs = padded(case, prompts)
    length = inputs["input_ids"].shape[1]
    steering = LogitsProcessorList()
    if variant == OURS:
        steering.append(SteeringProcessor(case.delta, inputs["input_ids"], prompts, ALPHA))
    if variant == REFERENCE:
        steering.append(ReferenceProcessor(case, prompts[0], length))
    model: Any = case.user.model
    written = model.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        logits_processor=steering,
    )
    return written[:, length:].tolist()  # type: ignore[no-any-return]


# --- The gate ------------------------------------------------------------------------------------


def check(case: Case, variant: str, prompt: str) -> None:
    """Exit unless the first tokens are the best of both models' uncached logits, added by hand."""
    (generated,) = write(case, [prompt], variant, CHECKED)
    context_of = our_context if variant == OURS else reference_context
    prompt_ids = encode_prompt(case.user.tokenizer, prompt)
    bases = uncached_logits(case.user, prompt_ids + generated)[len(prompt_ids) - 1 :]
    index = case.delta.tensors.index
    for step, token_id in enumerate(generated):
        context = context_of(case, prompt, generated[:step])
        delta = uncached_logits(case.delta.loaded, context)[-1]
        fused = bases[step] + ALPHA * torch.where(index >= 0, delta[index.clamp(min=0)], 0)
        if not fused[token_id] >= fused.max() - TIE:
            sys.exit(
                f"{variant}: wrong answer, so no times: new token {step} is {token_id}, "
                f"expected {int(fused.argmax())}"
            )


@torch.inference_mode()
def uncached_logits(loaded: LoadedModel, ids: Sequence[int]) -> Tensor:
    """Float [ids, logits], after each of these ids."""
    model: Any = loaded.model
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]  # type: ignore[no-any-return]


def our_context(case: Case, prompt: str, generated: Sequence[int]) -> list[int]:
    """What the delta model reads in ours, from scratch."""
    context = case.delta.new_context(encode_prompt(case.delta.loaded.tokenizer, prompt))
    for token_id in generated:
        context.append(token_id)
    return context.ids


def reference_context(case: Case, prompt: str, generated: Sequence[int]) -> list[int]:
    """What it reads in the reference: encoded up to the last token without a counterpart."""
    exact = [case.counterpart[token_id] for token_id in generated]
    encoded = max((i + 1 for i, dst_id in enumerate(exact) if dst_id == UNMAPPED), default=0)
    return encode_as_a_whole(case, prompt, generated[:encoded]) + exact[encoded:]


# --- Measuring -----------------------------------------------------------------------------------


class Run(NamedTuple):
    """One call of `generate`."""

    written: list[list[int]]
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens per second, of all rows."""
        return sum(map(len, self.written)) / self.seconds


def run_all(
    case: Case, prompts: Sequence[str], variants: Sequence[str], tokens: int, runs: int
) -> dict[str, list[Run]]:
    """The variants in turn."""

    def run(variant: str) -> Run:
        return Run(*timed(lambda: write(case, prompts, variant, tokens)))

    return interleaved(runs, {variant: partial(run, variant) for variant in variants})


def figures(samples: dict[str, list[Run]]) -> dict[str, Any]:
    """Tokens per second, and seconds over those of the run of the LLM alone beside it."""
    return {
        variant: {
            "tokens_per_second": spread([run.speed for run in found]),
            "overhead": overhead(found, samples[ALONE]),
        }
        for variant, found in samples.items()
    }


def overhead(found: Sequence[Run], alone: Sequence[Run]) -> Spread:
    """What runs take beyond those beside them of the LLM alone, in parts of these."""
    pairs = zip(found, alone, strict=True)
    return spread([run.seconds / other.seconds - 1 for run, other in pairs])


def of_prompt(case: Case, prompt: str, samples: dict[str, list[Run]]) -> dict[str, Any]:
    """What a prompt costs, and what the delta's context goes through for it."""
    (generated,) = samples[OURS][0].written
    without = sum(case.counterpart[token_id] == UNMAPPED for token_id in generated)
    return {
        "prompt": prompt,
        **{name: overhead(samples[name], samples[ALONE]) for name in (OURS, REFERENCE)},
        "roll_backs": 100 * count_roll_backs(case, generated) / len(generated),
        "re_encodes": 100 * without / len(generated),
    }


def count_roll_backs(case: Case, generated: Sequence[int]) -> int:
    """How many tokens change delta ids of what was written before them."""
    context = case.delta.new_context([])
    count = 0
    for token_id in generated:
        length = len(context.ids)
        count += context.append(token_id).keep < length
    return count


# --- What a token of ours costs ------------------------------------------------------------------


def breakdown(case: Case, prompt: str, generated: list[int]) -> dict[str, Spread]:
    """Seconds of each part of our step, when a text is written once more without the LLM."""
    delta = case.delta
    request = delta.begin(prompt)
    base = torch.zeros(1, case.user.num_logits)
    parts: dict[str, list[float]] = {"contexts": [], "delta forward": [], "fuse": []}

    def fuse(logits: Tensor) -> Tensor:
        return fuse_logits(base, logits, delta.tensors, ALPHA).amax(-1)

    delta.logits(request.texts)  # reads the prompt
    for token_id in generated:
        _, in_contexts = timed(partial(request.append, token_id))
        logits, in_forward = timed(partial(delta.logits, request.texts))
        _, in_fuse = timed(partial(fuse, logits))
        for part, seconds in zip(parts, (in_contexts, in_forward, in_fuse), strict=True):
            parts[part].append(seconds)
    return {part: spread(seconds) for part, seconds in parts.items()}


# --- Reporting -----------------------------------------------------------------------------------


def measure(case: Case, name: str, tokens: int, runs: int) -> dict[str, Any]:
    """All figures of one user model."""
    single = [run_all(case, [prompt], VARIANTS, tokens, runs) for prompt in PROMPTS[:SINGLE]]
    joined = {variant: [run for each in single for run in each[variant]] for variant in VARIANTS}
    of_one = figures(joined)
    ours, reference = (of_one[variant]["overhead"].median for variant in (OURS, REFERENCE))
    share = step_parameters(case.delta.loaded.model) / step_parameters(case.user.model)
    return {
        "user": name,
        "batch_1": of_one,
        BATCH: figures(run_all(case, PROMPTS, (ALONE, OURS), tokens, runs)),
        "prompts": [of_prompt(case, *each) for each in zip(PROMPTS[:SINGLE], single, strict=True)],
        "breakdown": breakdown(case, PROMPTS[0], single[0][OURS][0].written[0]),
        "parameter_share": share,
        "goal": share + MARGIN,
        "times_less": reference / ours if ours > 0 else None,
    }


def print_tables(report: Report, found: dict[str, Any]) -> None:
    """The figures of one user model, for people."""
    for batch in ("batch_1", BATCH):
        rows = [
            [variant, *(f"{speed:.1f}" for speed in one["tokens_per_second"])]
            + [f"{over:+.1%}" if variant != ALONE else "-" for over in one["overhead"]]
            for variant, one in found[batch].items()
        ]
        header = [f"{found['user']}, {batch}", "tokens/s", "20 %", "80 %", "over alone"]
        report.table([*header, "20 %", "80 %"], rows)
    rows = [
        [each["prompt"][:24].strip(), f"{each[OURS].median:+.1%}", f"{each[REFERENCE].median:+.1%}"]
        + [f"{each[event]:.1f}" for event in ("roll_backs", "re_encodes")]
        for each in found["prompts"]
    ]
    report.table(["over alone", OURS, REFERENCE, "roll-backs", "re-encodes"], rows)
    rows = [
        [part, *(f"{value * 1e6:.1f}" for value in seconds)]
        for part, seconds in found["breakdown"].items()
    ]
    report.table(["us per token of ours", "median", "20 %", "80 %"], rows)


def print_goals(report: Report, found: dict[str, Any]) -> None:
    """What was aimed at, and what was reached."""
    ours, less = found["batch_1"][OURS]["overhead"].median, found["times_less"]
    contexts = found["breakdown"]["contexts"].median * 1e6
    share, goal = found["parameter_share"], found["goal"]
    times = "none of ours was measured" if less is None else f"{less:.1f} times"
    report.line(
        f"overhead of ours {ours:.1%}; goal {goal:.1%}, the delta having {share:.1%} of the "
        f"parameters of a step: {verdict(ours <= goal)}"
    )
    report.line(
        f"less overhead than the reference: {times}; goal {TIMES_LESS:.0f} times: "
        f"{verdict(less is None or less >= TIMES_LESS)}"
    )
    report.line(
        f"contexts {contexts:.0f} us; goal {CONTEXT_US:.0f} us: {verdict(contexts <= CONTEXT_US)}\n"
    )


def verdict(met: bool) -> str:
    """For people."""
    return "met" if met else "missed"


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--user", nargs="+", default=["smollm2-135m", "gemma3-270m"])
    parser.add_argument("--delta-shape", choices=SHAPES, default="15m", help="random weights")
    parser.add_argument("--delta", help="a delta model instead: a folder, or what load_model takes")
    parser.add_argument("--tokens", type=int, default=256, help="new ones, of each prompt")
    parser.add_argument("--runs", type=int, default=1, help="of each prompt and variant")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    return parser.parse_args()


def main() -> None:
    """Check and measure every user model; print tables, then one JSON line."""
    options = parse_options()
    report = Report("decode", json_only=options.json, packages=PACKAGES)
    delta = options.delta or options.delta_shape
    model = load_model(delta, device="cpu") if options.delta else paper_delta(delta)
    report.document |= {
        "threads": torch.get_num_threads(),
        "delta": delta,
        "tokens": options.tokens,
        "results": [],
    }
    report.line(
        f"{torch.get_num_threads()} threads, delta {delta}, {options.tokens} new tokens, "
        f"{options.runs} runs of {SINGLE} prompts\n"
    )
    for name in options.user:
        case = make_case(name, model)
        for variant, prompt in product((OURS, REFERENCE), PROMPTS[:SINGLE]):
            check(case, variant, prompt)
        found = measure(case, name, options.tokens, options.runs)
        print_tables(report, found)
        print_goals(report, found)
        report.document["results"].append(found)
    report.finish()


if __name__ == "__main__":
    main()
