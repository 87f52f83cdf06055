"""Losses of fused logits straight from hidden states: no matrix of tokens x vocabulary is kept.

Tokens are taken in chunks. The logits of a chunk are made, turned where they lie into the gradient
of its losses, sent back through the map, multiplied into the gradients of the delta's hidden states
and output head, and forgotten. So the gradients are there as soon as the loss is; backward scales
them. Four matrix products are the least there can be, and are most of the time on a CPU: the
logits of both models, and the gradients of the delta's states and head. On a GPU, Triton kernels
fuse (fuse.py) and turn logits into gradients (kernels/cross_entropy.py); elsewhere torch does.

Source of the idea: Hsu et al., Liger Kernel (arXiv 2410.10989).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cmc_runtime.maps.tensors import MapTensors
from cmc_runtime.models.output_head import OutputHead
from pm_mined import OptionError
from pm_mined.kernels import cross_entropy_torch

from .arguments import KERNEL_DTYPES, Unmapped, has_triton
from .fuse_logits import fuse_logits

# Matrix products are made for as many tokens at a time as have this many bytes of base logits, but
# for not fewer than _TOKENS: smaller ones wait for the weights. At their peak, the logits of both
# models are there, and for the KL divergence the base's again.
_BYTES = {"cpu": 2**25, "gpu": 2**28}
_TOKENS = 128
# What lies between is done for slices of that, so that copies are small, and in a CPU's cache.
_SLICE_BYTES = {"cpu": 2**22, "gpu": 2**26}


class TokenLosses(NamedTuple):
    """What each token costs."""

    loss: Tensor  # float32 [tokens], in nats; 0 where the target is ignored
    correct: Tensor  # bool [tokens]: whether the target has the largest logit; then False


def fused_cross_entropy(
    base_hidden: Tensor,
    base_head: OutputHead,
    delta_hidden: Tensor,
    delta_head: OutputHead,
    targets: Tensor,
    tensors: MapTensors,
    *,
    alpha: float = 1.0,
    unmapped: Unmapped = "zero",
    ignore_index: int = -100,
) -> Tensor:
    """The mean cross-entropy of `base + alpha * delta[map]`, in nats, as `fuse_logits` makes it.

    Args:
        base_hidden: Floating [tokens, base hidden size], as `hidden_states` returns them.
        base_head: Of the user model, which is frozen: nothing of it gets a gradient.
        delta_hidden: Floating [tokens, delta hidden size].
        delta_head: Of the delta model. Gradients go to its weight and bias and to `delta_hidden`.
        targets: int64 [tokens], each the id that the row of hidden states predicts.
        tensors: The map, for the widths of both heads.
        alpha: The delta's strength.
        unmapped: What unmapped tokens read.
        ignore_index: Rows with this target do not count, and cost nothing.

    Returns:
        A scalar, in float32 at least; 0, with zero gradients, if no row counts. Logits are added
        in float32 at least, as are gradients of the head from chunk to chunk; matrix products are
        made in the hidden states' dtypes, or autocast's. Only one backward is possible.

    Raises:
        OptionError: what is given does not fit together, a target is not an id of the base head,
            or `fuse_logits` would refuse it.
    """
    targets = _checked_targets(targets, len(base_hidden), base_head, ignore_index)
    counted = (targets != ignore_index).nonzero()[:, 0]
    fusion = _Fusion(base_head, delta_head, tensors, alpha, unmapped)
    return _mean_loss(fusion, base_hidden, delta_hidden, counted, _to_targets(targets[counted]))


def fused_kl(
    base_hidden: Tensor,
    base_head: OutputHead,
    delta_hidden: Tensor,
    delta_head: OutputHead,
    mask: Tensor,
    tensors: MapTensors,
    *,
    alpha: float = 1.0,
    unmapped: Unmapped = "zero",
) -> Tensor:
    """The mean Kullback-Leibler divergence of the fused distribution from the frozen base's.

    That is the sum of `p_base * log(p_base / p_fused)`, in nats, over the rows where `mask` (bool
    [tokens]) is true; 0 if there are none. All else is as in `fused_cross_entropy`.
    """
    if mask.dtype != torch.bool or mask.shape != base_hidden.shape[:1]:
        raise OptionError(
            f"the mask is {mask.dtype} {list(mask.shape)}; expected bool [{len(base_hidden)}]"
        )
    fusion = _Fusion(base_head, delta_head, tensors, alpha, unmapped)
    return _mean_loss(fusion, base_hidden, delta_hidden, mask.nonzero()[:, 0], _to_base)


@torch.no_grad()
def fused_token_losses(
    base_hidden: Tensor,
    base_head: OutputHead,
    delta_hidden: Tensor,
    delta_head: OutputHead,
    targets: Tensor,
    tensors: MapTensors,
    *,
    alpha: float = 1.0,
    unmapped: Unmapped = "zero",
    ignore_index: int = -100,
) -> TokenLosses:
    """The cross-entropy of each token, and whether it is the likeliest, without gradients.

    The arguments and errors are those of `fused_cross_entropy`.
    """
    targets = _checked_targets(targets, len(base_hidden), base_head, ignore_index)
    counted = (targets != ignore_index).nonzero()[:, 0]
    fusion = _Fusion(base_head, delta_head, tensors, alpha, unmapped)
    fusion.check(base_hidden, delta_hidden)
    found = _Found(targets[counted])
    hidden = base_hidden[counted], delta_hidden[counted]
    for _ in fusion.gradients(*hidden, found.objective, wanted=False):
        pass
    return found.at(counted, len(targets))


@torch.no_grad()
def token_losses(
    hidden: Tensor, head: OutputHead, targets: Tensor, *, ignore_index: int = -100
) -> TokenLosses:
    """The same of one model alone: `hidden` is floating [tokens, hidden size].

    >>> head = OutputHead(torch.tensor([[0.0], [3.0]]))
    >>> token_losses(torch.ones(2, 1), head, torch.tensor([1, 0])).correct
    tensor([ True, False])
    """
    targets = _checked_targets(targets, len(hidden), head, ignore_index)
    counted = (targets != ignore_index).nonzero()[:, 0]
    found = _Found(targets[counted])
    for rows in _rows_of_products(len(counted), head):
        logits = head(hidden[counted[rows]])
        for part, some in _in_slices(logits, rows):
            found.objective(some, part)(some)
    return found.at(counted, len(targets))


_Loss: TypeAlias = Callable[[Tensor], Tensor]
"""Fused logits to the losses [tokens]; the logits become the gradient of the losses' sum."""

_Objective: TypeAlias = Callable[[Tensor, slice], _Loss]
"""The base logits of some rows, which it may neither change nor keep, to these rows' loss."""


@dataclass(frozen=True, eq=False)
class _Fusion:
    """Two models' heads and how they are fused."""

    base: OutputHead
    delta: OutputHead
    tensors: MapTensors
    alpha: float
    unmapped: Unmapped

    def check(self, base_hidden: Tensor, delta_hidden: Tensor) -> None:
        """Refuse what does not fit together: fusing no rows of it does so."""
        if not base_hidden.ndim == delta_hidden.ndim == 2 or len(base_hidden) != len(delta_hidden):
            raise OptionError(
                f"hidden states are {list(base_hidden.shape)} and {list(delta_hidden.shape)}; "
                "expected [tokens, size], with the same tokens"
            )
        base, delta = self.base(base_hidden[:0]), self.delta(delta_hidden[:0])
        fuse_logits(base, delta, self.tensors, self.alpha, unmapped=self.unmapped)

    def in_dtype_of_products(self, base: Tensor, delta: Tensor) -> "tuple[_Fusion, Tensor, Tensor]":
        """The same and the hidden states, converted once and not chunk by chunk."""
        base, delta = (_autocast(hidden) for hidden in (base, delta))
        fusion = replace(self, base=self.base.to(base.dtype), delta=self.delta.to(delta.dtype))
        return fusion, base, delta

    def gradients(
        self, base_hidden: Tensor, hidden: Tensor, objective: _Objective, *, wanted: bool
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some rows, the sum of their losses, and the gradient of that for what the delta projects.

        If it is not wanted, anything of its shape takes its place.
        """
        for rows in _rows_of_products(len(hidden), self.base):
            base = self.base(base_hidden[rows])
            if self._adds_products(base, hidden):
                yield rows, *self._add_product_(base, hidden[rows], rows, objective)
            else:
                yield rows, *self._fuse(base, hidden[rows], rows, objective, wanted=wanted)
            del base  # before the next are made

    def _fuse(
        self, base: Tensor, hidden: Tensor, rows: slice, objective: _Objective, *, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        projected = self.delta.project(hidden)
        total = base.new_zeros(())
        for part, some_base, some in _in_slices(base, rows, projected):
            loss = objective(some_base, part)
            leaf = some.detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                delta = self.delta.finish(leaf)
                fused = fuse_logits(
                    some_base, delta, self.tensors, self.alpha, unmapped=self.unmapped
                )
            total += loss(fused.detach()).sum()
            if wanted:
                some.copy_(torch.autograd.grad(fused, leaf, fused.detach())[0])
        return total, projected

    def _adds_products(self, base: Tensor, hidden: Tensor) -> bool:
        """Whether fusing is but adding one matrix product to another."""
        reads_nothing = self.unmapped == "zero" or self.base.width <= self.delta.width
        is_product = self.delta.bias is None and self.delta.softcap is None
        in_one_dtype = base.dtype == hidden.dtype == self.delta.weight.dtype
        return self.tensors.is_identity and reads_nothing and is_product and in_one_dtype

    def _add_product_(
        self, base: Tensor, hidden: Tensor, rows: slice, objective: _Objective
    ) -> tuple[Tensor, Tensor]:
        """The same without a pass over the logits, and in their place."""
        losses = [objective(some, part) for part, some in _in_slices(base, rows)]
        common, width = min(self.base.width, self.delta.width), self.delta.width
        factor = self.alpha * self.delta.scale
        base[:, :common].addmm_(hidden, self.delta.weight[:common].t(), alpha=factor)
        total = base.new_zeros(())
        for loss, (_, fused) in zip(losses, _in_slices(base, rows), strict=True):
            total += loss(fused).sum()
        grad = base[:, :common] if factor == 1 else base[:, :common].mul_(factor)
        return total, functional.pad(grad, (0, width - common)) if width > common else grad


def _to_targets(targets: Tensor) -> _Objective:
    def objective(base: Tensor, rows: slice) -> _Loss:  # noqa: ARG001 - as `_to_base`
        return lambda fused: _cross_entropy_(fused, targets[rows])[0]

    return objective


def _cross_entropy_(
    fused: Tensor, targets: Tensor, *, gradient: bool = True
) -> tuple[Tensor, Tensor]:
    """Losses and likeliest ids [tokens]; the logits become the gradient: see the kernels' twin."""
    if fused.is_cuda and fused.dtype in KERNEL_DTYPES and has_triton():
        from pm_mined.kernels import cross_entropy

        return cross_entropy.cross_entropy_(fused, targets, gradient=gradient)
    return cross_entropy_torch.cross_entropy_(fused, targets, gradient=gradient)


def _to_base(base: Tensor, rows: slice) -> _Loss:  # noqa: ARG001 - as the objective of targets
    expected = base.log_softmax(-1)
    return lambda fused: _divergence_(fused, expected)


def _divergence_(fused: Tensor, expected: Tensor) -> Tensor:
    """Of the fused logits from log-probabilities, which are changed as well."""
    found = fused.log_softmax(-1)
    torch.exp(found, out=fused)
    difference = found.neg_().add_(expected)
    expected.exp_()
    fused.sub_(expected)
    divergence: Tensor = torch.linalg.vecdot(expected, difference)
    return divergence


def _mean_loss(
    fusion: _Fusion,
    base_hidden: Tensor,
    delta_hidden: Tensor,
    counted: Tensor,
    objective: _Objective,
) -> Tensor:
    """The mean over the tokens in `counted` (int64 [number of them])."""
    fusion.check(base_hidden, delta_hidden)
    head = fusion.delta
    trained: list[Any] = [delta_hidden[counted], head.weight, head.bias]
    if not torch.is_grad_enabled():
        trained = [None if one is None else one.detach() for one in trained]
    loss: Tensor = _MeanLoss.apply(  # type: ignore[no-untyped-call]
        *trained, fusion, base_hidden.detach()[counted], objective
    )
    return loss


class _MeanLoss(torch.autograd.Function):
    """The mean of an objective over all rows, for hidden states, weight and bias of the delta."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        fusion: _Fusion,
        base_hidden: Tensor,
        objective: _Objective,
    ) -> Tensor:
        ctx.gradients = _Gradients((hidden, weight, bias), ctx.needs_input_grad)
        ctx.tokens = max(len(hidden), 1)
        fusion, base_hidden, hidden = fusion.in_dtype_of_products(base_hidden, hidden)
        dtype = _at_least_float32(torch.promote_types(base_hidden.dtype, hidden.dtype))
        total = torch.zeros((), dtype=dtype, device=hidden.device)
        wanted = any(ctx.needs_input_grad)
        for rows, losses, grad in fusion.gradients(base_hidden, hidden, objective, wanted=wanted):
            total += losses
            if wanted:
                ctx.gradients.add(grad, hidden, fusion.delta.weight, rows)
            del grad  # before the next is made
        mean: Tensor = total / ctx.tokens
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # they are scaled where they lie
        if gradients is None:
            raise RuntimeError("a fused loss has one backward only, and that has been")
        return *gradients.scaled(grad / ctx.tokens), None, None, None


class _Gradients:
    """The sums, in float32 at least, that become the gradients of hidden states, weight, bias."""

    def __init__(self, inputs: Sequence[Tensor | None], needed: Sequence[bool]) -> None:
        self._dtypes = [None if one is None else one.dtype for one in inputs]
        self._sums = [
            torch.zeros_like(one, dtype=_at_least_float32(one.dtype))
            if one is not None and wanted
            else None
            for one, wanted in zip(inputs, needed, strict=False)  # what follows needs none
        ]

    def add(self, grad: Tensor, hidden: Tensor, weight: Tensor, rows: slice) -> None:
        """Those of a chunk; `grad` [tokens, width] is that of `weight @ hidden + bias`."""
        of_hidden, of_weight, of_bias = self._sums
        if of_hidden is not None:
            of_hidden[rows] = grad @ weight
        if of_weight is not None and of_weight.dtype == grad.dtype:
            of_weight.addmm_(grad.t(), hidden[rows])  # without a copy of its size
        elif of_weight is not None:
            of_weight += grad.t() @ hidden[rows]
        if of_bias is not None:
            of_bias += grad.sum(0, dtype=of_bias.dtype)

    def scaled(self, factor: Tensor) -> list[Tensor | None]:
        """The sums times a number, in the dtypes of the inputs; the sums are gone."""
        return [
            None if one is None else one.mul_(factor).to(dtype)
            for one, dtype in zip(self._sums, self._dtypes, strict=True)
        ]


class _Found:
    """Collects what each token costs."""

    def __init__(self, targets: Tensor) -> None:
        self._targets = targets
        self._losses = targets.new_zeros(len(targets), dtype=torch.float32)
        self._correct = torch.zeros_like(targets, dtype=torch.bool)

    def objective(self, base: Tensor, rows: slice) -> _Loss:  # noqa: ARG002 - as others
        """Not for gradients: the logits are spoilt."""

        def loss(fused: Tensor) -> Tensor:
            targets = self._targets[rows]
            losses, best = _cross_entropy_(fused, targets, gradient=False)
            self._losses[rows], self._correct[rows] = losses, best == targets
            return losses

        return loss

    def at(self, counted: Tensor, tokens: int) -> TokenLosses:
        """What was found, at the rows in `counted`; 0 and False at the others."""
        return TokenLosses(
            self._losses.new_zeros(tokens).index_copy_(0, counted, self._losses),
            self._correct.new_zeros(tokens).index_copy_(0, counted, self._correct),
        )


def _checked_targets(targets: Tensor, tokens: int, head: OutputHead, ignore_index: int) -> Tensor:
    if targets.dtype != torch.int64 or targets.shape != (tokens,):
        raise OptionError(
            f"targets are {targets.dtype} {list(targets.shape)}; expected int64 [{tokens}]"
        )
    unknown = targets[(targets != ignore_index) & ((targets < 0) | (targets >= head.width))]
    if len(unknown):
        raise OptionError(f"a target is {int(unknown[0])}, but there are {head.width:,} logits")
    return targets


def _rows_of_products(rows: int, head: OutputHead) -> Iterator[slice]:
    on = _place(head.weight)
    most = max(_TOKENS, _BYTES[on] // (4 * max(head.width, 1)))
    parts = -(-rows // most)
    size = -(-rows // max(parts, 1))  # of one size: a product for two rows costs as for twenty
    return (slice(start, min(start + size, rows)) for start in range(0, rows, max(size, 1)))


def _in_slices(logits: Tensor, rows: slice, *others: Tensor) -> Iterator[tuple[Any, ...]]:
    """Parts of `rows`, and with each those of the logits of `rows`, and of other tensors."""
    size = max(1, _SLICE_BYTES[_place(logits)] // (4 * max(logits.shape[1], 1)))
    starts = range(rows.start, rows.stop, size)
    parts = [slice(start, min(start + size, rows.stop)) for start in starts]
    return zip(parts, *(torch.split(one, size) for one in (logits, *others)), strict=True)


def _place(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "cpu" else "gpu"


def _autocast(hidden: Tensor) -> Tensor:
    """In the dtype in which matrix products are made here."""
    device = hidden.device.type
    if not torch.is_autocast_enabled(device):
        return hidden
    return hidden.to(torch.get_autocast_dtype(device))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
