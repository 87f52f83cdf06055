"""Next tokens against the argmax in float64, the kernels' twins, and the softmax."""

import math
import subprocess
import sys

import pytest
from hypothesis import assume, given, settings
from test_fuse import GROUPED, HALF, POLICIES, cases, comp_fused, random_logits, tensors_of

from pm_mined import OptionError

torch = pytest.importorskip("torch")
from cmc_runtime.fusion.next_tokens import next_tokens  # noqa: E402
from cmc_runtime.maps.tensors import identity_map_tensors  # noqa: E402
from pm_mined.kernels import fused_logits_reference as twin  # noqa: E402

SMALL = tensors_of([[0], [], [1]], 2, padding=(1, 0))
BASE, DELTA = torch.tensor([[0.0, 1.0, 2.0, 3.0]] * 2), torch.tensor([[5.0, 0.0], [0.0, 5.0]])


@settings(max_examples=100, deadline=None)
@given(cases())
def test_the_largest_fused_logit(case):
    tensors, leading, policy, seed = case
    base, delta = random_logits(tensors, leading, seed)
    alpha = torch.linspace(-1, 2, math.prod(leading)).double().reshape(leading)
    fused = comp_fused(base, delta, tensors, alpha, policy)
    if fused.shape[-1] > 1:
        best = fused.topk(2).values
        assume((best[..., 0] - best[..., 1] > 1e-9).all())
    chosen = next_tokens(base, delta, tensors, alpha, unmapped=policy)
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, fused.argmax(-1))


def test_a_greedy_choice_by_hand():
    assert next_tokens(BASE, DELTA, SMALL).tolist() == [0, 2]
    assert next_tokens(BASE, DELTA, SMALL, alpha=0.0).tolist() == [3, 3]
    assert next_tokens(BASE, DELTA, SMALL, torch.tensor([0.0, 1.0])).tolist() == [3, 2]
    assert next_tokens(BASE[0], DELTA[0], SMALL).item() == 0


@pytest.mark.parametrize(
    ("base", "chosen"),
    [([1.0, 2, 2], 1), ([-math.inf] * 3, 0), ([math.nan, math.inf, 9], 0), ([0, math.inf, 9], 1)],
)
def test_ties_and_what_is_not_finite(base, chosen):
    tensors = tensors_of([[0], [], []], 1)
    for temperature in (0.0, 1e-30):
        found = next_tokens(torch.tensor(base), torch.zeros(1), tensors, temperature=temperature)
        assert found.item() == chosen


def test_logits_are_compared_before_rounding():
    base, delta = torch.full((2,), 256.0, dtype=torch.bfloat16), torch.tensor([0.25, 0.5])
    assert next_tokens(base, delta, identity_map_tensors(2)).item() == 1


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("temperature", [0.0, 0.8, 4.0])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_draws_are_those_of_the_twin(dtype, temperature, seed):
    tensors = tensors_of([[i * 7 % 23] if i % 5 else [] for i in range(203)], 23)
    base, delta = random_logits(tensors, [2, 3], seed % 97, dtype)
    expected = twin.gather_add_sample(
        *(base.flatten(0, 1), delta.flatten(0, 1), tensors.index, 0.7),
        temperature=temperature,
        seed=seed,
    )
    drawn = next_tokens(base, delta, tensors, 0.7, temperature=temperature, seed=seed)
    assert torch.equal(drawn, expected.reshape(2, 3))
    again = next_tokens(base, delta, tensors, 0.7, temperature=temperature, seed=seed)
    assert torch.equal(drawn, again)


@pytest.mark.parametrize("form", ["one", "weighted", "grouped"])
@pytest.mark.parametrize("policy", POLICIES)
def test_draws_are_from_the_softmax(form, policy):
    tensors = tensors_of([[0, 2], [], [2, 1], [1], [2]], 3, form, (1, 0))
    base, delta = random_logits(tensors, [1], 7, torch.float32)
    fused = comp_fused(base, delta, tensors, 0.7, policy)
    probability = (fused[0] / 5.0).softmax(-1)
    rows = 50_000
    base, delta = base.expand(rows, -1), delta.expand(rows, -1)
    drawn = next_tokens(base, delta, tensors, 0.7, unmapped=policy, temperature=5.0, seed=3)
    share = torch.bincount(drawn, minlength=len(probability)) / rows
    deviation = (probability * (1 - probability) / rows).sqrt()
    assert ((share - probability).abs() < 4 * deviation).all()
    assert ((share - probability.roll(1)).abs() > 4 * deviation).any()


def test_another_seed_is_another_draw():
    base, delta = torch.zeros(300, 64), torch.zeros(300, 64)
    tensors = identity_map_tensors(64)
    one, other = (next_tokens(base, delta, tensors, temperature=1.0, seed=seed) for seed in (1, 2))
    assert (one == other).sum() < 20  # about 5 by chance
    assert len(one.unique()) > 50  # and rows are drawn apart


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_rows(temperature):
    chosen = next_tokens(torch.zeros(2, 0, 4), torch.zeros(2, 0, 2), SMALL, temperature=temperature)
    assert chosen.shape == (2, 0)


def test_inputs_are_left_as_they_were():
    base, delta = BASE.clone().requires_grad_(), DELTA.clone()
    for temperature in (0.0, 1.0):
        next_tokens(base, delta, SMALL, unmapped="keep", temperature=temperature)
    assert torch.equal(base, BASE)
    assert torch.equal(delta, DELTA)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; expected a finite number, 0 or more"),
        ({"temperature": math.nan}, "temperature is nan; expected a finite number"),
        ({"temperature": math.inf}, "temperature is inf; expected a finite number"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
        ({"seed": 2**63}, "seed is 9223372036854775808; expected a whole number"),
        ({"seed": 1.0}, "seed is 1.0; expected a whole number"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"base": torch.zeros(2, 5)}, r"base is \[2, 5\], but the map is for 4 logits"),
        ({"unmapped": "nothing"}, "unmapped is 'nothing'"),
        ({"implementation": "fast"}, "implementation is 'fast'"),
        ({"tensors": GROUPED, "base": BASE[:, 1:], "implementation": "triton"}, "implementation"),
        (
            {"base": BASE[:, :0], "tensors": identity_map_tensors(0, 2)},
            "the map is for 0 user logits; expected at least one",
        ),
    ],
)
def test_refusals_are_one_clear_line(change, said):
    arguments = {"base": BASE, "delta": DELTA, "tensors": SMALL, **change}
    with pytest.raises(OptionError, match=f"^{said}") as caught:
        next_tokens(**arguments)
    assert "\n" not in str(caught.value)


WITHOUT_TRITON = """
import sys, torch
from cmc_runtime.fusion.fuse_logits import fuse_logits
from cmc_runtime.maps.tensors import identity_map_tensors
from cmc_runtime.fusion.next_tokens import next_tokens
logits = torch.ones(2, 3, requires_grad=True)
fuse_logits(logits, logits, identity_map_tensors(3)).sum().backward()
next_tokens(logits, logits, identity_map_tensors(3), temperature=1.0)
assert "pm_mined.kernels.fused_logits" not in sys.modules
assert "triton" not in sys.modules
"""


def test_triton_is_imported_only_where_it_runs():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
