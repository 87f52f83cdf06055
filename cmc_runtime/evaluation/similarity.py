"""The similarity of the shifts of two models' logits, by the same tuning or delta model.

A shift is the tuned model's log-probabilities less the base model's, at one step. It is compared
at the tokens that matter there: the likeliest of the reference model, by default 100, that the
map gives a token of the other model. The other's shift is read as in decoding.

Source: the authors' answer to their reviewers (Cross-model Control, arXiv 2410.17599), for the
Sinkhorn divergence; the correlation is ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cmc_runtime.fusion.fuse_logits import fuse_logits
from cmc_runtime.maps.tensors import MapTensors
from pm_mined import OptionError


class TopShifts(NamedTuple):
    """The shifts of both models at the same tokens; steps of several texts can be joined."""

    reference: Tensor  # float64 [steps, tokens], the likeliest first
    other: Tensor  # float64 [steps, tokens]
    unmapped: Tensor  # float64 [steps], the share of the likeliest that the map leaves out


class Similarity(NamedTuple):
    """The similarity of shifts."""

    sinkhorn: float
    correlation: float
    unmapped: float  # the share of the likeliest tokens that the map leaves out, 0 to 1


def log_probability_shift(tuned: Tensor, base: Tensor) -> Tensor:
    """Float [..., vocabulary], at least float32: of the logits of a tuned and of a base model.

    >>> log_probability_shift(torch.tensor([0.0, 0.0]), torch.tensor([9.0, 9.0]))
    tensor([0., 0.])
    """
    at_least = torch.promote_types(torch.promote_types(tuned.dtype, base.dtype), torch.float32)
    return tuned.to(at_least).log_softmax(-1) - base.to(at_least).log_softmax(-1)


def shift_similarity(
    reference: Tensor, other: Tensor, ranking: Tensor, tensors: MapTensors, *, top: int = 100
) -> Similarity:
    """Compare the shifts of a reference model with those of another model on the same text.

    Step for step, both must predict at the same place of the text. For texts that do not fit in
    memory at once, join what `top_shifts` gives and compare it with `similarity`.

    Args:
        reference: Float [steps, reference logits], by `log_probability_shift`.
        other: Float [steps, other logits], likewise.
        ranking: Float [steps, reference logits], the logits of the reference model, tuned or base,
            that say which tokens are the likeliest.
        tensors: The map from the reference model's vocabulary to the other's.
        top: How many tokens of each step are compared; all that are mapped where there are fewer.

    Raises:
        OptionError: a shape is not the map's or another's, there are no steps or no mapped tokens,
            a shift is not finite, or there is no shift to compare.
    """
    return similarity(top_shifts(reference, other, ranking, tensors, top=top))


def top_shifts(
    reference: Tensor, other: Tensor, ranking: Tensor, tensors: MapTensors, *, top: int = 100
) -> TopShifts:
    """The shifts at the likeliest mapped tokens of each step; see `shift_similarity`."""
    if type(top) is not int or top < 1:
        raise OptionError(f"top is {top!r}; expected a whole number of tokens, 1 or more")
    if reference.ndim != 2 or ranking.shape != reference.shape:
        raise OptionError(
            f"the reference shift is {list(reference.shape)} and its ranking "
            f"{list(ranking.shape)}; expected both to be [steps, logits]"
        )
    if tensors.num_mapped == 0:
        raise OptionError("the map maps nothing, so there is no token to compare")
    at_least = torch.promote_types(other.dtype, torch.float32)
    read = fuse_logits(torch.zeros_like(reference, dtype=at_least), other, tensors)
    likeliest = ranking.topk(min(top, tensors.num_src_logits)).indices
    mapped = tensors.mapped.nonzero().squeeze(-1)
    tokens = mapped[ranking[:, mapped].topk(min(top, len(mapped))).indices]
    return TopShifts(
        reference.gather(-1, tokens).double(),
        read.gather(-1, tokens).double(),
        (~tensors.mapped)[likeliest].double().mean(-1),
    )


def similarity(shifts: TopShifts) -> Similarity:
    """Both measures of shifts at the same tokens, and how many tokens they leave out.

    Raises:
        OptionError: there are no steps, a shift is not finite, or there is none to compare.
    """
    reference, other, unmapped = shifts
    return Similarity(
        sinkhorn_divergence(reference, other),
        within_step_correlation(reference, other),
        unmapped.mean().item(),
    )


def sinkhorn_divergence(reference: Tensor, other: Tensor) -> float:
    """The distance of two models' shifts, as clouds with a point for each step.

    Both are float [steps, tokens]: a point has a coordinate for each rank. It is geomloss's
    Sinkhorn divergence with p = 2, blur 0.01 and else its defaults: near half the mean square of
    the distances over which one cloud is carried onto the other, 0 for equal clouds and
    `|t|^2 / 2` for one that is moved by t. With 100 tokens it is at most 1 % too small (measured
    on random clouds), with 5 or fewer up to 30 %.

    It ignores the order of the points: any step of one model may stand for any step of the other.
    Memory grows with the square of the steps. Needs `geomloss`.

    Raises:
        OptionError: the shapes differ, there are no steps, or a shift is not finite.
    """
    from geomloss import SamplesLoss

    first, second = _points(reference, other)
    both = torch.cat([first, second])
    extent = (both.amax(0) - both.amin(0)).norm().item()
    blur = 0.01
    loss = SamplesLoss(
        "sinkhorn",
        p=2,
        blur=blur,
        diameter=max(extent, blur),  # by itself it is 0 if all points are one: no logarithm
        backend="tensorized",  # for many points, the others need a compiler
    )
    return max(float(loss(first, second)), 0.0)  # rounding takes it below 0


def within_step_correlation(reference: Tensor, other: Tensor) -> float:
    """Pearson's correlation of the shifts, from -1 to 1, step by step: the order counts.

    Both are float [steps, tokens]. Each step's mean is taken away first, for an offset of a step
    changes no distribution; then all steps are one sample, so that a step counts by how much is
    shifted in it. It is 1 for equal shifts, and for those that differ in offsets and one factor.

    Raises:
        OptionError: the shapes differ, there are no steps, a shift is not finite, or one model
            shifts no token against another, so that nothing can be correlated.

    >>> one = torch.tensor([[1.0, 2.0], [8.0, 4.0]])
    >>> round(within_step_correlation(one, 3 * one + 5), 12)
    1.0
    >>> round(within_step_correlation(one, one.flip(0)), 2)
    -0.47
    """
    first, second = map(_within_steps, _points(reference, other))
    return min(max(float((first * second).sum()), -1.0), 1.0)


def _within_steps(shift: Tensor) -> Tensor:
    """[steps, tokens]: without each step's mean, and of norm 1 in all."""
    centred: Tensor = shift - shift.mean(-1, keepdim=True)
    if centred.norm() <= 1e-12 * shift.norm():  # nothing but rounding
        raise OptionError("one of the models shifts no token against another: nothing to compare")
    return centred.div(centred.norm())


def _points(reference: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64, on the CPU, checked."""
    if reference.ndim != 2 or reference.numel() == 0 or reference.shape != other.shape:
        raise OptionError(
            f"the shifts are {list(reference.shape)} and {list(other.shape)}; expected both to be "
            "[steps, tokens], with at least one of each"
        )
    for name, one in (("reference", reference), ("other", other)):
        if not one.isfinite().all():
            step = int((~one.isfinite()).any(-1).nonzero()[0])
            raise OptionError(f"the {name} model's shift at step {step + 1} is not finite")
    return reference.detach().double().cpu(), other.detach().double().cpu()
