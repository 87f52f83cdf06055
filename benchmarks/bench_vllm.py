"""What steering costs in vLLM on a CPU: its own time alone, with our processor, and steered.

    python benchmarks/bench_vllm.py --model FOLDER --delta NAME=FOLDER [--delta ...]
        [--rows N] [--tokens N] [--rounds N] [--json]

Needs vLLM in the same environment (`.ci/engines` has its packages). Two engines run, each in a
process of its own and in one thread: one without any processor, one with ours. They take turns:
in each round every kind of request is run once, `--rows` of them at a time and `--tokens` each.
Figures are a process's CPU seconds for each token, as times of the engine without a processor in
the same round; medians over the rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from measure import Report, command_line, spread

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
PACKAGES = ("pm-mined", "vllm-cpu", "torch", "transformers")
PROMPT = "Write about the sea, the weather, and what people do on a day without wind."


def serve(options: argparse.Namespace, deltas: Mapping[str, str]) -> None:
    """Run what is asked for on standard input, a line for each round, until it ends."""
    import torch
    from vllm import LLM, SamplingParams

    torch.set_num_threads(1)
    steering: dict[str, Any] = {}
    if deltas:
        steering = {
            "logits_processors": ["cmc_runtime.engines.vllm:SteeringProcessor"],
            "additional_config": {"cmc_runtime": {"deltas": dict(deltas)}},
        }
    llm = LLM(
        str(options.model),
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=1024,
        max_num_seqs=options.rows,
        **steering,
    )
    prompts = [PROMPT[: 20 + 5 * row] for row in range(options.rows)]
    for line in sys.stdin:
        arguments = json.loads(line)
        params = SamplingParams(
            max_tokens=options.tokens, temperature=0, ignore_eos=True, extra_args=arguments
        )
        start = time.process_time()
        llm.generate(prompts, params, use_tqdm=False)
        seconds = (time.process_time() - start) / (options.rows * options.tokens)
        print(f"seconds {seconds}", flush=True)


class Engine:
    """An engine in a process of its own."""

    def __init__(self, words: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *words],
            env=os.environ | ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, arguments: Mapping[str, Any] | None) -> float:
        """CPU seconds for each token of requests with these arguments."""
        to, answers = self._process.stdin, self._process.stdout
        assert to is not None
        assert answers is not None
        to.write(json.dumps(arguments) + "\n")
        to.flush()
        for line in answers:
            if line.startswith("seconds "):
                return float(line.split()[1])
        sys.exit("an engine ended: run again with VLLM_LOGGING_LEVEL=INFO")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the served model")
    parser.add_argument("--delta", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--rows", type=int, default=8, help="requests at a time")
    parser.add_argument("--tokens", type=int, default=64, help="of each request")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=("alone", "steered"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Start both engines, let them take turns, print ratios."""
    options = parse_options()
    deltas = dict(one.split("=", 1) for one in options.delta)
    if options.serve:
        serve(options, deltas if options.serve == "steered" else {})
        return
    report = Report("vllm", json_only=options.json, packages=PACKAGES)
    alone, steered = (Engine([*sys.argv, "--serve", kind]) for kind in ("alone", "steered"))
    kinds: dict[str, dict[str, Any] | None] = {"unsteered": None}
    kinds |= {name: {"delta": name} for name in deltas}
    rounds: dict[str, list[float]] = {name: [] for name in ("alone", *kinds)}
    for number in range(options.rounds + 1):
        found = {"alone": alone.seconds(None)}
        found |= {name: steered.seconds(arguments) for name, arguments in kinds.items()}
        if number:  # the first warms up
            for name, seconds in found.items():
                rounds[name].append(seconds)
    rows = []
    for name, each in rounds.items():
        ratio = spread([one / base for one, base in zip(each, rounds["alone"], strict=True)])
        ms = 1e3 * median(each)
        report.document[name] = {"ms": ms, "times": ratio._asdict()}
        spans = f"{ratio.low:.3f} to {ratio.high:.3f}"
        rows.append([name, f"{ms:.3f}", f"{ratio.median:.3f}", spans])
    report.document |= {"rows": options.rows, "tokens": options.tokens}
    report.table(["requests", "ms of CPU a token", "times alone", "20 to 80 %"], rows)
    report.finish()


if __name__ == "__main__":
    main()
