"""Fused logits against plain loops in float64: values, gradients, policies, refusals."""

import math
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import real_vocabulary
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_weighted_maps import with_choices

from pm_mined import Kind, OptionError, Vocabulary, build_map

torch = pytest.importorskip("torch")
from cmc_runtime.fusion.arguments import implementation_of  # noqa: E402
from cmc_runtime.fusion.fuse_logits import fuse_logits  # noqa: E402
from cmc_runtime.maps.tensors import identity_map_tensors, load_map_tensors  # noqa: E402

POLICIES = ["zero", "keep", "mean"]
HALF = [torch.float32, torch.bfloat16, torch.float16]


def vocabulary(size):
    return Vocabulary.from_tokens([f"t{i}".encode() for i in range(size)], [Kind.TEXT] * size)


def tensors_of(rows, num_dst, form="one", padding=(0, 0), weights=None, device=None):
    """Tensors of the map in which source token `i` reads `rows[i]`."""
    if form == "weighted" and weights is None:
        parts = [[2.0 ** -(j + 1) for j in range(len(row))] for row in rows]
        weights = [[part / sum(row) for part in row] for row in parts]
    made = with_choices(
        rows, weights, src=vocabulary(len(rows)), dst=vocabulary(num_dst), form=form
    )
    return load_map_tensors(
        made,
        device=device,
        num_src_logits=len(rows) + padding[0],
        num_dst_logits=num_dst + padding[1],
    )


def readings(delta, tensors):
    """What the source tokens read from one row of logits (floats); None where unmapped."""
    read = [None if i < 0 else delta[i] for i in tensors.index.tolist()]
    if tensors.choices is None:
        return read
    src_id, offsets, ids, weight, _ = tensors.choices
    for token, (start, stop) in zip(src_id.tolist(), pairwise(offsets.tolist()), strict=True):
        logits = [delta[i] for i in ids[start:stop].tolist()]
        if weight is None:
            read[token] = max(logits)
        else:
            shares = weight[start:stop].tolist()
            read[token] = sum(w * x for w, x in zip(shares, logits, strict=True))
    return read


def comp_row(base, delta, tensors, alpha, policy):
    """One row of fused logits, in Python floats."""
    read = [None if x is None else alpha * x for x in readings(delta, tensors)]
    mapped = [(b, x) for b, x in zip(base, read, strict=True) if x is not None]
    fill = 0.0
    if mapped and policy == "mean":
        fill = sum(x for _, x in mapped) / len(mapped)
    if mapped and policy == "keep":
        after = math.log(sum(math.exp(b + x) for b, x in mapped))
        fill = after - math.log(sum(math.exp(b) for b, _ in mapped))
    return [b + (fill if x is None else x) for b, x in zip(base, read, strict=True)]


def comp_fused(base, delta, tensors, alpha=1.0, policy="zero"):
    """The oracle: row after row in float64."""
    rows = math.prod(base.shape[:-1])
    alphas = torch.as_tensor(alpha, dtype=torch.float64).broadcast_to(base.shape[:-1])
    flat = zip(
        base.double().reshape(rows, base.shape[-1]).tolist(),
        delta.double().reshape(rows, delta.shape[-1]).tolist(),
        alphas.reshape(rows).tolist(),
        strict=True,
    )
    fused = [comp_row(b, d, tensors, a, policy) for b, d, a in flat]
    return torch.tensor(fused, dtype=torch.float64).reshape(base.shape)


def eager(base, delta, tensors, alpha):
    """What people write."""
    read = delta[..., tensors.index.long().clamp(min=0)]
    return base + alpha * torch.where(tensors.index >= 0, read, 0)


def some_rows(num_src, num_dst, form, seed=0):
    random = np.random.default_rng(seed)
    most = 1 if form == "one" else min(num_dst, 5)
    counts = random.integers(0, most + 1, num_src)
    return [random.permutation(num_dst)[:count].tolist() for count in counts]


@st.composite
def cases(draw, forms=("one", "weighted", "grouped"), device=None):
    """Map tensors and a seed, leading dimensions, a policy."""
    form = draw(st.sampled_from(forms))
    num_src, num_dst = draw(st.integers(1, 41)), draw(st.integers(1, 23))
    rows = some_rows(num_src, num_dst, form, draw(st.integers(0, 999)))
    padding = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    tensors = tensors_of(rows, num_dst, form, padding, device=device)
    leading = draw(st.lists(st.integers(0, 3), max_size=3))
    return tensors, leading, draw(st.sampled_from(POLICIES)), draw(st.integers(0, 999))


def random_logits(tensors, leading, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(*leading, tensors.num_src_logits, generator=generator) * 5
    delta = torch.randn(*leading, tensors.num_dst_logits, generator=generator) * 5
    return base.to(tensors.device, dtype), delta.to(tensors.device, dtype)


@settings(max_examples=150, deadline=None)
@given(cases(), st.booleans())
def test_equals_the_loops(case, per_row):
    tensors, leading, policy, seed = case
    base, delta = random_logits(tensors, leading, seed)
    alpha = torch.linspace(-1, 2, math.prod(leading)).double().reshape(leading) if per_row else -0.7
    fused = fuse_logits(base, delta, tensors, alpha, unmapped=policy)
    assert fused.dtype == base.dtype
    torch.testing.assert_close(fused, comp_fused(base, delta, tensors, alpha, policy))


@settings(max_examples=60, deadline=None)
@given(cases())
@example((tensors_of([[]], 1, "grouped"), [], "keep", 0))  # nothing is mapped
def test_gradients_equal_differences(case):
    tensors, leading, policy, seed = case
    assume(math.prod(leading))  # gradcheck takes no tensors without numbers
    base, delta = random_logits(tensors, leading, seed)
    alpha = torch.full(leading, 0.7, dtype=torch.float64)
    inputs = [one.requires_grad_() for one in (base, delta, alpha)]
    assert torch.autograd.gradcheck(
        lambda b, d, a: fuse_logits(b, d, tensors, a, unmapped=policy), inputs, fast_mode=True
    )


@pytest.mark.parametrize("form", ["one", "weighted", "grouped"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_gradient_of_every_form_and_policy(form, policy):
    tensors = tensors_of([[0, 2], [], [2, 1], [1], [2]], 4, form, (1, 1))
    base, delta = random_logits(tensors, [2], 5)
    inputs = [base.requires_grad_(), delta.requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda b, d: fuse_logits(b, d, tensors, 0.7, unmapped=policy), inputs
    )
    alpha = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a: fuse_logits(base, delta, tensors, a, unmapped=policy), [alpha]
    )


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(HALF))
def test_backward_to_the_delta_equals_the_loops(case, dtype):
    tensors, leading, _, seed = case
    if tensors.choices is not None and tensors.choices.weight is None:
        return  # a maximum: which one is read depends on the logits
    base, delta = random_logits(tensors, leading, seed, dtype)
    delta.requires_grad_()
    grad = torch.randn(base.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    fuse_logits(base, delta, tensors, 1.5).backward(grad)
    expected = torch.zeros(delta.shape, dtype=torch.float64)
    for row, d in enumerate(torch.eye(tensors.num_dst_logits, dtype=torch.float64).tolist()):
        read = [x or 0.0 for x in readings(d, tensors)]
        expected[..., row] = 1.5 * (grad.double() @ torch.tensor(read, dtype=torch.float64))
    assert delta.grad.dtype == dtype
    torch.testing.assert_close(delta.grad, expected.to(dtype))


def heavily_read(device=None):
    """A map of real proportions in which one token is read by thousands."""
    random = np.random.default_rng(0)
    index = (random.random(8_009) ** 3 * 2_003).astype(int)
    index[random.random(len(index)) < 0.2] = 7
    return tensors_of([[i] for i in index.tolist()], 2_003, padding=(5, 3), device=device)


def check_errors_of_values(dtype, alpha, implementation, device):
    """Not above those of eager torch, against float64."""
    tensors = heavily_read(device)
    base, delta = random_logits(tensors, [3], 1, dtype)
    alpha = alpha.to(device) if isinstance(alpha, torch.Tensor) else alpha
    exact_alpha = alpha if isinstance(alpha, float) else alpha.double()[:, None]
    truth = eager(base.double(), delta.double(), tensors, exact_alpha)
    usual = eager(base, delta, tensors, alpha if isinstance(alpha, float) else alpha[:, None])
    fused = fuse_logits(base, delta, tensors, alpha, implementation=implementation)
    error = (fused - truth).abs()
    eager_error = (usual.to(dtype) - truth).abs()
    assert error.mean() <= eager_error.mean()
    assert error.max() <= eager_error.max()


def check_errors_of_gradients(dtype, implementation, device):
    """Not above those of eager torch, against float64; and the same in every run."""
    tensors = heavily_read(device)
    base, delta = random_logits(tensors, [3], 2, dtype)
    grad = torch.randn(base.shape, generator=torch.Generator().manual_seed(0)).to(base)

    def gradient(fuse, logits, grad, **options):
        logits = logits.clone().requires_grad_()
        fuse(base.to(logits.dtype), logits, tensors, 0.7, **options).backward(grad)
        return logits.grad.double()

    truth = gradient(eager, delta.double(), grad.double())
    ours, again = (
        gradient(fuse_logits, delta, grad, implementation=implementation) for _ in range(2)
    )
    error = (ours - truth).abs()
    eager_error = (gradient(eager, delta, grad) - truth).abs()
    # In float32 both sum as exactly, in another order: which is nearer is a matter of chance.
    assert error.mean() <= eager_error.mean() * (1.1 if dtype == torch.float32 else 1.0)
    assert torch.equal(ours, again)


ALPHAS = [1.0, 0.7, torch.tensor([0.3, 1.1, -0.7])]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_errors_are_not_above_eager(dtype, alpha):
    check_errors_of_values(dtype, alpha, "torch", "cpu")


@pytest.mark.parametrize("dtype", HALF)
def test_errors_of_the_gradient_are_not_above_eager(dtype):
    check_errors_of_gradients(dtype, "torch", "cpu")


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("delta_dtype", HALF)
def test_dtypes_may_differ(dtype, delta_dtype):
    tensors = tensors_of([[0], [], [2]], 3)
    base, delta = torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 5, 6])
    base, delta = base.to(dtype).requires_grad_(), delta.to(delta_dtype).requires_grad_()
    fused = fuse_logits(base, delta, tensors, 0.5)
    assert fused.dtype == dtype
    assert fused.tolist() == [3.0, 2.0, 6.0]
    fused.sum().backward()
    assert (base.grad.dtype, delta.grad.dtype) == (dtype, delta_dtype)
    assert delta.grad.tolist() == [0.5, 0.0, 0.5]


def test_inputs_are_left_as_they_were():
    for form in ("one", "weighted", "grouped"):
        tensors = tensors_of([[0], [], [2], [1]], 3, form)
        base, delta = random_logits(tensors, [2], 3, torch.float32)
        before = base.clone(), delta.clone()
        fuse_logits(base, delta, tensors, 0.5, unmapped="keep")
        assert torch.equal(base, before[0])
        assert torch.equal(delta, before[1])


def test_an_alpha_of_zero_is_the_base():
    tensors = tensors_of(some_rows(41, 23, "weighted"), 23, "weighted", (2, 2))
    for dtype in (*HALF, torch.float64):
        base, delta = random_logits(tensors, [3], 4, dtype)
        for policy in POLICIES:
            fused = fuse_logits(base, delta, tensors, 0.0, unmapped=policy)
            torch.testing.assert_close(fused, base)
        assert torch.equal(fuse_logits(base, delta, tensors, 0.0), base)


def test_the_identity_map_adds_by_hand():
    tensors = load_map_tensors(build_map(vocabulary(300), vocabulary(300)))
    base, delta = random_logits(tensors, [2, 3], 0, torch.float32)
    for policy in POLICIES:
        assert torch.equal(fuse_logits(base, delta, tensors, unmapped=policy), base + delta)


@pytest.mark.parametrize("widths", [(41, 41), (41, 37), (37, 41), (3, 0), (0, 3)])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [*HALF, torch.float64])
def test_the_identity_equals_the_general_path(widths, policy, dtype):
    identity = identity_map_tensors(*widths)
    general = replace(identity, is_identity=False)
    base, delta = random_logits(identity, [2, 3], 4, dtype)
    delta[0, 0, :1] = -math.inf
    alpha = torch.linspace(-1, 2, 6).to(dtype).reshape(2, 3)
    grad = torch.randn(base.shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    def answers(tensors):
        inputs = [one.clone().requires_grad_() for one in (base, delta, alpha)]
        fused = fuse_logits(*inputs[:2], tensors, inputs[2], unmapped=policy)
        return fused, *torch.autograd.grad(fused, inputs, grad)

    *found, of_alpha = answers(identity)
    *expected, of_alpha_in_general = answers(general)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    # One sum over all tokens: the layout in memory decides its order.
    torch.testing.assert_close(of_alpha, of_alpha_in_general, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.integers(1, 23), st.integers(0, 99), st.data())
def test_moved_ends_equal_the_plain_map(num_src, num_dst, seed, data):
    ends = data.draw(st.sets(st.integers(0, num_src - 1), min_size=1))
    end = data.draw(st.integers(0, num_dst - 1))
    moved = identity_map_tensors(num_src, num_dst, ends=dict.fromkeys(ends, end))
    assert moved.is_identity
    plain = replace(moved, is_identity=False, moved=None)
    base, delta = random_logits(moved, [3, 2], seed)
    alpha = torch.linspace(-1, 2, 6).double().reshape(3, 2)
    grad = torch.randn(base.shape, generator=torch.Generator().manual_seed(1)).double()

    def answers(fuse, tensors, **options):
        inputs = [one.clone().requires_grad_() for one in (base, delta, alpha[..., None])]
        fused = fuse(*inputs[:2], tensors, inputs[2], **options)
        return fused, torch.autograd.grad(fused, inputs, grad)

    def ours(base, delta, tensors, alpha, policy):
        return fuse_logits(base, delta, tensors, alpha[..., 0], unmapped=policy)

    for policy in POLICIES:
        found, gradients = answers(ours, moved, policy=policy)
        expected, of_plain = answers(ours, plain, policy=policy)
        assert torch.equal(found, expected)
        torch.testing.assert_close(gradients, of_plain)
        if policy == "zero":
            torch.testing.assert_close((found, gradients), answers(eager, moved))


# --- Policies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["one", "weighted", "grouped"])
def test_keep_keeps_the_probability_of_every_unmapped_token(form):
    tensors = tensors_of(some_rows(101, 23, form, 3), 23, form, (4, 0))
    base, delta = random_logits(tensors, [5], 6)
    unmapped = ~tensors.mapped
    before = base.softmax(-1)[:, unmapped]
    after = fuse_logits(base, delta, tensors, 0.8, unmapped="keep").softmax(-1)[:, unmapped]
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("policy", ["keep", "mean"])
def test_an_offset_of_the_delta_changes_no_distribution(policy):
    tensors = tensors_of(some_rows(101, 23, "one", 3), 23)
    base, delta = random_logits(tensors, [5], 7)
    one = fuse_logits(base, delta, tensors, unmapped=policy).softmax(-1)
    other = fuse_logits(base, delta + 30, tensors, unmapped=policy).softmax(-1)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_map_that_maps_nothing_changes_nothing(policy):
    for form in ("one", "weighted", "grouped"):
        tensors = tensors_of([[], [], []], 2, form, (1, 1))
        base, delta = random_logits(tensors, [2], 8, torch.float32)
        base.requires_grad_()
        fused = fuse_logits(base, delta.requires_grad_(), tensors, unmapped=policy)
        assert torch.equal(fused, base)
        fused.sum().backward()
        assert (base.grad == 1).all()
        assert (delta.grad == 0).all()


def test_keep_where_no_mapped_token_is_possible():
    tensors = tensors_of([[0], [1], [], []], 2)
    base = torch.tensor([-math.inf, -math.inf, 1.0, 2.0])
    fused = fuse_logits(base, torch.tensor([3.0, 4.0]), tensors, unmapped="keep")
    assert torch.equal(fused, base)


# --- What is not finite --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("alpha", [1.0, -0.5])
def test_what_is_not_finite_goes_where_adding_takes_it(value, alpha):
    tensors = tensors_of([[0], [], [2], [2], [1]], 4, padding=(1, 0))
    for where in range(4):
        base, delta = random_logits(tensors, [2], 9, torch.float32)
        delta[0, where] = value
        base[1, where] = -value
        fused = fuse_logits(base, delta, tensors, alpha)
        expected = eager(base, delta, tensors, alpha)
        torch.testing.assert_close(fused, expected, equal_nan=True)


@pytest.mark.parametrize("form", ["weighted", "grouped"])
def test_nan_is_never_lost_among_choices(form):
    tensors = tensors_of([[0, 1], [1, 0], [], [0]], 2, form)
    fused = fuse_logits(torch.zeros(4), torch.tensor([1.0, math.nan]), tensors)
    assert fused.isnan().tolist() == [True, True, False, False]


# --- Real maps -----------------------------------------------------------------------------------


def test_a_real_map():
    llama, qwen = real_vocabulary("llama3"), real_vocabulary("qwen3")
    token_map = build_map(llama, qwen)
    tensors = load_map_tensors(
        token_map, num_src_logits=128_256, num_dst_logits=151_936, src=llama, dst=qwen
    )
    base, delta = random_logits(tensors, [2], 0, torch.float32)
    fused = fuse_logits(base, delta, tensors, 0.7)
    for src_id in [0, 1, 77, 5_000, 100_000, 127_999, 128_009, 128_255]:
        dst_id = int(token_map.dst_id[src_id])
        added = 0.7 * delta[:, dst_id] if dst_id >= 0 else torch.zeros(2)
        torch.testing.assert_close(fused[:, src_id], base[:, src_id] + added)


# --- Refusals ------------------------------------------------------------------------------------

SMALL = tensors_of([[0], [], [1]], 2)
BASE, DELTA = torch.zeros(2, 3), torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base": torch.zeros(2, 4)}, r"base is \[2, 4\], but the map is for 3 logits"),
        ({"delta": torch.zeros(2, 3)}, r"delta is \[2, 3\], but the map is for 2 logits"),
        ({"base": torch.tensor(1.0)}, r"base is \[\], but the map"),
        ({"delta": torch.zeros(1, 2)}, r"base is \[2, 3\] and delta \[1, 2\]; expected the same"),
        ({"base": torch.zeros(2, 3, dtype=torch.int64)}, "base is torch.int64; expected floating"),
        ({"delta": torch.zeros(2, 2, device="meta")}, "delta is on meta, the map is on cpu"),
        ({"alpha": math.nan}, "alpha is nan; expected a finite number"),
        ({"alpha": math.inf}, "alpha is inf; expected a finite number"),
        ({"alpha": torch.tensor([1.0, math.nan])}, "alpha has a value that is not finite"),
        ({"alpha": torch.ones(3)}, r"alpha is \[3\]; expected what broadcasts to the rows, \[2\]"),
        ({"alpha": torch.ones(2, 1)}, r"alpha is \[2, 1\]; expected what broadcasts"),
        ({"alpha": torch.ones(2, device="meta")}, "alpha is on meta, the logits are on cpu"),
        ({"unmapped": "nothing"}, "unmapped is 'nothing'; expected one of zero, keep, mean"),
        ({"implementation": "fast"}, "implementation is 'fast'; expected one of auto, torch"),
    ],
)
def test_refusals_are_one_clear_line(change, said):
    arguments = {"base": BASE, "delta": DELTA, "tensors": SMALL, **change}
    with pytest.raises(OptionError, match=f"^{said}") as caught:
        fuse_logits(**arguments)
    assert "\n" not in str(caught.value)


def on_gpu(dtype):
    """What the choice looks at, of logits on a GPU."""
    return SimpleNamespace(is_cuda=True, dtype=dtype, device="cuda:0")


GROUPED = tensors_of([[0, 1], [], [1]], 2, "grouped")


def test_the_implementation_is_visible(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", sys)  # installed, as far as the choice looks
    assert implementation_of(BASE, DELTA, SMALL) == "torch"
    half, single, double = on_gpu(torch.bfloat16), on_gpu(torch.float32), on_gpu(torch.float64)
    assert implementation_of(half, single, SMALL) == "triton"
    assert implementation_of(half, single, SMALL, "triton") == "triton"
    assert implementation_of(half, single, SMALL, "torch") == "torch"
    assert implementation_of(double, single, SMALL) == "torch"
    assert implementation_of(half, double, SMALL) == "torch"
    assert implementation_of(half, single, GROUPED) == "torch"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert implementation_of(half, single, SMALL) == "torch"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tensors": GROUPED}, "the map has several tokens for one"),
        ({"base": BASE.double()}, "base is torch.float64, and not float32, bfloat16 or float16"),
        ({"delta": DELTA.double()}, "delta is torch.float64, and not float32"),
        ({}, "the logits are on cpu, and not on a GPU"),
    ],
)
def test_triton_where_it_cannot_run_is_refused(change, said, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    arguments = {"base": BASE, "delta": DELTA, "tensors": SMALL, **change}
    with pytest.raises(OptionError) as caught:
        fuse_logits(**arguments, implementation="triton")
    assert str(caught.value).startswith(f"implementation 'triton' cannot run: {said}")
    assert str(caught.value).endswith("; take auto or torch")


def test_triton_where_it_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(OptionError, match="cannot run: Triton is not installed"):
        fuse_logits(BASE, DELTA, SMALL, implementation="triton")
    assert torch.equal(fuse_logits(BASE, DELTA, SMALL), BASE)


@pytest.mark.parametrize("form", ["one", "weighted", "grouped"])
def test_inference_mode_leaves_nothing_behind(form):
    tensors = tensors_of([[0], [], [1]], 2, form)
    with torch.inference_mode():
        fuse_logits(BASE, DELTA, tensors, unmapped="mean")
    delta = DELTA.clone().requires_grad_()
    fuse_logits(BASE, delta, tensors, unmapped="mean").sum().backward()
    assert delta.grad.tolist() == [[1.5, 1.5]] * 2


@pytest.mark.parametrize("form", ["one", "weighted", "grouped"])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_rows_are_dense(form, policy):
    """Kernels that take fused logits rely on it."""
    tensors = tensors_of(some_rows(41, 23, form), 23, form)
    fused = fuse_logits(torch.zeros(7, 41), torch.randn(7, 23), tensors, unmapped=policy)
    assert fused.is_contiguous()


@pytest.mark.parametrize("form", ["one", "weighted", "grouped"])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_rows(form, policy):
    tensors = tensors_of(some_rows(41, 23, form), 23, form)
    base, delta = torch.zeros(2, 0, 41), torch.zeros(2, 0, 23, requires_grad=True)
    fused = fuse_logits(base, delta, tensors, torch.ones(2, 0), unmapped=policy)
    assert fused.shape == base.shape
    fused.sum().backward()
    assert delta.grad.shape == delta.shape
