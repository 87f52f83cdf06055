"""The Triton kernels of fused logits against their twins, and the twins against definitions.

Where there is no GPU, Triton's interpreter runs the kernels; `TRITON_INTERPRET=1` asks for it
where there is one.
"""

import os
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import quick_first
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_mined.kernels import fused_logits_reference as twin
from pm_mined.kernels.gumbel import gumbel

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"


def version_of(module):
    return tuple(map(int, module.__version__.split(".")[:2]))


triton_mode = patch.dict(os.environ, {"TRITON_INTERPRET": str(int(INTERPRETED))})
with triton_mode:
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    from pm_mined.kernels import fused_logits as kernel

# Older interpreters make integers of arrays with one element.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0")
if INTERPRETED and version_of(triton) < (3, 9) and version_of(np) >= (2, 4):
    pytest.skip("the interpreter of this Triton needs NumPy below 2.4", allow_module_level=True)


@pytest.fixture(autouse=True, scope="module")
def triton_stays_in_its_mode():
    """Triton imports some of itself at the first launch."""
    with triton_mode:
        yield


DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [  # rows, columns, columns of the delta
    (1, 1, 1),
    (0, 5, 3),
    (1, 1024, 7),
    (2, 2051, 300),
]
INF, NAN = float("inf"), float("nan")


def random_case(rows, columns, num_dst, dtype=torch.float32, delta_dtype=None, device=DEVICE):
    """base, delta, index with a fifth unmapped, and alpha."""
    rng = torch.Generator().manual_seed(rows * 31 + columns)
    base = 5 * torch.randn(rows, columns, generator=rng)
    delta = 3 * torch.randn(rows, num_dst, generator=rng)
    index = torch.randint(0, num_dst, (columns,), generator=rng, dtype=torch.int32)
    index[torch.rand(columns, generator=rng) < 0.2] = -1
    tensors = base.to(dtype), delta.to(delta_dtype or dtype), index
    return (*(tensor.to(device) for tensor in tensors), 0.7)


def as_stored(fused, dtype):
    """Rounded once, as a GPU does; the interpreter cuts bfloat16 off instead."""
    if INTERPRETED and dtype == torch.bfloat16:
        return (fused.view(torch.int32) & -0x10000).view(torch.float32).to(dtype)
    return fused.to(dtype)


def double(tensor):
    return tensor.double().cpu().numpy()


def exact(base, delta, index, alpha, fill=None):
    """The definition in float64; -1 reads a column after the delta's last, with what fills in."""
    filled = np.zeros(len(base)) if fill is None else double(fill)
    read = np.concatenate([alpha * double(delta), filled[:, None]], axis=1)
    return double(base) + read[:, index.cpu().numpy()]


def first_largest(row):
    """The definition of argmax: the first NaN, else the first of the largest."""
    best = 0
    for column, value in enumerate(row):
        if value != value:
            return column
        if value > row[best]:
            best = column
    return best


@pytest.mark.parametrize("delta_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gather_add_equals_the_twin_bit_for_bit(shape, dtype, delta_dtype):
    case = random_case(*shape, dtype, delta_dtype)
    fill = torch.linspace(-2, 2, shape[0], device=DEVICE)
    base, *others = case
    for filled in (None, fill):
        expected = as_stored(twin.gather_add(base.float(), *others, filled), dtype)
        found = kernel.gather_add(*case, filled)
        assert found.dtype == dtype
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_twin_is_as_near_to_float64_as_eager_torch(dtype):
    base, delta, index, alpha = case = random_case(3, 1025, 300, dtype, device="cpu")
    truth = exact(*case)
    mapped = (index >= 0).to(dtype)
    eager = base + alpha * delta[:, index.clamp(min=0).long()] * mapped
    error = np.abs(double(twin.gather_add(*case)) - truth)
    assert error.max() <= np.abs(double(eager) - truth).max()
    # Half a unit in the last place of the result, and in float32 two more roundings.
    assert (error <= torch.finfo(dtype).eps / 2 * np.abs(truth) + 5e-6).all()
    fill = torch.tensor([1.5, -2.0, 0.25])
    filled = double(twin.gather_add(base.float(), delta, index, alpha, fill))
    assert np.allclose(filled, exact(*case, fill), rtol=0, atol=5e-6)


def test_alpha_zero_and_all_unmapped_leave_the_base():
    base, delta, index, _ = random_case(3, 1025, 300)
    assert torch.equal(kernel.gather_add(base, delta, index, 0.0), base)
    unmapped = torch.full_like(index, -1)
    assert torch.equal(kernel.gather_add(base, delta, unmapped, 0.7), base)
    assert torch.equal(kernel.gather_add_argmax(base, delta, unmapped, 0.7), base.argmax(1))


def test_rows_may_lie_apart_and_the_result_may_take_the_place_of_the_base():
    base, delta, index, alpha = random_case(3, 1025, 300)
    expected = twin.gather_add(base, delta, index, alpha)
    best = twin.gather_add_argmax(base, delta, index, alpha)
    wide = torch.full((3, 2, 1025), NAN, device=DEVICE)
    wide[:, 1] = base
    lone = delta[:1].expand(3, -1)  # a stride of 0
    assert torch.equal(kernel.gather_add_argmax(wide[:, 1], delta, index, alpha), best)
    shared = kernel.gather_add(wide[:, 1], lone, index, alpha)
    assert torch.equal(shared, twin.gather_add(base, lone, index, alpha))
    assert kernel.gather_add(wide[:, 1], delta, index, alpha, out=wide[:, 1]).data_ptr() != 0
    assert torch.equal(wide[:, 1], expected)
    assert wide[:, 0].isnan().all()


ODD_ROWS = {
    "ties": [1.0, 3.0, 2.0, 3.0, 3.0],
    "zeros of both signs": [-0.0, 0.0, -0.0, 0.0, -1.0],
    "all -inf": [-INF] * 5,
    "-inf but one": [-INF, -INF, -INF, -5e4, -INF],
    "inf twice": [1.0, INF, 2.0, INF, 3.0],
    "NaN after inf": [1.0, INF, NAN, NAN, INF],
    "all NaN": [NAN] * 5,
    "negative NaN": [1.0, -NAN, 2.0, INF, 0.0],
    "negative": [-3.0, -1.0, -2.0, -1.0, -1e-30],
}


@pytest.mark.parametrize("temperature", [None, 0.0])
@pytest.mark.parametrize("name", ODD_ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_argmax_of_odd_rows(name, temperature, dtype):
    base = torch.tensor([ODD_ROWS[name], [0.0, 0.0, 0.0, 0.0, 1.0]], dtype=dtype)
    expected = [first_largest(base[0].tolist()), 4]
    delta = torch.full((2, 1), -0.0, dtype=dtype)  # -0 + -0 is -0
    index = torch.tensor([0, -1, 0, -1, 0], dtype=torch.int32)
    for one, device in ((twin, "cpu"), (kernel, DEVICE)):
        case = *(tensor.to(device) for tensor in (base, delta, index)), 1.0
        if temperature is None:
            found = one.gather_add_argmax(*case)
        else:
            found = one.gather_add_sample(*case, temperature=temperature, seed=1)
        assert found.tolist() == expected
        assert found.dtype == torch.int64


logits = st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, INF, -INF, NAN])


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 70), st.integers(1, 5))
def test_argmax_by_its_definition(data, rows, columns, num_dst):
    base = torch.tensor([data.draw(st.lists(logits, min_size=columns, max_size=columns))] * rows)
    delta = torch.tensor([[data.draw(logits) for _ in range(num_dst)] for _ in range(rows)])
    ids = st.integers(-1, num_dst - 1)
    index = torch.tensor(data.draw(st.lists(ids, min_size=columns, max_size=columns))).int()
    with np.errstate(invalid="ignore"), patch.object(kernel, "BLOCK", 16):
        expected = [first_largest(row) for row in exact(base, delta, index, 0.5).tolist()]
        case = base.to(DEVICE), delta.to(DEVICE), index.to(DEVICE), 0.5
        assert kernel.gather_add_argmax(*case).tolist() == expected
    assert twin.gather_add_argmax(base, delta, index, 0.5).tolist() == expected


def test_argmax_compares_before_rounding():
    base = torch.tensor([[256.0, 256.0]], dtype=torch.bfloat16, device=DEVICE)
    delta = torch.tensor([[0.25, 0.5]], device=DEVICE)
    index = torch.tensor([0, 1], dtype=torch.int32, device=DEVICE)
    assert kernel.gather_add(base, delta, index, 1.0).tolist() == [[256.0, 256.0]]
    assert kernel.gather_add_argmax(base, delta, index, 1.0).tolist() == [1]


def philox(counter, key):
    """Philox-4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011)."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(c0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(c2 * 0xCD9E8D57, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def test_the_noise_is_philox():
    # The known answers of the authors' library, Random123.
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]
    assert philox(*pi) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    seed = 0x1234567812345678
    words = [
        [philox([c // 4, row, 0, 0], [seed % 2**32, seed >> 32])[c % 4] for c in range(43)]
        for row in range(3)
    ]
    expected = -np.log(-np.log1p(-(np.array(words) + 0.5) / 2**32))
    assert np.allclose(double(gumbel(3, 43, seed)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("seed", [0, 1, 16, 2**31, 2**63 - 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_samples_equal_the_twin(shape, seed):
    case = random_case(*shape, torch.bfloat16)
    draw = {"temperature": 2.5, "seed": seed}
    expected = twin.gather_add_sample(*case, **draw)
    assert torch.equal(kernel.gather_add_sample(*case, **draw), expected)
    fill = torch.full((shape[0],), 30.0, device=DEVICE)
    filled = kernel.gather_add_sample(*case, fill, **draw)
    assert torch.equal(filled, twin.gather_add_sample(*case, fill, **draw))


@pytest.mark.parametrize(
    ("block", "programs"), quick_first([(64, 1024), (256, 7), (4, 60), (16, 1)], 2)
)
def test_answers_do_not_depend_on_how_the_work_is_cut(block, programs):
    case = random_case(3, 205, 30)
    draw = {"temperature": 3.0, "seed": 11}
    with patch.multiple(kernel, BLOCK=block, PROGRAMS=programs):
        assert torch.equal(kernel.gather_add(*case), twin.gather_add(*case))
        assert torch.equal(kernel.gather_add_argmax(*case), twin.gather_add_argmax(*case))
        drawn = kernel.gather_add_sample(*case, **draw)
    assert torch.equal(drawn, twin.gather_add_sample(*case, **draw))


CHI_SQUARE_10 = 29.59  # 99.9 % quantile, 10 degrees of freedom


def chi_square(drawn, probabilities):
    counts = np.bincount(drawn.cpu(), minlength=len(probabilities))
    expected = len(drawn) * probabilities
    return ((counts - expected) ** 2 / expected).sum()


def distribution(temperature):
    """A case of one row and 11 columns, and its softmax in float64."""
    case = random_case(1, 11, 4)
    scaled = exact(*case)[0] / temperature
    weights = np.exp(scaled - scaled.max())
    return case, weights / weights.sum()


@pytest.mark.parametrize("temperature", [4.0, 9.0])
def test_rows_are_drawn_from_the_softmax(temperature):
    (base, delta, index, alpha), probabilities = distribution(temperature)
    draw = {"temperature": temperature, "seed": 3}
    base, delta = base.expand(200_000, -1), delta.expand(200_000, -1)
    drawn = twin.gather_add_sample(base, delta, index, alpha, **draw)
    assert chi_square(drawn, probabilities) < CHI_SQUARE_10
    assert chi_square(drawn, np.roll(probabilities, 1)) > CHI_SQUARE_10
    rows = 50 if INTERPRETED else len(base)
    found = kernel.gather_add_sample(base[:rows], delta[:rows], index, alpha, **draw)
    assert torch.equal(found, drawn[:rows])


def test_seeds_draw_from_the_softmax_independently():
    case, probabilities = distribution(6.0)
    draws = [twin.gather_add_sample(*case, temperature=6.0, seed=seed) for seed in range(2000)]
    drawn = torch.cat(draws)
    assert chi_square(drawn, probabilities) < CHI_SQUARE_10
    same = (drawn[1:] == drawn[:-1]).double().mean().item()
    assert same == pytest.approx((probabilities**2).sum(), abs=4 * 0.5 / 2000**0.5)


def test_the_only_possible_column_is_always_drawn():
    base = torch.full((30, 9), -INF, device=DEVICE)
    base[:, 5] = -1e4
    delta, index = torch.zeros(30, 1, device=DEVICE), torch.zeros(9, dtype=torch.int32)
    case = base, delta, index.to(DEVICE), 1.0
    assert (kernel.gather_add_sample(*case, temperature=50.0, seed=0) == 5).all()


def random_inverse(columns, num_dst, longest=0):
    """`offsets`, `src_id` and the index they invert; destination 2 is read `longest` times more."""
    rng = torch.Generator().manual_seed(columns)
    index = torch.randint(-1, num_dst, (columns,), generator=rng)
    index[torch.randperm(columns, generator=rng)[:longest]] = min(2, num_dst - 1)
    src_id = torch.argsort(index, stable=True)[int((index < 0).sum()) :]
    offsets = torch.searchsorted(index[src_id], torch.arange(num_dst + 1))
    return offsets.int().to(DEVICE), src_id.int().to(DEVICE), index.int().to(DEVICE)


@pytest.mark.parametrize("dtype", quick_first(DTYPES))
@pytest.mark.parametrize(
    ("rows", "columns", "num_dst", "longest"),
    [(1, 1, 1, 0), (0, 5, 3, 0), (1, 40, 64, 0), (2, 1025, 200, 70), (1, 5000, 65, 3000)],
)
def test_scatter_sum_equals_float64(rows, columns, num_dst, longest, dtype):
    offsets, src_id, index = random_inverse(columns, num_dst, longest)
    grad = torch.randn(rows, columns, generator=torch.Generator().manual_seed(9)).to(DEVICE, dtype)
    expected = np.zeros((rows, num_dst))
    mapped = index.cpu().numpy() >= 0
    np.add.at(expected, (slice(None), index.cpu().numpy()[mapped]), double(grad)[:, mapped])
    for one in (kernel, twin):
        found = one.scatter_sum(grad, offsets, src_id, 0.7)
        assert found.dtype == torch.float32
        assert np.allclose(double(found), 0.7 * expected, rtol=0, atol=1e-4)
    again = kernel.scatter_sum(grad, offsets, src_id, 0.7)
    assert torch.equal(again, kernel.scatter_sum(grad, offsets, src_id, 0.7))
    stored = kernel.scatter_sum(grad, offsets, src_id, 0.7, dtype)
    assert torch.equal(stored, as_stored(again, dtype))


def test_scatter_sum_is_the_gradient_of_gather_add():
    base, delta, _, alpha = random_case(3, 1025, 300)
    offsets, src_id, index = random_inverse(1025, 300)
    delta.requires_grad_()
    grad = torch.randn(3, 2, 1025, generator=torch.Generator().manual_seed(4)).to(DEVICE)[:, 1]
    twin.gather_add(base, delta, index, alpha).backward(grad)
    found = kernel.scatter_sum(grad, offsets, src_id, alpha)
    assert torch.allclose(found, delta.grad, rtol=0, atol=1e-5)


def test_scatter_sum_of_nothing_mapped_is_zero():
    offsets = torch.zeros(6, dtype=torch.int32, device=DEVICE)
    src_id = torch.empty(0, dtype=torch.int32, device=DEVICE)
    grad = torch.full((2, 8), NAN, device=DEVICE)
    assert torch.equal(kernel.scatter_sum(grad, offsets, src_id), torch.zeros(2, 5, device=DEVICE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": torch.zeros(2, 8, device=DEVICE)[:, ::2]}, "base must be"),
        ({"base": torch.zeros(4, device=DEVICE)}, "base must be"),
        ({"delta": torch.zeros(1, 3, device=DEVICE)}, "delta must have the rows"),
        ({"index": torch.zeros(4, dtype=torch.int64, device=DEVICE)}, "dense int32"),
        ({"index": torch.zeros(5, dtype=torch.int32, device=DEVICE)}, "index has 5 columns"),
        ({"index": torch.zeros(4, dtype=torch.int32, device="meta")}, "index is on meta"),
        ({"delta": torch.zeros(2, 3, device="meta")}, "one device"),
        ({"fill": torch.zeros(1, device=DEVICE)}, "one value for each row"),
        ({"out": torch.zeros(2, 5, device=DEVICE)}, "out must have"),
        ({"out": torch.zeros(2, 4, dtype=torch.float16, device=DEVICE)}, "out must have"),
        ({"out": torch.zeros(2, 8, device=DEVICE)[:, ::2]}, "out must have dense rows"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    base, delta, index, alpha = random_case(2, 4, 3)
    arguments = {"base": base, "delta": delta, "index": index, "alpha": alpha} | change
    with pytest.raises(ValueError, match=message):
        kernel.gather_add(**arguments)


@pytest.mark.parametrize(
    ("temperature", "seed", "message"),
    [(-1.0, 0, "temperature"), (NAN, 0, "temperature"), (INF, 0, "temperature"), (1.0, -1, "seed")],
)
def test_a_draw_that_cannot_be_is_refused(temperature, seed, message):
    with pytest.raises(ValueError, match=f"{message} must be"):
        kernel.gather_add_sample(*random_case(2, 4, 3), temperature=temperature, seed=seed)
    with pytest.raises(ValueError, match="no columns"):
        kernel.gather_add_argmax(*random_case(2, 0, 3))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pm_mined.kernels import cross_entropy, fused_logits as kernel

def check(function, logits, **constants):
    integers = {"num_columns", "num_dst", "splits", "blocks", "stride"}
    def type_of(name):
        if name in constants:
            return "constexpr"
        if name in integers or name.endswith("_stride"):
            return "i32"
        if name in ("alpha", "temperature"):
            return "fp32"
        if name in ("largest", "total", "losses"):
            return "*fp32"
        if name in ("best", "chosen", "targets"):
            return "*i64"
        ids = ("index", "offsets", "src_id")
        return "i64" if name == "seed" else "*i32" if name in ids else logits
    signature = {name: type_of(name) for name in function.arg_names}
    values = {(function.arg_names.index(name),): value for name, value in constants.items()}
    target = GPUTarget("cuda", 90, 32)
    assert "cubin" in triton.compile(ASTSource(function, signature, values), target=target).asm

check(kernel._gather_add_kernel, "*bf16", BLOCK=1024, fill=None)
check(kernel._best_kernel, "*fp32", BLOCK=1024, temperature=None)
check(kernel._best_kernel, "*bf16", BLOCK=1024, fill=None)
check(kernel._choose_kernel, "*fp32", SPLITS=256)
for logits in ("*bf16", "*fp32"):
    check(kernel._scatter_sum_kernel, logits, DESTINATIONS=64, GROUP=8, LONG=64, BLOCK=1024)
    check(cross_entropy._statistics_kernel, logits, BLOCK=1024)
    for gradient in (False, True):
        constants = {"SPLITS": 16, "BLOCK": 1024, "GRADIENT": gradient}
        check(cross_entropy._finish_kernel, logits, **constants)
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter runs what the compiler refuses; the compiler needs no GPU."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a GPU, and no TRITON_INTERPRET=1")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 16, 256])
def test_real_sizes_on_a_gpu(rows, dtype):
    case = random_case(rows, 151_936, 32_000, dtype)
    assert torch.equal(kernel.gather_add(*case), twin.gather_add(*case))
    assert torch.equal(kernel.gather_add_argmax(*case), twin.gather_add_argmax(*case))
    draw = {"temperature": 0.8, "seed": 2**40}
    drawn, expected = (one.gather_add_sample(*case, **draw) for one in (kernel, twin))
    assert torch.equal(drawn, expected)
    offsets, src_id, _ = random_inverse(151_936, 32_000, 5000)
    sums = kernel.scatter_sum(case[0], offsets, src_id)
    assert torch.allclose(sums, twin.scatter_sum(case[0], offsets, src_id), rtol=1e-5, atol=1e-2)
