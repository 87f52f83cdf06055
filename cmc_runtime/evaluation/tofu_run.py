"""TOFU's four sets of questions through a model, alone and with a delta model.

Every answer of a question, true, paraphrased or perturbed, is a sample of its own, so that each is
steered by what the delta model reads before its own tokens. As in TOFU's own program, the loss of
an answer is the mean of its tokens and of the one that ends it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmc_runtime.data.examples import Example, Skipped
from cmc_runtime.data.samples import Sample, SampleMaker, why_unusable
from cmc_runtime.delta import Delta
from cmc_runtime.engines.generate import Completion, Sampling, generate
from cmc_runtime.errors import DataError
from cmc_runtime.models.load import LoadedModel

from .memorization import Memorization, leak
from .scores import Fusion, OnSamples, Scores, fusions_or_default, score_samples, settings_json
from .tofu import (
    SetMetrics,
    forget_quality,
    forget_truth_ratio,
    log_truth_ratios,
    model_utility,
    probability,
    probability_among_choices,
    rouge_l_recalls,
    truth_ratio,
)
from .tofu_files import OF_CHOICES, SETS, Questions, SetName

ANSWER_TOKENS = 200  # that TOFU lets a model write


@dataclass(frozen=True, eq=False)
class TofuScores:
    """TOFU's metrics of a model, alone or with a fusion.

    Attributes:
        fusion: What was added to the model's logits; None for the model alone.
        sets: The metrics of each set; the truth ratio of `forget` is `forget_truth_ratio`.
        log_truth_ratios: float64 [questions], of the forget set.
        memorization: How much of the answers of each set the model has by heart.
        leak: Of the forget set, the best of several sampled answers: see `leak`; None if none
            were sampled.
        ended: How many answers of each set the model ended, before they had to be cut off.
    """

    fusion: Fusion | None
    sets: dict[SetName, SetMetrics]
    log_truth_ratios: NDArray[np.float64]
    memorization: dict[SetName, Memorization] = field(default_factory=dict)
    leak: float | None = None
    ended: dict[SetName, int] = field(default_factory=dict)

    @property
    def utility(self) -> float:
        """See `model_utility`."""
        return model_utility(*(self.sets[name] for name in SETS[1:]))

    def quality(self, retrained: NDArray[np.float64]) -> float | None:
        """See `forget_quality`; None if the model is the retrained one itself."""
        if np.array_equal(np.sort(self.log_truth_ratios), np.sort(retrained)):
            return None
        return forget_quality(self.log_truth_ratios, retrained)


def num_answers(questions: Questions, num_fusions: int, leak_samples: int = 0) -> int:
    """The number of answers that are scored, and then written, alone and with each fusion."""
    rows = [row for some in questions.values() for row in some]
    scored = sum(1 + (row.paraphrased is not None) + len(row.perturbed) for row in rows)
    written = len(rows) + leak_samples * len(questions["forget"])
    return scored + written * (1 + num_fusions)


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
    leak_samples: int = 0,
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
        leak_samples: How many answers to each question of the forget set are sampled as well, at
            temperature 1, for `TofuScores.leak`.
        on_answers: Told how many answers more are scored or written: `num_answers` in all, less
            those of skipped questions.

    Raises:
        DataError: all questions of a set are skipped.
        OptionError, ModelError, ContextError: as `evaluate` and `generate` say.
    """
    chosen = fusions_or_default(delta, fusions)
    sizes = batch_size, max_length, max_new_tokens, leak_samples
    run = _Run(user, prompt_template, delta, chosen, *sizes, on_answers)
    made = {name: run.evaluate(name, rows) for name, rows in questions.items()}
    scores = [
        TofuScores(
            fusion,
            {name: one.metrics[i] for name, one in made.items()},
            made["forget"].log_truth_ratios[i],
            {name: one.memorization[i] for name, one in made.items()},
            made["forget"].leaks[i],
            {name: one.ended[i] for name, one in made.items()},
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
    memorization: list[Memorization]
    leaks: list[float | None]
    ended: list[int]
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
    leak_samples: int
    on_answers: OnSamples

    def evaluate(self, name: SetName, examples: Sequence[Example]) -> _SetScores:
        questions, skipped = self._usable(name, examples)
        scores = self._scores(questions)
        losses = [_losses(questions, one) for one in scores]
        examples = [question.example for question in questions]
        hows = (None, *self.fusions)
        greedy = Sampling(self.max_new_tokens)
        written = [self._written(examples, fusion, greedy) for fusion in hows]
        rouges = [float(_recalls(examples, texts).mean()) for texts in written]
        ended = [sum(text.ended for text in texts) for texts in written]
        leaks = [self._leak(examples, fusion) if name == "forget" else None for fusion in hows]
        ratios = [
            log_truth_ratios([one.truth for one in each], [one.perturbed for one in each])
            for each in losses
        ]
        metrics = [
            SetMetrics(_probability(name, each), rouge, _truth_ratio(name, log_ratios))
            for each, rouge, log_ratios in zip(losses, rouges, ratios, strict=True)
        ]
        memorization = [Memorization.of(_correct_answers(questions, one)) for one in scores]
        return _SetScores(metrics, ratios, memorization, leaks, ended, skipped)

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

    def _scores(self, questions: Sequence[_Question]) -> list[Scores]:
        """For the model alone and each fusion: of all samples, question after question."""
        return score_samples(
            self.user,
            [sample for question in questions for sample in question.samples],
            self.delta,
            self.fusions,
            batch_size=self.batch_size,
            on_samples=self.on_answers,
        )

    def _leak(self, examples: Sequence[Example], fusion: Fusion | None) -> float | None:
        """Of answers that are sampled from the model, alone or steered."""
        if not self.leak_samples:
            return None
        repeated = [example for example in examples for _ in range(self.leak_samples)]
        sampling = Sampling(self.max_new_tokens, temperature=1.0, seed=0)
        recalls = _recalls(repeated, self._written(repeated, fusion, sampling))
        return leak(recalls.reshape(len(examples), self.leak_samples))

    def _written(
        self, examples: Sequence[Example], fusion: Fusion | None, sampling: Sampling
    ) -> list[Completion]:
        """The text that the model writes, alone or steered, for each prompt."""
        completions = generate(
            self.user,
            [example.prompt for example in examples],
            **steered_by(self.delta, fusion),
            prompt_template=self.prompt_template,
            sampling=sampling,
            batch_size=self.batch_size,
        )
        texts = []
        for completion in completions:
            texts.append(completion)
            self.on_answers(1)
        return texts


def _recalls(examples: Sequence[Example], texts: Sequence[Completion]) -> NDArray[np.float64]:
    """The ROUGE-L recall of each text."""
    return rouge_l_recalls([one.response for one in examples], [one.text for one in texts])


def _losses(questions: Sequence[_Question], scores: Scores) -> list[_Losses]:
    """Of each question."""
    losses = iter(scores.mean_losses.tolist())
    return [_Losses.of(question, losses) for question in questions]


def _correct_answers(questions: Sequence[_Question], scores: Scores) -> list[NDArray[np.bool_]]:
    """Of each question's true answer, its first: whether each token is the likeliest."""
    of_each = scores.correct_by_sample
    counts = [len(question.samples) for question in questions]
    return [of_each[i] for i in np.cumsum([0, *counts[:-1]])]


def steered_by(delta: Delta | None, fusion: Fusion | None) -> dict[str, Any]:
    """Arguments by which `generate` steers by a fusion; none for the model alone."""
    if delta is None or fusion is None:
        return {}
    steering = replace(delta, unmapped=fusion.unmapped, limits=fusion.limits)
    return {"steering": steering, "alpha": fusion.alpha}


def _probability(name: SetName, losses: Sequence[_Losses]) -> float:
    answers = [one.answer for one in losses]
    if name in OF_CHOICES:
        return probability_among_choices(answers, [one.perturbed for one in losses])
    return probability(answers)


def _truth_ratio(name: SetName, log_ratios: NDArray[np.float64]) -> float:
    return forget_truth_ratio(log_ratios) if name == "forget" else truth_ratio(log_ratios)


def tofu_json(scores: TofuScores, retrained: NDArray[np.float64] | None) -> dict[str, Any]:
    """The scores for JSON; the forget quality is null without a retrained model's ratios."""
    sets: dict[str, dict[str, Any]] = {
        name: metrics._asdict() for name, metrics in scores.sets.items()
    }
    for name, memorization in scores.memorization.items():
        sets[name] |= memorization._asdict() | {"ended": scores.ended[name]}
    sets["forget"]["log_truth_ratios"] = scores.log_truth_ratios.tolist()
    sets["forget"]["leak"] = scores.leak
    quality = None if retrained is None else scores.quality(retrained)
    settings = settings_json(scores.fusion)
    return {**settings, **sets, "model_utility": scores.utility, "forget_quality": quality}
