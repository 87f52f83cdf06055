"""`fuse_logits` and `next_tokens` by the Triton kernels: on a GPU, or in Triton's interpreter."""

import math
from functools import partial

import pytest
import torch
from conftest import quick_first
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_fuse import (
    ALPHAS,
    HALF,
    POLICIES,
    cases,
    check_errors_of_gradients,
    check_errors_of_values,
    comp_fused,
    random_logits,
    tensors_of,
)
from test_fused_logits import (  # skips all of this where the kernels cannot run
    DEVICE,
    INTERPRETED,
    pytestmark,  # noqa: F401 - what is ignored there is ignored here
    triton_stays_in_its_mode,  # noqa: F401 - a fixture
)

from cmc_runtime.fusion.arguments import implementation_of
from cmc_runtime.fusion.fuse_logits import fuse_logits
from cmc_runtime.fusion.next_tokens import next_tokens
from cmc_runtime.maps.tensors import identity_map_tensors

fuse_by_triton = partial(fuse_logits, implementation="triton")
fuse_by_torch = partial(fuse_logits, implementation="torch")
one_token = partial(cases, forms=("one",), device=DEVICE)
close = partial(torch.testing.assert_close, rtol=1e-5, atol=5e-5)
# The interpreter cuts bfloat16 off instead of rounding it.
ROUNDED = [torch.float32, torch.float16] if INTERPRETED else HALF


def alphas(leading, per_row):
    """A number, or one for each row."""
    if not per_row:
        return 0.7
    return torch.linspace(-1, 2, math.prod(leading), device=DEVICE).reshape(leading)


def some_map(num_src=203, num_dst=23, device=DEVICE):
    rows = [[i * 7 % num_dst] if i % 5 else [] for i in range(num_src)]
    return tensors_of(rows, num_dst, padding=(2, 1), device=device)


@settings(max_examples=40, deadline=None)
@given(one_token(), st.booleans())
def test_equals_the_loops(case, per_row):
    tensors, leading, policy, seed = case
    base, delta = random_logits(tensors, leading, seed, torch.float32)
    alpha = alphas(leading, per_row)
    fused = fuse_by_triton(base, delta, tensors, alpha, unmapped=policy)
    assert fused.dtype == base.dtype
    close(fused.double().cpu(), comp_fused(base, delta, tensors, alpha, policy))


@settings(max_examples=40, deadline=None)
@given(one_token(), st.booleans())
def test_gradients_equal_those_in_float64(case, per_row):
    tensors, leading, policy, seed = case
    assume(math.prod(leading))
    inputs = list(random_logits(tensors, leading, seed))
    if per_row:
        inputs.append(alphas(leading, per_row).double())
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)

    def gradients(fuse, dtype):
        given = [one.to(dtype).requires_grad_() for one in inputs]
        alpha = given[2] if per_row else 0.7
        fused = fuse(given[0], given[1], tensors, alpha, unmapped=policy)
        return [one.double() for one in torch.autograd.grad(fused, given, grad.to(dtype))]

    close(gradients(fuse_by_triton, torch.float32), gradients(fuse_by_torch, torch.float64))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("policy", POLICIES)
def test_equals_torch_bit_for_bit(alpha, policy):
    alpha = alpha.to(DEVICE) if isinstance(alpha, torch.Tensor) else alpha
    tensors = some_map()
    case = *random_logits(tensors, [2, 3], 1, torch.float32), tensors, alpha
    assert torch.equal(
        fuse_by_triton(*case, unmapped=policy), fuse_by_torch(*case, unmapped=policy)
    )


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_errors_are_not_above_eager(dtype, alpha):
    check_errors_of_values(dtype, alpha, "triton", DEVICE)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ROUNDED)
def test_errors_of_the_gradient_are_not_above_eager(dtype):
    check_errors_of_gradients(dtype, "triton", DEVICE)


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("policy", POLICIES)
def test_errors_with_a_policy_are_not_above_those_of_torch(policy, dtype):
    tensors = some_map(1207, 101)
    base, delta = random_logits(tensors, [3], 2, dtype)
    grad = torch.randn(base.shape, generator=torch.Generator().manual_seed(0)).to(base) + 1

    def answers(fuse, base, delta):
        given = base.clone().requires_grad_(), delta.clone().requires_grad_()
        fused = fuse(*given, tensors, 0.7, unmapped=policy)
        return fused, *torch.autograd.grad(fused, given, grad.to(fused.dtype))

    truth = answers(fuse_by_torch, base.double(), delta.double())
    ours, usual = (answers(fuse, base, delta) for fuse in (fuse_by_triton, fuse_by_torch))
    for found, expected, exact in zip(ours, usual, truth, strict=True):
        error, usual_error = ((one - exact).abs().mean() for one in (found, expected))
        # Sums are made in another order: which is nearer is a matter of chance.
        assert error <= 1.1 * usual_error


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("delta_dtype", HALF)
@pytest.mark.parametrize("alpha", [0.5, torch.tensor(0.5, dtype=torch.float64)])
def test_dtypes_may_differ(dtype, delta_dtype, alpha):
    tensors = tensors_of([[0], [], [2]], 3, device=DEVICE)
    alpha = alpha.to(DEVICE) if isinstance(alpha, torch.Tensor) else alpha
    base = torch.tensor([1.0, 2, 3], dtype=dtype, device=DEVICE, requires_grad=True)
    delta = torch.tensor([4.0, 5, 6], dtype=delta_dtype, device=DEVICE, requires_grad=True)
    fused = fuse_by_triton(base, delta, tensors, alpha, unmapped="mean")
    assert fused.dtype == dtype
    assert fused.tolist() == [3.0, 4.5, 6.0]
    fused.sum().backward()
    assert (base.grad.dtype, delta.grad.dtype) == (dtype, delta_dtype)
    assert base.grad.tolist() == [1.0] * 3
    assert delta.grad.tolist() == [0.75, 0.0, 0.75]


def test_rows_need_not_be_dense():
    tensors = some_map()
    base, delta = random_logits(tensors, [4], 2, torch.float32)
    spread = [one.t().contiguous().t() for one in (base, delta)]
    assert all(one.stride(1) != 1 for one in spread)
    assert torch.equal(fuse_by_triton(*spread, tensors), fuse_by_torch(base, delta, tensors))
    one_delta = delta[:1].expand(4, -1).requires_grad_()
    assert torch.equal(
        fuse_by_triton(base, one_delta, tensors), fuse_by_torch(base, one_delta, tensors)
    )
    (given,) = torch.autograd.grad(fuse_by_triton(base, one_delta, tensors).sum(), one_delta)
    (expected,) = torch.autograd.grad(fuse_by_torch(base, one_delta, tensors).sum(), one_delta)
    assert torch.equal(given, expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_rows(policy):
    tensors = some_map()
    base, delta = torch.zeros(2, 0, 205, device=DEVICE), torch.zeros(2, 0, 24, device=DEVICE)
    alpha = torch.ones(2, 0, device=DEVICE)
    fused = fuse_by_triton(base, delta.requires_grad_(), tensors, alpha, unmapped=policy)
    assert fused.shape == base.shape
    fused.sum().backward()
    assert delta.grad.shape == delta.shape
    chosen = next_tokens(base, delta, tensors, unmapped=policy, implementation="triton")
    assert chosen.shape == (2, 0)


def test_the_identity_map():
    for widths in ((41, 41), (41, 37), (37, 41)):
        tensors = identity_map_tensors(*widths, device=DEVICE)
        base, delta = random_logits(tensors, [2], 3, torch.float32)
        fused = fuse_by_triton(base, delta, tensors, 0.7)
        assert torch.equal(fused, fuse_by_torch(base, delta, tensors, 0.7))


@pytest.mark.parametrize("policy", quick_first(list(POLICIES)))
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("alpha", [0.7, torch.tensor([[0.3], [1.1]])])
@pytest.mark.parametrize("dtype", HALF)
def test_the_same_seed_draws_the_same_tokens(policy, temperature, alpha, dtype):
    tensors = some_map(num_src=1207)
    base, delta = random_logits(tensors, [2, 3], 5, dtype)
    alpha = alpha.to(DEVICE) if isinstance(alpha, torch.Tensor) else alpha
    draw = partial(next_tokens, base, delta, tensors, alpha, unmapped=policy, seed=2**40 + 3)
    chosen = [
        draw(temperature=temperature, implementation=implementation)
        for implementation in ("torch", "triton")
    ]
    assert chosen[0].dtype == chosen[1].dtype == torch.int64
    assert torch.equal(*chosen)


@pytest.mark.skipif(not INTERPRETED, reason="the interpreter is not in use")
def test_auto_does_not_take_the_interpreter():
    tensors = some_map()
    case = *random_logits(tensors, [2], 0, torch.float32), tensors
    assert implementation_of(*case) == "torch"
    assert implementation_of(*case, "triton") == "triton"


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a GPU, and no TRITON_INTERPRET=1")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", HALF)
def test_real_sizes_on_a_gpu(policy, dtype):
    tensors = some_map(151_936, 32_000)
    base, delta = random_logits(tensors, [4, 4], 0, dtype)
    delta.requires_grad_()
    assert implementation_of(base, delta, tensors) == "triton"
    fused = fuse_logits(base, delta, tensors, 0.7, unmapped=policy)
    exact = fuse_by_torch(base.double(), delta.double(), tensors, 0.7, unmapped=policy)
    torch.testing.assert_close(fused, exact.to(dtype))
    grad = torch.randn_like(fused)
    (found,) = torch.autograd.grad(fused, delta, grad)
    (expected,) = torch.autograd.grad(exact, delta, grad.double())
    tolerance = max(torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(found, expected, rtol=2 * tolerance, atol=tolerance)
    for temperature in (0.0, 0.8):
        draw = partial(next_tokens, base, delta, tensors, 0.7, temperature=temperature, seed=9)
        assert torch.equal(draw(unmapped=policy), draw(unmapped=policy, implementation="torch"))
