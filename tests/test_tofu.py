"""TOFU's metrics against hand-computed values, plain formulas and exhaustive tests."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmc_runtime.evaluation.tofu import (
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
from pm_mined import OptionError

LOSS = st.floats(0, 20)
QUESTIONS = st.lists(st.tuples(LOSS, st.lists(LOSS, min_size=1, max_size=5)), min_size=1)


def test_probability_by_hand():
    assert probability([math.log(2), math.log(8)]) == pytest.approx((1 / 2 + 1 / 8) / 2)


def test_probability_among_choices_by_hand():
    # p = 1/2 against 1/4 and 1/4; p = 1/10 against 9/10.
    losses, perturbed = [math.log(2), math.log(10)], [[math.log(4)] * 2, [math.log(10 / 9)]]
    assert probability_among_choices(losses, perturbed) == pytest.approx((0.5 + 0.1) / 2)


@settings(deadline=None)
@given(QUESTIONS)
def test_the_formulas_as_they_are_written(questions):
    true = [loss for loss, _ in questions]
    false = [losses for _, losses in questions]
    ref_choices, ref_forget, ref_truth = [], [], []
    for loss, losses in questions:
        p = math.exp(-loss)
        ref_choices.append(p / (p + sum(math.exp(-one) for one in losses)))
        ratio = math.exp(sum(losses) / len(losses) - loss)
        ref_forget.append(min(ratio, 1 / ratio))
        ref_truth.append(max(0, 1 - 1 / ratio))
    ratios = log_truth_ratios(true, false)
    assert ratios.dtype == np.float64
    assert probability_among_choices(true, false) == pytest.approx(np.mean(ref_choices))
    assert forget_truth_ratio(ratios) == pytest.approx(np.mean(ref_forget))
    assert truth_ratio(ratios) == pytest.approx(np.mean(ref_truth), abs=1e-12)


def test_the_truth_preferred_makes_the_ratio_large():
    """Losses as a model has that knows the truth: low on it, high on falsehoods."""
    knows = log_truth_ratios([0.1], [[5.0, 5.0]])
    assert knows > 0
    assert truth_ratio(knows) > 0.99
    assert forget_truth_ratio(knows) < 0.01
    assert truth_ratio(-knows) == 0
    assert forget_truth_ratio(-knows) == forget_truth_ratio(knows)


def test_extreme_losses_neither_overflow_nor_vanish():
    assert probability_among_choices([2000.0], [[2000.0, 2000.0, 2000.0]]) == pytest.approx(0.25)
    assert probability_among_choices([0.0], [[5000.0]]) == 1
    assert probability([1e5]) == 0
    assert forget_truth_ratio(log_truth_ratios([0.0, 5000.0], [[5000.0], [0.0]])) == 0
    assert truth_ratio(log_truth_ratios([0.0, 5000.0], [[5000.0], [0.0]])) == 0.5
    assert truth_ratio([1e-18]) == pytest.approx(1e-18, abs=0)


def test_float32_losses_are_added_in_float64():
    losses = np.full(10, 0.1, np.float32)
    assert probability(losses) == pytest.approx(math.exp(-float(np.float32(0.1))), rel=1e-14)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=9, max_size=9))
def test_model_utility_is_the_harmonic_mean(nine):
    sets = [SetMetrics(*nine[i : i + 3]) for i in (0, 3, 6)]
    assert model_utility(*sets) == pytest.approx(9 / sum(1 / one for one in nine))


def test_one_metric_of_zero_leaves_no_utility():
    good = SetMetrics(0.9, 0.9, 0.9)
    assert model_utility(good, good, SetMetrics(0.9, 0.0, 0.9)) == 0


def ref_common(words, others):
    """The length of the longest common subsequence, by trying every one."""
    for length in range(len(words), 0, -1):
        for places in combinations(range(len(words)), length):
            rest = iter(others)
            if all(words[place] in rest for place in places):
                return length
    return 0


WORDS = st.lists(st.sampled_from(["a", "bee", "c1", "dd"]), min_size=1, max_size=7)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_rouge_is_the_recall_of_the_longest_common_subsequence(pairs):
    pytest.importorskip("rouge_score")
    ref = np.mean([ref_common(answer, output) / len(answer) for answer, output in pairs])
    answers = [" ".join(answer) for answer, _ in pairs]
    outputs = [", ".join(output).upper() for _, output in pairs]
    assert rouge_l_recall(answers, outputs) == pytest.approx(ref)


def test_rouge_stems_and_is_of_the_answer():
    pytest.importorskip("rouge_score")
    # Of 3 words, "writes" and "novels" are found as "writing" and "novel".
    assert rouge_l_recall(["Hsiao writes novels"], ["writing a novel"]) == pytest.approx(2 / 3)
    assert rouge_l_recall(["a b"], ["a b c d e f"]) == 1
    assert rouge_l_recall(["a b", "c"], ["", "c"]) == 0.5


def ref_p_value(first, second):
    """The share of all ways to deal the numbers out with at least the distance found."""
    both = np.sort(np.concatenate([first, second]))

    def distance(chosen):
        inside = np.isin(np.arange(len(both)), chosen)
        steps = inside / len(first) - ~inside / len(second)
        return np.abs(np.cumsum(steps)).max()

    found = distance(np.flatnonzero(np.isin(both, first)))
    deals = [distance(chosen) for chosen in combinations(range(len(both)), len(first))]
    return np.mean(np.array(deals) >= found - 1e-12)


@pytest.mark.parametrize(("sizes", "seed"), [((5, 5), 0), ((6, 4), 1), ((3, 7), 2), ((6, 6), 3)])
def test_forget_quality_is_the_exact_p_value(sizes, seed):
    pytest.importorskip("scipy")
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=sizes[0]), generator.normal(1, size=sizes[1])
    assert forget_quality(first, second) == pytest.approx(ref_p_value(first, second))


def test_forget_quality_tells_models_apart():
    pytest.importorskip("scipy")
    generator = np.random.default_rng(0)
    retrained = generator.normal(size=400)
    assert forget_quality(generator.normal(size=400), retrained) > 0.05
    assert forget_quality(generator.normal(1, size=399), retrained) < 1e-20


def test_a_model_is_not_compared_with_itself():
    pytest.importorskip("scipy")
    ratios = np.random.default_rng(0).normal(size=40)
    with pytest.raises(OptionError, match="trained without the forget set"):
        forget_quality(ratios, ratios[::-1].copy())


BAD = [
    (lambda: probability([]), "answers"),
    (lambda: probability([[1.0]]), r"\[1, 1\]"),
    (lambda: probability([1.0, math.nan]), "number 2 is nan"),
    (lambda: probability([1.0, -2.5]), "-2.5 is below 0"),
    (lambda: probability_among_choices([1.0], [[]]), "question 1"),
    (lambda: probability_among_choices([1.0, 1.0], [[1.0], [1.0, math.inf]]), "question 2"),
    (lambda: probability_among_choices([1.0, 1.0], [[1.0]]), "2 questions .* 1"),
    (lambda: log_truth_ratios([1.0], []), "1 questions .* 0"),
    (lambda: forget_truth_ratio([]), "truth ratios"),
    (lambda: truth_ratio([math.inf]), "number 1 is inf"),
    (lambda: forget_quality([], [1.0]), "truth ratios"),
    (lambda: model_utility(*[SetMetrics(0.5, 0.5, 1.5)] * 3), "from 0 to 1"),
    (lambda: model_utility(*[SetMetrics(0.5, 0.5, math.nan)] * 3), "from 0 to 1"),
]


@pytest.mark.parametrize(("call", "says"), BAD)
def test_what_cannot_be_measured_is_refused(call, says):
    pytest.importorskip("scipy")
    with pytest.raises(OptionError, match=says):
        call()


@pytest.mark.parametrize(("answers", "outputs"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_rouge_needs_an_output_for_each_answer(answers, outputs):
    pytest.importorskip("rouge_score")
    with pytest.raises(OptionError, match="ROUGE"):
        rouge_l_recall(answers, outputs)


def test_the_tiny_negative_loss_of_rounding_is_a_loss():
    assert probability([-1e-7]) == pytest.approx(1)
