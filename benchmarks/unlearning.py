"""Deltas that make one model forget, carried over to a model with another vocabulary.

    python benchmarks/unlearning.py --data TOFU [--work DIR] [--methods kl remember] [--rows N]
        [--leak K] [--strategy NAME] [--seeds 0 1 2] [--output DIR] [--json]

TOFU is a folder with the files of https://huggingface.co/datasets/locuslab/TOFU: forget01.json,
and those that end in `_perturbed.json`. All on a CPU. Both models learn the same made-up authors;
a delta of each method is trained beside one of them to forget one author, and then steers the
other. Its strength is chosen on half of the questions, and reported on the others. Every model that
is trained is kept in the folder of --work, where the next run finds it. The figures are put into
`results.md` in --output.

Nothing is reported before losses of two rows, of teacher forcing, were found to be those of
decoding step by step.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from finetune import Tuning, check_installed, tuned
from measure import Report, command_line
from results_document import put_section
from transfer_setup import (
    AUTHOR,
    PROMPT_TEMPLATE,
    SETTINGS,
    add_setup,
    check_delta,
    over_seeds,
    ready_delta,
    trained_delta,
)
from unlearning_report import tables, text
from unlearning_setup import BATCH, LOST, METHODS, NEW_TOKENS, UnlearningSetup

from cmc_runtime import Delta, LoadedModel
from cmc_runtime.data.examples import Example, Examples, Skipped
from cmc_runtime.data.samples import fitting_samples
from cmc_runtime.evaluation.scores import Fusion, Scores, score_samples
from cmc_runtime.evaluation.tofu import probability
from cmc_runtime.evaluation.tofu_run import TofuScores, evaluate_tofu
from pm_mined.bench import timed

LEARNING = Tuning(PROMPT_TEMPLATE, epochs=5, learning_rate=5e-4)
PACKAGES = ("pm-mined", "torch", "transformers", "tokenizers", "peft", "numpy")


@dataclass(frozen=True)
class Pupil:
    """A model that has learned all authors, and one that never saw the one to forget."""

    learned: LoadedModel
    retrained: LoadedModel


def taught(setup: UnlearningSetup, base: LoadedModel, name: str) -> Pupil:
    """Two tuned copies of a model."""
    setup.say(f"LoRA on the {name}: it learns {len(setup.forget.rows + setup.others.rows)} rows")
    everyone = Examples([*setup.forget.rows, *setup.others.rows], Skipped())
    return Pupil(
        tuned(base, everyone, setup.work / f"learned-{name}", LEARNING),
        tuned(base, setup.others, setup.work / f"retrained-{name}", LEARNING),
    )


# --- Figures -------------------------------------------------------------------------------------


def tofu(
    setup: UnlearningSetup,
    user: LoadedModel,
    delta: Delta | None = None,
    fusions: Sequence[Fusion] | None = None,
) -> list[TofuScores]:
    """Of a model alone, and with a delta model."""
    return evaluate_tofu(
        *(user, setup.reported, PROMPT_TEMPLATE, delta, fusions),
        batch_size=BATCH,
        max_new_tokens=NEW_TOKENS,
        leak_samples=setup.leak,
    ).scores


def losses(
    user: LoadedModel, rows: Sequence[Example], delta: Delta, fusions: Sequence[Fusion]
) -> list[Scores]:
    """Of a model alone, and with each fusion."""
    samples = fitting_samples(user, rows, PROMPT_TEMPLATE, delta).samples
    return score_samples(user, samples, delta, fusions, batch_size=BATCH)


def chosen_fusion(
    setup: UnlearningSetup, user: LoadedModel, delta: Delta, strengths: Sequence[float]
) -> Fusion:
    """The weakest strength that makes what is to be forgotten as unlikely as what was never seen.

    Where a strength forgets more than that, answers tell what was forgotten by avoiding it. One
    that costs the retained answers more than a little is not taken; where none of the others
    forgets enough, the one that forgets most is. Nothing is asked that one could not know: neither
    rows that are reported, nor the model that never saw the author, but rows that nobody learned.
    """
    fusions = [Fusion.of(delta, alpha) for alpha in sorted(strengths, key=abs)]
    forget, retain = (
        [probability(one.mean_losses) for one in losses(user, rows, delta, fusions)]
        for rows in setup.choosing.values()
    )
    (unseen,) = losses(user, setup.unseen, delta, [])
    enough = probability(unseen.mean_losses)
    setup.say(
        f"{user.spec}: {[one.alpha for one in fusions]}: forget {_short(forget)}, "
        f"retain {_short(retain)}, never seen {enough:.3f}"
    )
    cheap = [i for i in range(len(fusions)) if retain[1 + i] >= retain[0] - LOST]
    found = [i for i in cheap if forget[1 + i] <= enough]
    return fusions[found[0] if found else min(cheap, key=lambda i: forget[1 + i], default=0)]


def _short(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]


def figures(scores: TofuScores, apart: Scores, retrained: TofuScores) -> dict[str, float]:
    """The figures of the tables."""
    forget, retain = scores.sets["forget"], scores.sets["retain"]
    heart = scores.memorization["forget"]
    found = {
        "forget probability": forget.probability,
        "forget ROUGE-L": forget.rouge,
        "forget truth ratio": forget.truth_ratio,
        "forget exact memorization": heart.exact_memorization,
        "forget extraction strength": heart.extraction_strength,
        "retain probability": retain.probability,
        "retain ROUGE-L": retain.rouge,
        "retain exact memorization": scores.memorization["retain"].exact_memorization,
        "apart loss/char": apart.loss_per_character,
    }
    if scores.leak is not None:
        found["forget leak"] = scores.leak
    if scores.fusion is not None:
        found["strength"] = scores.fusion.alpha
    if (quality := scores.quality(retrained.log_truth_ratios)) is not None:
        found["forget quality"] = quality  # the retrained model has none itself
    return found


def measure(
    setup: UnlearningSetup, pupil: Pupil, deltas: dict[str, list[Delta]]
) -> dict[str, dict[str, Any]]:
    """A model alone, with the deltas of each method by seeds, and the retrained one."""
    (retrained,) = tofu(setup, pupil.retrained)
    kept_out = setup.apart.rows
    first = next(iter(deltas.values()))[0]  # for the contexts that samples have
    (apart,) = losses(pupil.retrained, kept_out, first, [])
    found = {"retrained": [figures(retrained, apart, retrained)]}
    for method, of_seeds in deltas.items():
        found[method] = []
        for delta in of_seeds:
            fusions = [chosen_fusion(setup, pupil.learned, delta, METHODS[method].strengths)]
            scores = tofu(setup, pupil.learned, delta, fusions)
            aparts = losses(pupil.learned, kept_out, delta, fusions)
            pairs = zip(scores, aparts, strict=True)
            alone, steered = (figures(*pair, retrained) for pair in pairs)
            found["alone"] = [alone]
            found[method].append(steered)
            setup.say(f"{pupil.learned.spec}, {method}: {steered}")
    return {name: _over(by_seed) for name, by_seed in found.items()}


def _over(by_seed: list[dict[str, float]]) -> dict[str, Any]:
    found = {name: over_seeds([one[name] for one in by_seed]) for name in by_seed[0]}
    for name in ("forget quality", "strength"):  # p-values have no mean, nor what was chosen
        if name in found:
            found[name] = {"each": [one[name] for one in by_seed]}
    return found


def measure_unlearning(setup: UnlearningSetup) -> dict[str, Any]:
    """All figures."""
    template = taught(setup, setup.template, "template")
    models = {name: _trained(setup, template.learned, name) for name in setup.methods}
    user = taught(setup, setup.user, "user")
    token_map = setup.token_map(setup.strategy)
    own, carried = {}, {}
    for name, of_seeds in models.items():
        own[name] = [ready_delta(model, template.learned) for model in of_seeds]
        carried[name] = [ready_delta(model, user.learned, token_map) for model in of_seeds]
        check_delta(user.learned, carried[name][0], setup.forget.rows[:2], setup.say)
    return {
        "rows": setup.rows,
        "strategy": setup.strategy,
        "leak samples": setup.leak,
        "options": {name: METHODS[name].options.to_json() for name in setup.methods},
        "learning": asdict(LEARNING),
        "template": measure(setup, template, own),
        "user": measure(setup, user, carried),
    }


def _trained(setup: UnlearningSetup, template: LoadedModel, method: str) -> list[LoadedModel]:
    """The delta models of a method, of each seed."""
    return [
        trained_delta(
            *(setup, setup.work / f"{method}-{seed}", template, setup.forget),
            *(replace(METHODS[method].options, seed=seed), setup.retained),
        )
        for seed in setup.seeds
    ]


# --- The command ---------------------------------------------------------------------------------


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of TOFU's files")
    parser.add_argument("--rows", type=int, default=AUTHOR, help="of each author")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--leak", type=int, default=16, help="answers to sample")
    parser.add_argument("--strategy", choices=SETTINGS, default="both-ways", help="of the map")
    add_setup(parser, "unlearning")
    return parser.parse_args()


def main() -> None:
    """Train what is not there, measure, print tables and one JSON line, write the document."""
    options = parse_options()
    check_installed()
    report = Report("unlearning", json_only=options.json, packages=PACKAGES)
    setup = UnlearningSetup(
        *(options.work, options.seeds, report.line, options.data),
        *(options.rows, options.methods, options.leak, options.strategy),
    )
    setup.work.mkdir(parents=True, exist_ok=True)
    found, seconds = timed(lambda: measure_unlearning(setup))
    report.document |= found | {
        "threads": torch.get_num_threads(),
        "seeds": options.seeds,
        "seconds": seconds,
    }
    put_section(options.output / "results.md", "unlearning.py", text(report.document))
    for table in tables(report.document):
        report.line(table.title)
        report.table(table.header, table.rows)
    report.finish()


if __name__ == "__main__":
    main()
