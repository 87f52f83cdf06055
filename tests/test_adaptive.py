"""The strength of Dynamic Logit Fusion against a fine search in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmc_runtime.steering.adaptive import alpha_for_divergence, divergence


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 3))
def test_alpha_reaches_the_divergence(seed, size, target):
    torch.manual_seed(seed)
    base, shift = torch.randn(3, size) * 3, torch.randn(3, size) * 2
    alpha = alpha_for_divergence(base, shift, torch.full((3,), target))
    grid = torch.linspace(0, 2, 20_001, dtype=torch.float64)
    for row in range(3):
        fused = base[row].double() + grid[:, None] * shift[row].double()
        log_p, log_q = fused.log_softmax(-1), base[row].double().log_softmax(-1)
        found = (log_p.exp() * (log_p - log_q)).sum(-1)
        if found[-1] <= target - 1e-5:
            assert alpha[row] == 2
        elif found[-1] > target + 1e-5:
            at = torch.searchsorted(found, float(target))
            around = found[max(at - 2, 0)], found[min(at + 2, len(found) - 1)]
            reached = divergence(base[row] + alpha[row] * shift[row], base[row])
            assert around[0] - 1e-4 <= reached <= around[1] + 1e-4


def test_nothing_to_reach_is_no_steering():
    base, shift = torch.randn(2, 9), torch.randn(2, 9)
    assert alpha_for_divergence(base, shift, torch.zeros(2)).abs().max() < 0.01


def test_tokens_that_are_ruled_out_stay_out():
    base = torch.tensor([[0.0, 1.0, -torch.inf]])
    shift = torch.tensor([[1.0, -1.0, 5.0]])
    alpha = alpha_for_divergence(base, shift, torch.tensor([0.1]))
    assert divergence(base + alpha * shift, base).item() == pytest.approx(0.1, abs=1e-3)
