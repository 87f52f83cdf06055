"""The transfer of a delta model that was trained beside one model to another model.

    python benchmarks/transfer.py --data forget10.json [--work DIR] [--seeds 0 1 2] [--limit N]
                                  [--output DIR] [--json]

TOFU's forget10.json is data of https://huggingface.co/datasets/locuslab/TOFU. All on a CPU. Every
model that is trained is kept in the folder of --work, where the next run finds it; a run that was
stopped is gone on with. The figures are put into `results.md` in --output.

Nothing is reported before losses of two rows, of teacher forcing, were found to be those of
decoding step by step; so for a delta model, and for an expert less an anti-expert.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_report
from finetune import Tuning, check_installed, tuned
from measure import Report, Spread, command_line, seconds_of
from transfer_scores import (
    BATCH,
    Way,
    contrast_scores,
    figures,
    less_than,
    own_scores,
    samples_of,
    scores_by_way,
)
from transfer_setup import (
    AUTHOR,
    PM_MINED,
    PROMPT_TEMPLATE,
    SETTINGS,
    Setup,
    add_setup,
    check_delta,
    check_stepwise,
    part,
    ready_delta,
    trained_delta,
)

from cmc_runtime import Contrast, Delta, LoadedModel, MapTensors, fuse_logits
from cmc_runtime.data.examples import Examples, read_examples
from cmc_runtime.evaluation.scores import Fusion, Scores, score_samples, token_rules
from cmc_runtime.fusion.arguments import Unmapped
from cmc_runtime.training.options import TrainingOptions
from pm_mined import Rule
from pm_mined.bench import timed

ROWS, HELD_OUT = 160, 80
MOST = 400 - HELD_OUT  # of forget10's rows
ALPHAS = (0.5, 0.75, 1.0, 1.25, 1.5)
HELD_OUT_WAYS = ("both-ways", "first-token", PM_MINED)
POLICIES: tuple[Unmapped, ...] = ("zero", "keep", "mean")
WEIGHTED = ("distribute", "decay", "prefixes")
STEPS = 50  # that are timed
OPTIONS = TrainingOptions(num_train_epochs=8, learning_rate=5e-4, prompt_template=PROMPT_TEMPLATE)
LORA = Tuning(PROMPT_TEMPLATE, epochs=4, learning_rate=2e-4)  # fewer epochs than a delta, for time
PACKAGES = ("pm-mined", "torch", "transformers", "tokenizers", "peft", "numpy")


@dataclass(frozen=True)
class TransferSetup(Setup):
    """Also the rows of a run."""

    rows: Examples  # all that it uses
    limit: int  # so many of them are trained on; the others are held out

    @property
    def learned(self) -> Examples:
        """The rows that are trained on."""
        return part(self.rows, 0, self.limit)

    @property
    def held_out(self) -> Examples:
        """Rows that nothing is trained on."""
        return part(self.rows, self.limit, None)


# --- All models ----------------------------------------------------------------------------------


def measure_transfer(setup: TransferSetup) -> dict[str, Any]:
    """All figures."""
    models = [
        trained_delta(
            *(setup, setup.work / f"delta-{seed}", setup.template, setup.learned),
            replace(OPTIONS, seed=seed),
        )
        for seed in setup.seeds
    ]
    setup.say(f"{len(models)} deltas")
    maps = {name: setup.token_map(name) for name in SETTINGS}
    tensors = {name: setup.tensors(one) for name, one in maps.items()}
    setup.say(f"{len(maps)} maps")
    deltas = [ready_delta(model, setup.user, maps[PM_MINED]) for model in models]
    check_delta(setup.user, deltas[0], setup.learned.rows[:2], setup.say)
    own = [ready_delta(model, setup.template) for model in models]
    proxied = measure_proxy(setup, deltas[0], tensors[PM_MINED])
    return {
        "options": asdict(OPTIONS) | {"alpha": OPTIONS.strength, "seed": list(setup.seeds)},
        "lora": asdict(LORA),
        "template": measure_template(setup, own),
        "user": measure_user(setup, deltas, tensors) | {"proxy": proxied},
        "lora_on_user": measure_lora(setup),
    }


def measure_template(setup: TransferSetup, deltas: Sequence[Delta]) -> dict[str, Any]:
    """The model beside which the deltas were trained."""
    found: dict[str, Any] = {}
    for name, rows in (("learned", setup.learned), ("held_out", setup.held_out)):
        alone, steered = own_scores(setup.template, rows, deltas)
        found[name] = {"alone": figures(alone[:1]), "delta": figures(steered)}
        setup.say(f"{name} rows, template: {steered[0].loss_per_character:.4f}")
    return found


def measure_user(
    setup: TransferSetup, deltas: Sequence[Delta], tensors: dict[str, MapTensors]
) -> dict[str, Any]:
    """The model with another vocabulary."""
    found = strategy_scores(setup, deltas, tensors)
    gains = {way.strategy: less_than(one, found[Way(PM_MINED)]) for way, one in found.items()}
    best = max(gains, key=lambda name: float(gains[name]["mean"]))
    setup.say(", ".join(f"{name} {gain['mean']:+.4f}" for name, gain in gains.items()))
    carried = [*dict.fromkeys((PM_MINED, best))]
    strengths = [Way(name, alpha) for name in carried for alpha in ALPHAS]
    # With `exact`, enough tokens are unmapped for the policy to count.
    policies = [Way(name, 1.0, policy) for name in (*carried, "exact") for policy in POLICIES]
    ways = [*dict.fromkeys([*strengths, *policies])]
    alone, swept = scores_by_way(*(setup.user, setup.learned, deltas[:1], tensors, ways))
    fresh = scores_by_way(
        *(setup.user, setup.held_out, deltas, tensors, [Way(name) for name in HELD_OUT_WAYS])
    )
    _, fresh_swept = scores_by_way(*(setup.user, setup.held_out, deltas[:1], tensors, strengths))
    steps = fusing_seconds(setup, tensors)
    targets = alone.targets
    is_exact = np.isin(token_rules(deltas[0], targets), (Rule.EXACT, Rule.BYTE))
    return {
        "best": best,
        "exact_share": float(is_exact[alone.is_text].mean()),
        "alone": {"learned": figures([alone], is_exact), "held_out": figures([fresh.alone])},
        "strategies": {
            way.strategy: figures(one, is_exact)
            | {"less_than_pm_mined": gains[way.strategy], "step": steps[way.strategy]}
            for way, one in found.items()
        },
        "sweep": [
            {**way._asdict(), **figures(one)}
            | {"held_out": figures(fresh_swept[way]) if way in fresh_swept else None}
            for way, one in swept.items()
        ],
        "held_out": {way.strategy: figures(one) for way, one in fresh.steered.items()},
        "pairs": [
            {
                "strategy": one,
                "other": other,
                "learned": less_than(found[Way(one)], found[Way(other)]),
                "held_out": less_than(fresh.steered[Way(one)], fresh.steered[Way(other)]),
            }
            for one, other in combinations(HELD_OUT_WAYS, 2)
        ],
    }


def fusing_seconds(setup: TransferSetup, tensors: dict[str, MapTensors]) -> dict[str, Spread]:
    """The seconds of fusing the logits of one step, by strategy."""
    random = torch.Generator().manual_seed(0)
    widths = setup.user.num_logits, setup.template.num_logits
    base, delta = (torch.randn(1, width, generator=random) for width in widths)
    fusing = {name: partial(fuse_logits, base, delta, one) for name, one in tensors.items()}
    return seconds_of(STEPS, fusing)


def strategy_scores(
    setup: TransferSetup, deltas: Sequence[Delta], tensors: dict[str, MapTensors]
) -> dict[Way, list[Scores]]:
    """Of all strategies; of those that read several tokens, for time, with the first seed only."""
    every = [Way(name) for name in SETTINGS if name not in WEIGHTED]
    weighted = [Way(name) for name in SETTINGS if name in WEIGHTED]
    rows = setup.user, setup.learned
    _, found = scores_by_way(*rows, deltas, tensors, every)
    return found | scores_by_way(*rows, deltas[:1], tensors, weighted).steered


def measure_lora(setup: TransferSetup) -> dict[str, Any]:
    """LoRA on the user model itself."""
    setup.say("LoRA on the user model")
    model = tuned(setup.user, setup.learned, setup.work / "lora-user", LORA)
    return tuned_figures(setup, model)


def tuned_figures(setup: TransferSetup, model: LoadedModel) -> dict[str, Any]:
    """Of a model by itself."""
    return {
        name: figures(score_samples(model, samples_of(model, rows), batch_size=BATCH))
        for name, rows in (("learned", setup.learned), ("held_out", setup.held_out))
    }


def measure_proxy(setup: TransferSetup, delta: Delta, tensors: MapTensors) -> dict[str, Any]:
    """Proxy-tuning: the tuned frozen model as the expert, and as it was the anti-expert."""
    setup.say("LoRA on the frozen model, the expert of proxy-tuning")
    expert = tuned(setup.template, setup.learned, setup.work / "expert", LORA)
    alone, fusion = setup.template, Fusion(tensors)
    found: dict[str, Any] = {}
    for name, rows in (("learned", setup.learned), ("held_out", setup.held_out)):
        samples = samples_of(setup.user, rows, delta)
        scores = contrast_scores(setup.user, samples, expert, alone, fusion)
        proxy = Contrast(replace(delta, loaded=expert), replace(delta, loaded=alone))
        check_stepwise(setup.user, proxy, rows.rows[0].prompt, scores, 0, setup.say)
        found[name] = figures([scores])
    return found | {"expert": tuned_figures(setup, expert)}


# --- The command ---------------------------------------------------------------------------------


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="TOFU's forget10.json")
    add_setup(parser, "transfer")
    parser.add_argument("--limit", type=int, default=ROWS, help="rows to train on")
    return parser.parse_args()


def main() -> None:
    """Train what is not there, measure, print tables and one JSON line, write the document."""
    options = parse_options()
    check_installed()
    if options.limit % AUTHOR or not 0 < options.limit <= MOST:
        sys.exit(
            f"--limit {options.limit}: give whole authors, of {AUTHOR} rows, up to {MOST} rows"
        )
    report = Report("transfer", json_only=options.json, packages=PACKAGES)
    rows = read_examples(options.data, limit=options.limit + HELD_OUT)
    setup = TransferSetup(options.work, options.seeds, report.line, rows, options.limit)
    setup.work.mkdir(parents=True, exist_ok=True)
    found, seconds = timed(lambda: measure_transfer(setup))
    report.document |= found | {
        "threads": torch.get_num_threads(),
        "data": rows.digest,
        "rows": {"learned": options.limit, "held_out": len(rows.rows) - options.limit},
        "seeds": options.seeds,
        "seconds": seconds,
    }
    transfer_report.write(report.document, options.output)
    for table in transfer_report.tables(report.document):
        report.line(table.title)
        report.table(table.header, table.rows)
    report.finish()


if __name__ == "__main__":
    main()
