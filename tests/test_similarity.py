"""Similarity of logit shifts: analytic cases, optimal assignments, plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
from test_fuse import readings, tensors_of  # noqa: E402

from cmc_runtime.evaluation.similarity import (  # noqa: E402
    TopShifts,
    log_probability_shift,
    shift_similarity,
    similarity,
    sinkhorn_divergence,
    top_shifts,
    within_step_correlation,
)
from pm_mined import OptionError  # noqa: E402


def cloud(steps, tokens, seed=0):
    torch.manual_seed(seed)
    return torch.randn(steps, tokens, dtype=torch.float64) * 3


def test_equal_shifts():
    pytest.importorskip("geomloss")
    shifts = cloud(30, 20)
    assert sinkhorn_divergence(shifts, shifts) == 0
    assert within_step_correlation(shifts, shifts) == pytest.approx(1)


def test_only_the_correlation_knows_the_order():
    pytest.importorskip("geomloss")
    shifts = cloud(30, 20)
    permuted = shifts[torch.randperm(30)]
    assert sinkhorn_divergence(shifts, permuted) == pytest.approx(0, abs=1e-9)
    assert abs(within_step_correlation(shifts, permuted)) < 0.3


def test_a_cloud_that_is_moved():
    pytest.importorskip("geomloss")
    shifts, by = cloud(25, 6), torch.tensor([1.0, 0, 0, -2.0, 0.5, 0])
    assert sinkhorn_divergence(shifts, shifts + by) == pytest.approx((1 + 4 + 0.25) / 2)


def test_single_points_and_points_that_are_all_one():
    pytest.importorskip("geomloss")
    point = torch.tensor([[3.0, 4.0]])
    assert sinkhorn_divergence(point, torch.zeros(1, 2)) == pytest.approx(12.5)
    assert sinkhorn_divergence(point, point) == 0
    assert sinkhorn_divergence(point.expand(5, 2), point.expand(5, 2)) == 0


@pytest.mark.parametrize(("steps", "tokens", "seed"), [(2, 1, 0), (30, 60, 1), (60, 100, 2)])
def test_the_divergence_is_that_of_the_best_assignment(steps, tokens, seed):
    pytest.importorskip("geomloss")
    optimize = pytest.importorskip("scipy.optimize")
    first, second = cloud(steps, tokens, seed), cloud(steps, tokens, seed + 100) + 1
    cost = ((first[:, None] - second[None]) ** 2).sum(-1).numpy() / 2
    best = cost[optimize.linear_sum_assignment(cost)].mean()
    assert sinkhorn_divergence(first, second) == pytest.approx(best, rel=0.015)


def test_the_divergence_is_that_of_geomloss_by_itself():
    geomloss = pytest.importorskip("geomloss")
    first, second = cloud(20, 5), cloud(20, 5, 1)
    ref = geomloss.SamplesLoss("sinkhorn", p=2, blur=0.01)(first, second).item()
    assert sinkhorn_divergence(first, second) == pytest.approx(ref, rel=1e-9)


def ref_correlation(first, second):
    """Pearson's of all shifts, after each step's mean was taken away, by numpy."""
    flat = [(one - one.mean(-1, keepdim=True)).flatten().numpy() for one in (first, second)]
    return np.corrcoef(flat)[0, 1]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(2, 9), st.floats(-2, 2))
def test_the_correlation_and_what_leaves_it_alone(seed, steps, tokens, mix):
    first = cloud(steps, tokens, seed)
    second = mix * first + cloud(steps, tokens, seed ^ 1)
    found = within_step_correlation(first, second)
    assert -1 <= found <= 1
    assert found == pytest.approx(ref_correlation(first, second), abs=1e-9)
    assert within_step_correlation(second, first) == pytest.approx(found, abs=1e-9)
    offsets = cloud(steps, 1, seed) * 7
    assert within_step_correlation(first, 2.5 * second + offsets) == pytest.approx(found, abs=1e-9)
    order = torch.randperm(steps)
    assert within_step_correlation(first[order], second[order]) == pytest.approx(found, abs=1e-9)


def test_opposite_and_unrelated_shifts():
    shifts = torch.tensor([[1.0, -1.0, 0.0]])
    assert within_step_correlation(shifts, -shifts) == pytest.approx(-1)
    assert within_step_correlation(shifts, torch.tensor([[1.0, 1.0, -2.0]])) == 0


def test_a_step_counts_by_how_much_is_shifted():
    """Noise in a step in which nothing happens leaves the correlation alone."""
    first = torch.tensor([[1.0, -1.0], [1e-6, -1e-6]])
    second = torch.tensor([[1.0, -1.0], [-1e-6, 1e-6]])
    assert within_step_correlation(first, second) == pytest.approx(1)


def test_the_shift_of_log_probabilities():
    torch.manual_seed(0)
    tuned, base = torch.randn(3, 7).bfloat16(), torch.randn(3, 7).bfloat16()
    found = log_probability_shift(tuned, base)
    ref = tuned.double().softmax(-1).log() - base.double().softmax(-1).log()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), ref, atol=1e-5, rtol=0)


ROWS = [[1], [], [0, 2], [2], [], [3, 1, 0], [4]]


@pytest.mark.parametrize("form", ["one", "weighted", "grouped"])
@pytest.mark.parametrize("top", [1, 3, 5, 100])
def test_the_likeliest_mapped_tokens_are_compared(form, top):
    rows = [row[:1] for row in ROWS] if form == "one" else ROWS
    tensors = tensors_of(rows, 5, form, padding=(2, 1))
    generator = torch.Generator().manual_seed(top)
    reference, ranking = torch.randn(2, 4, 9, generator=generator, dtype=torch.float64)
    other = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    found = top_shifts(reference, other, ranking, tensors, top=top)
    for step in range(4):
        order = sorted(range(9), key=lambda token: -ranking[step, token])
        read = readings(other[step].tolist(), tensors)
        read += [None] * (9 - len(read))
        kept = [token for token in order if read[token] is not None][:top]
        left_out = [token for token in order[:top] if read[token] is None]
        assert found.reference[step].tolist() == [reference[step, token].item() for token in kept]
        assert found.other[step].tolist() == pytest.approx([read[token] for token in kept])
        assert found.unmapped[step].item() == pytest.approx(len(left_out) / min(top, 9))


def test_tokens_ruled_out_are_never_replaced_by_unmapped_ones():
    tensors = tensors_of([[0], [], [1]], 2)
    reference = torch.tensor([[1.0, 50.0, 2.0]])
    ranking = torch.tensor([[1.0, -math.inf, -math.inf]])
    found = top_shifts(reference, torch.tensor([[3.0, 4.0]]), ranking, tensors)
    assert sorted(found.reference[0].tolist()) == [1, 2]


def test_the_same_delta_on_two_vocabularies_is_the_same_shift():
    """Fused logits of both models: their shifts differ by the normaliser of each step."""
    pytest.importorskip("geomloss")
    order = [[3], [0], [2], [1]]
    tensors = tensors_of(order, 4)
    torch.manual_seed(0)
    delta = torch.randn(6, 4) * 2
    bases = torch.randn(2, 6, 4)
    reference = log_probability_shift(bases[0] + delta[:, [3, 0, 2, 1]], bases[0])
    other = log_probability_shift(bases[1] + delta, bases[1])
    found = shift_similarity(reference, other, bases[0], tensors)
    assert found.correlation == pytest.approx(1)
    assert found.unmapped == 0
    assert 0 < found.sinkhorn < shift_similarity(reference, -other, bases[0], tensors).sinkhorn


def test_texts_can_be_joined():
    pytest.importorskip("geomloss")
    tensors = tensors_of([[0], [], [1], [2]], 3)
    torch.manual_seed(0)
    reference, ranking, other = torch.randn(5, 4), torch.randn(5, 4), torch.randn(5, 3)
    cut = [slice(2), slice(2, 5)]
    parts = [top_shifts(reference[at], other[at], ranking[at], tensors, top=2) for at in cut]
    joined = TopShifts(*map(torch.cat, zip(*parts, strict=True)))
    assert similarity(joined) == shift_similarity(reference, other, ranking, tensors, top=2)


MAP = tensors_of([[0], [], [1]], 2)
SHIFT = torch.randn(2, 3)
OTHER = torch.randn(2, 2)
ROUNDED = torch.full((2, 3), 0.1, dtype=torch.float64)  # less its mean, it is not quite 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: top_shifts(SHIFT, OTHER, SHIFT, MAP, top=0), "top is 0"),
        (lambda: top_shifts(SHIFT, OTHER, SHIFT[:1], MAP), "ranking"),
        (lambda: top_shifts(SHIFT[0], OTHER[0], SHIFT[0], MAP), "ranking"),
        (lambda: top_shifts(SHIFT, OTHER[:1], SHIFT, MAP), "leading dimensions"),
        (lambda: top_shifts(OTHER, SHIFT, OTHER, MAP), "the map is for 3 logits"),
        (lambda: top_shifts(SHIFT, OTHER, SHIFT, tensors_of([[], [], []], 2)), "maps nothing"),
        (lambda: within_step_correlation(SHIFT, OTHER), r"\[2, 3\] and \[2, 2\]"),
        (lambda: within_step_correlation(SHIFT[:0], SHIFT[:0]), "at least one"),
        (lambda: sinkhorn_divergence(SHIFT[:0], SHIFT[:0]), "at least one"),
        (lambda: within_step_correlation(SHIFT, torch.zeros(2, 3)), "nothing to compare"),
        (lambda: within_step_correlation(ROUNDED, SHIFT), "nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, says):
    pytest.importorskip("geomloss")
    with pytest.raises(OptionError, match=says):
        call()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measure", [sinkhorn_divergence, within_step_correlation])
def test_a_shift_that_is_not_finite_is_refused(measure, value):
    pytest.importorskip("geomloss")
    broken = cloud(4, 3)
    broken[2, 1] = value
    with pytest.raises(OptionError, match="other model's shift at step 3"):
        measure(cloud(4, 3), broken)
