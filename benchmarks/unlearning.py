"""A delta model that makes one model forget, carried over to a model with another vocabulary.

    python benchmarks/unlearning.py --data TOFU [--work DIR] [--seeds 0 1 2] [--output DIR] [--json]

TOFU is a folder with the files of https://huggingface.co/datasets/locuslab/TOFU: forget01.json,
and those that end in `_perturbed.json`. All on a CPU. Both models learn the same made-up authors;
the delta is trained beside one of them to forget one author, and then steers the other. Every model
that is trained is kept in the folder of --work, where the next run finds it. The figures are put
into `results.md` in --output.

Nothing is reported before losses of two rows, of teacher forcing, were found to be those of
decoding step by step.
"""

import argparse
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from finetune import Tuning, check_installed, tuned
from measure import Report, command_line
from results_document import Table, listed, measured, put_section
from transfer_setup import (
    AUTHOR,
    LAYERS,
    PM_MINED,
    PROMPT_TEMPLATE,
    Setup,
    add_setup,
    check_delta,
    over_seeds,
    part,
    ready_delta,
    trained_delta,
)

from cmc_runtime import Delta, LoadedModel
from cmc_runtime.data.examples import Example, Examples, Skipped, read_examples
from cmc_runtime.data.samples import fitting_samples
from cmc_runtime.evaluation.scores import Scores, score_samples
from cmc_runtime.evaluation.tofu_files import Questions, read_tofu
from cmc_runtime.evaluation.tofu_run import TofuScores, evaluate_tofu
from cmc_runtime.training.options import TrainingOptions
from pm_mined.bench import timed

RETAINED, APART = 3, 1  # authors to retain: in the delta's training, and kept out of it
BATCH, NEW_TOKENS = 10, 48  # of an evaluation
LEARNING = Tuning(PROMPT_TEMPLATE, epochs=5, learning_rate=5e-4)
OPTIONS = TrainingOptions(
    "grad-diff", num_train_epochs=6, learning_rate=5e-4, prompt_template=PROMPT_TEMPLATE
)
PACKAGES = ("pm-mined", "torch", "transformers", "tokenizers", "peft", "numpy")


@dataclass(frozen=True)
class UnlearningSetup(Setup):
    """Also the rows of a run."""

    data: Path

    @cached_property
    def forget(self) -> Examples:
        """The author to forget."""
        return read_examples(self.data / "forget01.json", limit=AUTHOR)

    @cached_property
    def others(self) -> Examples:
        """All authors to retain."""
        rows = (RETAINED + APART) * AUTHOR
        return read_examples(self.data / "retain_perturbed.json", limit=rows)

    @property
    def retained(self) -> Examples:
        """Those that are in the delta's training."""
        return part(self.others, 0, RETAINED * AUTHOR)

    @property
    def apart(self) -> Examples:
        """The one that is not."""
        return part(self.others, RETAINED * AUTHOR, None)

    @cached_property
    def questions(self) -> Questions:
        """Two of TOFU's sets, for time, of as many rows as an author has."""
        every = read_tofu(self.data, forget="forget01", limit=AUTHOR)
        return {"forget": every["forget"], "retain": every["retain"]}


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


def tofu(setup: UnlearningSetup, user: LoadedModel, delta: Delta | None = None) -> list[TofuScores]:
    """Of a model alone, and with a delta model."""
    return evaluate_tofu(
        *(user, setup.questions, PROMPT_TEMPLATE, delta),
        batch_size=BATCH,
        max_new_tokens=NEW_TOKENS,
    ).scores


def losses(user: LoadedModel, rows: list[Example], delta: Delta) -> list[Scores]:
    """Of a model alone, and with a delta model."""
    samples = fitting_samples(user, rows, PROMPT_TEMPLATE, delta).samples
    return score_samples(user, samples, delta, batch_size=BATCH)


def figures(scores: TofuScores, apart: Scores, retrained: TofuScores) -> dict[str, float]:
    """The figures of the tables."""
    forget, retain = scores.sets["forget"], scores.sets["retain"]
    found = {
        "forget probability": forget.probability,
        "forget ROUGE-L": forget.rouge,
        "forget truth ratio": forget.truth_ratio,
        "retain probability": retain.probability,
        "retain ROUGE-L": retain.rouge,
        "apart loss/char": apart.loss_per_character,
    }
    if (quality := scores.quality(retrained.log_truth_ratios)) is not None:
        found["forget quality"] = quality  # the retrained model has none itself
    return found


def measure(setup: UnlearningSetup, pupil: Pupil, deltas: list[Delta]) -> dict[str, dict[str, Any]]:
    """A model alone, with the delta of each seed, and the retrained one."""
    (retrained,) = tofu(setup, pupil.retrained)
    kept_out = setup.apart.rows
    apart = losses(pupil.retrained, kept_out, deltas[0])[0]
    by_seed = []
    for delta in deltas:
        every = zip(
            tofu(setup, pupil.learned, delta),
            losses(pupil.learned, kept_out, delta),
            strict=True,
        )
        by_seed.append([figures(scores, other, retrained) for scores, other in every])
        setup.say(f"{pupil.learned.spec}: {by_seed[-1]}")
    steered = [one for _, one in by_seed]
    return {
        "alone": _over([by_seed[0][0]]),
        "delta": _over(steered),
        "retrained": _over([figures(retrained, apart, retrained)]),
    }


def _over(by_seed: list[dict[str, float]]) -> dict[str, Any]:
    found = {name: over_seeds([one[name] for one in by_seed]) for name in by_seed[0]}
    if "forget quality" in found:  # p-values have no mean
        found["forget quality"] = {"each": [one["forget quality"] for one in by_seed]}
    return found


def measure_unlearning(setup: UnlearningSetup) -> dict[str, Any]:
    """All figures."""
    template = taught(setup, setup.template, "template")
    user = taught(setup, setup.user, "user")
    models = [
        trained_delta(
            *(setup, setup.work / f"forgetting-{seed}", template.learned, setup.forget),
            *(replace(OPTIONS, seed=seed), setup.retained),
        )
        for seed in setup.seeds
    ]
    token_map = setup.token_map(PM_MINED)
    carried = [ready_delta(model, user.learned, token_map) for model in models]
    check_delta(user.learned, carried[0], setup.forget.rows[:2], setup.say)
    own = [ready_delta(model, template.learned) for model in models]
    return {
        "options": asdict(OPTIONS) | {"seed": list(setup.seeds)},
        "learning": asdict(LEARNING),
        "template": measure(setup, template, own),
        "user": measure(setup, user, carried),
    }


# --- The report ----------------------------------------------------------------------------------

_NAMES = {"template": "SmolLM2", "user": "Gemma, pm-mined"}
_WHICH = {"alone": "that learned all", "delta": "+ delta", "retrained": "that never saw the author"}


def text(found: dict[str, Any]) -> str:
    """The section of `results.md`."""
    return "\n".join(
        [
            "## Unlearning carried to another vocabulary\n",
            measured(found, "python benchmarks/unlearning.py --data TOFU"),
            f"Subsampled: of TOFU's forget01 the first author ({AUTHOR} rows) is to be forgotten, "
            f"{RETAINED + APART} of `retain_perturbed` are to be retained, {APART} of them "
            "(`apart`) is not in the delta's training. SmolLM2-135M-Instruct and Gemma-3-270M "
            f"each learn all of them: LoRA, merged, {listed(found['learning'])}. The delta, the "
            f"first {LAYERS} layers of the tuned SmolLM2 with a head of zeros, is trained beside "
            f"that model: {listed(found['options'])}.\n",
            f"Metrics are TOFU's, of the first {AUTHOR} questions of two sets, greedy answers of "
            f"at most {NEW_TOKENS} tokens; of the retain set, as in TOFU, those are in the delta's "
            "training, so `apart` is what it does to an author it was not told to retain. The "
            "forget quality is a p-value against the model that never saw the author, for each "
            "seed; else, of deltas: the mean over seeds ± half of its 95 % interval by Student's "
            "t.\n",
            *(table.markdown() for table in tables(found)),
        ]
    )


def tables(found: dict[str, Any]) -> list[Table]:
    """For the document and for the terminal: a metric in each row."""
    return [
        Table(
            name,
            ["", *_WHICH.values()],
            [
                [metric, *(_cell(found[model][which].get(metric)) for which in _WHICH)]
                for metric in found[model]["delta"]
            ],
        )
        for model, name in _NAMES.items()
    ]


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "-"
    if "each" in figure:
        return ", ".join(f"{one:.2g}" for one in figure["each"])
    mean = f"{figure['mean']:.3g}"
    if figure["interval"] is None:
        return mean
    return f"{mean} ± {(figure['interval'][1] - figure['interval'][0]) / 2:.2g}"


# --- The command ---------------------------------------------------------------------------------


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of TOFU's files")
    add_setup(parser, "unlearning")
    return parser.parse_args()


def main() -> None:
    """Train what is not there, measure, print tables and one JSON line, write the document."""
    options = parse_options()
    check_installed()
    report = Report("unlearning", json_only=options.json, packages=PACKAGES)
    setup = UnlearningSetup(options.work, options.seeds, report.line, options.data)
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
