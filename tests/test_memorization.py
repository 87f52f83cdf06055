"""Metrics of memorization against their definitions, from an answer's first token to its last."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmc_runtime.evaluation.memorization import (
    Memorization,
    exact_memorization,
    extraction_strength,
    leak,
)
from pm_mined import OptionError

answers = st.lists(st.booleans(), min_size=1, max_size=30)


def slow_strength(correct):
    """1 - k / tokens for the smallest k from which the rest is as in the answer."""
    tokens = len(correct)
    return next(1 - k / tokens for k in range(tokens + 1) if all(correct[k:]))


@given(answers)
def test_they_are_their_definitions(correct):
    assert exact_memorization(correct) == pytest.approx(correct.count(True) / len(correct))
    assert extraction_strength(correct) == pytest.approx(slow_strength(correct))
    assert extraction_strength(correct) <= exact_memorization(correct) + 1e-12


@given(st.lists(answers, min_size=1, max_size=5))
def test_of_several_answers_the_mean(several):
    found = Memorization.of(several)
    exact = sum(one.count(True) / len(one) for one in several) / len(several)
    strength = sum(map(slow_strength, several)) / len(several)
    assert found == pytest.approx((exact, strength))


@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(
            st.lists(st.floats(0, 1), min_size=k, max_size=k), min_size=1, max_size=5
        )
    )
)
def test_a_leak_is_the_best_of_each_question(scores):
    assert leak(scores) == pytest.approx(sum(map(max, scores)) / len(scores))


@pytest.mark.parametrize("nothing", [[], [[True]]])
def test_an_answer_without_tokens(nothing):
    with pytest.raises(OptionError, match="expected at least one"):
        extraction_strength(nothing)


@pytest.mark.parametrize("nothing", [[], [0.5], [[]]])
def test_no_sampled_answer(nothing):
    with pytest.raises(OptionError, match="expected 2-D"):
        leak(nothing)
