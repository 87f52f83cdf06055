"""Limits of steering against probabilities, one row and one token at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmc_runtime.fusion.limits import EVERYWHERE, Limits
from pm_mined import OptionError


def ref_keep(base, fused, limits):
    """Rows of logits as lists: the fused logits of what is steered."""
    kept = []
    for before, after in zip(base.tolist(), fused.tolist(), strict=True):
        total = sum(math.exp(one) for one in before)
        chances = [math.exp(one) / total for one in before]
        least = limits.plausible * max(chances)
        is_open = limits.gate == 1 or max(chances) < limits.gate
        pairs = zip(before, after, chances, strict=True)
        kept.append([new if is_open and p >= least else old for old, new, p in pairs])
    return kept


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(1, 30),
    st.sampled_from([0.0, 1e-3, 0.1, 0.7, 1.0]),
    st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
)
def test_tokens_and_rows_by_their_probabilities(seed, width, plausible, gate):
    torch.manual_seed(seed)
    base, fused = 3 * torch.randn(7, width).double(), torch.randn(7, width).double()
    limits = Limits(plausible, gate)
    found = limits.keep(base, fused)
    assert found.tolist() == ref_keep(base, fused, limits)
    assert torch.equal(
        limits.keep_tokens(base, fused)[limits.open_rows(base)], found[limits.open_rows(base)]
    )


def test_tokens_that_are_ruled_out_stay_out():
    base, fused = torch.tensor([[0.0, -torch.inf]]), torch.tensor([[1.0, torch.inf]])
    assert Limits(plausible=0.01).keep(base, fused).tolist() == [[1.0, -math.inf]]


def test_without_limits_nothing_is_copied():
    fused = torch.zeros(1, 2)
    assert EVERYWHERE.keep(torch.ones(1, 2), fused) is fused


@pytest.mark.parametrize("name", ["plausible", "gate"])
@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan, "a", None, True])
def test_a_number_from_0_to_1(name, value):
    with pytest.raises(OptionError, match=f"{name} is .*; expected a number from 0 to 1"):
        Limits(**{name: value})
