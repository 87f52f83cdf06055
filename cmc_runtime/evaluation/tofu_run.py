"""TOFU's four sets of questions through a model, alone and with a delta model.

Every answer of a question, true, paraphrased or perturbed, is a sample of its own, so that each is
steered by what the delta model reads before its own tokens. As in TOFU's own program, the loss of
an answer is the mean of its tokens and of the one that ends it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cmc_runtime.data.examples import Example, Skipped, read_examples
from cmc_runtime.data.samples import Sample, SampleMaker, why_unusable
from cmc_runtime.delta import Delta
from cmc_runtime.engines.generate import Sampling, generate
from cmc_runtime.errors import DataError
from cmc_runtime.models.load import LoadedModel

from .scores import Fusion, OnSamples, fusions_or_default, score_samples, settings_json
from .tofu import (
    SetMetrics,
    forget_quality,
    forget_truth_ratio,
    log_truth_ratios,
    model_utility,
    probability,
    probability_among_choices,
    rouge_l_recall,
    truth_ratio,
)

SetName: TypeAlias = Literal["forget", "retain", "real_authors", "world_facts"]
Questions: TypeAlias = Mapping[SetName, Sequence[Example]]

_SETS: tuple[SetName, ...] = ("forget", "retain", "real_authors", "world_facts")
_OF_CHOICES = ("real_authors", "world_facts")  # the probability is among the answers
ANSWER_TOKENS = 200  # that TOFU lets a model write


@dataclass(frozen=True, eq=False)
class TofuScores:
    """TOFU's metrics of a model, alone or with a fusion.

    Attributes:
        fusion: What was added to the model's logits; None for the model alone.
        sets: The metrics of each set; the truth ratio of `forget` is `forget_truth_ratio`.
        log_truth_ratios: float64 [questions], of the forget set.
    """

    fusion: Fusion | None
    sets: dict[SetName, SetMetrics]
    log_truth_ratios: NDArray[np.float64]

    @property
    def utility(self) -> float:
        """See `model_utility`."""
        return model_utility(*(self.sets[name] for name in _SETS[1:]))

    def quality(self, retrained: NDArray[np.float64]) -> float | None:
        """See `forget_quality`; None if the model is the retrained one itself."""
        if np.array_equal(np.sort(self.log_truth_ratios), np.sort(retrained)):
            return None
        return forget_quality(self.log_truth_ratios, retrained)


def read_tofu(
    folder: str | PathLike[str], *, forget: str = "forget10", limit: int | None = None
) -> dict[SetName, list[Example]]:
    """TOFU's questions from its `..._perturbed.json`; with `limit`, the first of each set.

    Raises:
        DataError: a file is missing or cannot be read, or a row lacks the answers it needs.
        OptionError: the limit is not a whole number, 1 or more.
    """
    stems = {name: name if name != "forget" else forget for name in _SETS}
    paths = {name: Path(folder, f"{stem}_perturbed.json") for name, stem in stems.items()}
    return {name: _read_set(name, path, limit) for name, path in paths.items()}


def _read_set(name: SetName, path: Path, limit: int | None) -> list[Example]:
    rows = read_examples(path, limit=limit).rows
    for row in rows:
        if not row.perturbed:
            raise DataError(f"{path}: row {row.row} has no perturbed_answer")
        if name not in _OF_CHOICES and row.paraphrased is None:
            raise DataError(f"{path}: row {row.row} has no paraphrased_answer")
    return rows


def num_answers(questions: Questions, num_fusions: int) -> int:
    """The number of answers that are scored, and then written, alone and with each fusion."""
    rows = [row for some in questions.values() for row in some]
    scored = sum(1 + (row.paraphrased is not None) + len(row.perturbed) for row in rows)
    return scored + len(rows) * (1 + num_fusions)


class TofuEvaluation(NamedTuple):
    """The result of `evaluate_tofu`."""

    scores: list[TofuScores]  # of the model alone, and with each fusion
    skipped: dict[SetName, Skipped]


def evaluate_tofu(
    user: LoadedModel,
    questions: Questions,
    prompt_template: str,
    delta: Delta | None = None,
    fusions: Sequence[Fusion] | None = None,
    *,
    batch_size: int = 1,
    max_length: int | None = None,
    max_new_tokens: int = ANSWER_TOKENS,
    on_answers: OnSamples = lambda _: None,
) -> TofuEvaluation:
    """Run TOFU's sets through a model alone, and then with each fusion of a delta model.

    Args:
        user: The model.
        questions: Of `read_tofu`.
        prompt_template: That of the user model: see `encode_prompt`.
        delta: A delta model for the user model.
        fusions: By default the one that the delta model was trained for.
        batch_size: How many answers run at once.
        max_length: Questions with a longer answer are skipped; the position limit if not given.
        max_new_tokens: How many tokens the model may write, for ROUGE; TOFU says 200.
        on_answers: Told how many answers more are scored or written: `num_answers` in all, less
            those of skipped questions.

    Raises:
        DataError: all questions of a set are skipped.
        OptionError, ModelError, ContextError: as `evaluate` and `generate` say.
    """
    chosen = fusions_or_default(delta, fusions)
    run = _Run(
        user, prompt_template, delta, chosen, batch_size, max_length, max_new_tokens, on_answers
    )
    made = {name: run.evaluate(name, rows) for name, rows in questions.items()}
    scores = [
        TofuScores(
            fusion,
            {name: one.metrics[i] for name, one in made.items()},
            made["forget"].log_truth_ratios[i],
        )
        for i, fusion in enumerate([None, *chosen])
    ]
    return TofuEvaluation(scores, {name: one.skipped for name, one in made.items()})


class _Question(NamedTuple):
    example: Example
    samples: list[Sample]  # of the answer, the paraphrased one if there is one, the perturbed ones


class _Losses(NamedTuple):
    """The mean losses of the answers of a question."""

    answer: float
    truth: float  # of the paraphrased answer, or else of the answer itself
    perturbed: list[float]

    @classmethod
    def of(cls, question: _Question, losses: Iterator[float]) -> "_Losses":
        """The next of these losses: as many as the question has samples."""
        answer, *others = islice(losses, len(question.samples))
        if question.example.paraphrased is None:
            return cls(answer, answer, others)
        return cls(answer, others[0], others[1:])


class _SetScores(NamedTuple):
    """Of the model alone and with each fusion."""

    metrics: list[SetMetrics]
    log_truth_ratios: list[NDArray[np.float64]]
    skipped: Skipped


@dataclass(frozen=True)
class _Run:
    """The models and options that the sets share."""

    user: LoadedModel
    prompt_template: str
    delta: Delta | None
    fusions: Sequence[Fusion]
    batch_size: int
    max_length: int | None
    max_new_tokens: int
    on_answers: OnSamples

    def evaluate(self, name: SetName, examples: Sequence[Example]) -> _SetScores:
        questions, skipped = self._usable(name, examples)
        losses = self._losses(questions)
        examples = [question.example for question in questions]
        rouges = [self._rouge(examples, fusion) for fusion in (None, *self.fusions)]
        ratios = [
            log_truth_ratios([one.truth for one in each], [one.perturbed for one in each])
            for each in losses
        ]
        metrics = [
            SetMetrics(_probability(name, each), rouge, _truth_ratio(name, log_ratios))
            for each, rouge, log_ratios in zip(losses, rouges, ratios, strict=True)
        ]
        return _SetScores(metrics, ratios, skipped)

    def _usable(
        self, name: SetName, examples: Sequence[Example]
    ) -> tuple[list[_Question], Skipped]:
        maker, skipped = SampleMaker(self.user, self.prompt_template, self.delta), Skipped()
        questions = []
        for example in examples:
            paraphrased = [] if example.paraphrased is None else [example.paraphrased]
            answers = [example.response, *paraphrased, *example.perturbed]
            samples = [maker.make(example.prompt, answer, example.row) for answer in answers]
            faults = (why_unusable(one, self.user, self.delta, self.max_length) for one in samples)
            fault = next(filter(None, faults), None)
            if fault is None:
                questions.append(_Question(example, samples))
            else:
                skipped.add(fault, example.row)
        if not questions:
            raise DataError(f"TOFU's {name}: no usable row for {self.user.spec}: {skipped}")
        return questions, skipped

    def _losses(self, questions: Sequence[_Question]) -> list[list[_Losses]]:
        """For the model alone and each fusion: of each question."""
        scores = score_samples(
            self.user,
            [sample for question in questions for sample in question.samples],
            self.delta,
            self.fusions,
            batch_size=self.batch_size,
            on_samples=self.on_answers,
        )
        found = (iter(one.mean_losses.tolist()) for one in scores)
        return [[_Losses.of(question, losses) for question in questions] for losses in found]

    def _rouge(self, examples: Sequence[Example], fusion: Fusion | None) -> float:
        """Of what the model writes, alone or steered."""
        completions = generate(
            self.user,
            [example.prompt for example in examples],
            **steered_by(self.delta, fusion),
            prompt_template=self.prompt_template,
            sampling=Sampling(self.max_new_tokens),
            batch_size=self.batch_size,
        )
        texts = []
        for completion in completions:
            texts.append(completion.text)
            self.on_answers(1)
        return rouge_l_recall([example.response for example in examples], texts)


def steered_by(delta: Delta | None, fusion: Fusion | None) -> dict[str, Any]:
    """Arguments by which `generate` steers by a fusion; none for the model alone."""
    if delta is None or fusion is None:
        return {}
    steering = replace(delta, unmapped=fusion.unmapped, limits=fusion.limits)
    return {"steering": steering, "alpha": fusion.alpha}


def _probability(name: SetName, losses: Sequence[_Losses]) -> float:
    answers = [one.answer for one in losses]
    if name in _OF_CHOICES:
        return probability_among_choices(answers, [one.perturbed for one in losses])
    return probability(answers)


def _truth_ratio(name: SetName, log_ratios: NDArray[np.float64]) -> float:
    return forget_truth_ratio(log_ratios) if name == "forget" else truth_ratio(log_ratios)


def tofu_json(scores: TofuScores, retrained: NDArray[np.float64] | None) -> dict[str, Any]:
    """The scores for JSON; the forget quality is null without a retrained model's ratios."""
    sets: dict[str, dict[str, Any]] = {
        name: metrics._asdict() for name, metrics in scores.sets.items()
    }
    sets["forget"]["log_truth_ratios"] = scores.log_truth_ratios.tolist()
    quality = None if retrained is None else scores.quality(retrained)
    settings = settings_json(scores.fusion)
    return {**settings, **sets, "model_utility": scores.utility, "forget_quality": quality}


def read_retrained(path: str | PathLike[str], forget: str) -> NDArray[np.float64]:
    """float64 [questions]: the log truth ratios of the forget set, of a retrained model.

    From what `cmc-runtime eval --tofu FOLDER --json` printed for that one model, alone or with one
    delta model at one strength: then the ratios are those with it.

    Raises:
        DataError: the file cannot be read, is something else, or of another forget set.
    """
    try:
        (model,) = json.loads(Path(path).read_text("utf-8"))["models"]
        tofu = model["tofu"]
        _, *more = tofu["results"]
        (result,) = more or tofu["results"]
        ratios = np.array(result["forget"]["log_truth_ratios"], np.float64)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: not what `cmc-runtime eval --tofu FOLDER --json` prints for one model, alone "
            "or with a delta model at one alpha"
        ) from error
    if tofu.get("forget_set") != forget:
        raise DataError(f"{path}: of TOFU's {tofu.get('forget_set')}, and not of {forget}")
    return ratios
