"""The Triton cross-entropy against its twin and torch in float64; the twin against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fused_logits import (  # skips all of this where the kernels cannot run
    DEVICE,
    INF,
    INTERPRETED,
    NAN,
    ODD_ROWS,
    patch,
    pytestmark,  # noqa: F401 - what is ignored there is ignored here
    triton_stays_in_its_mode,  # noqa: F401 - a fixture
)
from torch.nn import functional

from cmc_runtime.fusion.losses import token_losses
from cmc_runtime.models.output_head import OutputHead
from pm_mined.kernels import cross_entropy as kernel
from pm_mined.kernels import cross_entropy_torch as twin
from pm_mined.kernels import fused_logits

BOTH = pytest.mark.parametrize(
    ("module", "device"), [(twin, "cpu"), (kernel, DEVICE)], ids=["twin", "kernel"]
)
# The interpreter cuts bfloat16 off instead of rounding it.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2 * (1 + INTERPRETED)}


def case_of(rows, columns, seed=0, scale=5.0):
    """Logits in float32 and targets."""
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, columns, generator=random)
    return logits, torch.randint(columns, (rows,), generator=random)


def check(module, device, logits, targets):
    """Against float64 autograd, of the very same logits."""
    exact = logits.double().requires_grad_()
    expected = functional.cross_entropy(exact, targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), exact)
    found = logits.to(device, copy=True)
    untouched = found.clone()
    losses, best = module.cross_entropy_(found, targets.to(device))
    tolerance = TOLERANCE[logits.dtype]
    loss_tolerance = 2e-6 if module is kernel else tolerance  # which sums in float32
    torch.testing.assert_close(
        losses.double().cpu(), expected.detach(), rtol=loss_tolerance, atol=20 * loss_tolerance
    )
    torch.testing.assert_close(found.double().cpu(), gradient, rtol=0, atol=tolerance)
    assert torch.equal(best.cpu(), logits.argmax(-1))
    alone = module.cross_entropy_(untouched, targets.to(device), gradient=False)
    assert torch.equal(alone[0], losses)
    assert torch.equal(alone[1], best)


@BOTH
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(1, 1), (0, 5), (3, 1024), (2, 3077)])
def test_equals_float64(module, device, shape, dtype):
    logits, targets = case_of(*shape)
    if len(logits) or module is kernel:
        check(module, device, logits.to(dtype), targets)


@BOTH
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 70), st.integers(0, 10**6), st.sampled_from([0, 1, 60]))
def test_every_size(module, device, rows, columns, seed, scale):
    with (
        patch.object(kernel, "BLOCK", 16),
        patch.object(fused_logits, "BLOCK", 16),
        patch.object(fused_logits, "PROGRAMS", 1 + seed % 9),
    ):
        check(module, device, *case_of(rows, columns, seed, scale))


@BOTH
@pytest.mark.parametrize("name", ODD_ROWS)
def test_odd_rows(module, device, name):
    row = torch.tensor(ODD_ROWS[name])
    broken = bool(row.isnan().any() or row.isposinf().any() or row.isneginf().all())
    logits = torch.stack([row, torch.zeros(5)]).to(device)
    with np.errstate(all="ignore"):  # the interpreter's numpy warns
        losses, best = module.cross_entropy_(logits, torch.tensor([1, 2], device=device))
    assert losses[0].isnan() == broken
    if not broken:
        torch.testing.assert_close(losses[0].cpu(), row.logsumexp(0) - row[1])
    assert best.tolist() == [int(row.argmax()), 0]
    torch.testing.assert_close(losses[1].cpu(), torch.tensor(5.0).log())  # the other row is whole
    torch.testing.assert_close(logits[1].sum().cpu(), torch.tensor(0.0), atol=1e-6, rtol=0)


@BOTH
def test_many_equal_logits_in_float16(module, device):
    logits = torch.zeros(1, 100_000, dtype=torch.float16, device=device)
    losses, _ = module.cross_entropy_(logits, torch.tensor([5], device=device))
    torch.testing.assert_close(losses.cpu(), torch.tensor([100_000.0]).log())


@BOTH
def test_huge_logits_do_not_overflow(module, device):
    logits = torch.tensor([[3e38, -3e38, 3e38], [-INF, 0.0, -INF]], device=device)
    with np.errstate(all="ignore"):
        losses, _ = module.cross_entropy_(logits, torch.tensor([0, 1], device=device))
    torch.testing.assert_close(losses.cpu(), torch.tensor([0.6931472, 0.0]))


def test_rows_may_lie_apart():
    logits, targets = case_of(3, 1025)
    wide = torch.full((3, 2, 1025), NAN, device=DEVICE)
    wide[:, 1] = logits
    losses, _ = kernel.cross_entropy_(wide[:, 1], targets.to(DEVICE))
    expected, _ = twin.cross_entropy_(logits, targets)
    torch.testing.assert_close(losses.cpu(), expected)
    torch.testing.assert_close(wide[:, 1].cpu(), logits)
    assert wide[:, 0].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, targets: (logits[0], targets), "rows, columns"),
        (lambda logits, targets: (logits[:, :0], targets), "some columns"),
        (lambda logits, targets: (logits.t(), targets[:1].expand(9)), "dense rows"),
        (lambda logits, targets: (logits[:1].expand(3, -1), targets), "must not overlap"),
        (lambda logits, targets: (logits.double(), targets), "not torch.float64"),
        (lambda logits, targets: (logits, targets.int()), "int64"),
        (lambda logits, targets: (logits, targets[:2]), "one for each row"),
        (lambda logits, targets: (logits, targets[:1].expand(3)), "must be dense"),
    ],
)
def test_what_the_kernel_refuses(change, message):
    logits, targets = case_of(3, 9)
    with pytest.raises(ValueError, match=message):
        kernel.cross_entropy_(*(one.to(DEVICE) for one in change(logits, targets)))


def test_the_losses_take_the_kernel_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr(kernel, "cross_entropy_", lambda *_, **__: pytest.fail("on a CPU"))
    logits, targets = case_of(2, 7)
    assert losses_of(logits, targets).isfinite().all()


def losses_of(logits, targets):
    """The public losses of logits: those of an output head that hands its states on."""
    head = OutputHead(torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device))
    return token_losses(logits, head, targets).loss


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_losses_take_the_kernel(monkeypatch):
    called = []
    real = kernel.cross_entropy_
    monkeypatch.setattr(
        kernel, "cross_entropy_", lambda *given, **more: called.append(1) or real(*given, **more)
    )
    logits, targets = (one.cuda() for one in case_of(2, 7))
    losses_of(logits, targets)
    assert called
