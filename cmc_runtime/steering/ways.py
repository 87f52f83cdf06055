"""Ways to steer a user model's logits by those of small models, through a token map.

A steering takes the user model's logits for the requests that are due and returns the fused ones.
`cmc_runtime.Delta` is one. To write another, write a class with `begin` and `fuse`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cmc_runtime.fusion.arguments import Unmapped
from cmc_runtime.fusion.fuse_logits import fuse_logits
from cmc_runtime.fusion.limits import Limits
from cmc_runtime.maps.tensors import MapTensors
from pm_mined import OptionError

from .adaptive import alpha_for_divergence, divergence
from .requests import FollowedText, Prompt, Request


class Steering(Protocol):
    """The interface of what steers: logits of a user model, for requests that come and go.

    >>> class NoSteering:
    ...     def begin(self, prompt, alpha=None):
    ...         return Request((), 0.0)
    ...
    ...     def fuse(self, base, requests):
    ...         return base
    """

    def begin(self, prompt: Prompt, alpha: float | None = None) -> Request:
        """A request of which nothing but the prompt is there yet."""

    def fuse(self, base: Tensor, requests: Sequence[Request]) -> Tensor:
        """Float [requests, user logits], of the user model's logits for these requests."""


class FollowingModel(Protocol):
    """A delta model that follows requests: a `cmc_runtime.Delta`."""

    @property
    def tensors(self) -> MapTensors:
        """The map from the user model's tokens."""

    @property
    def unmapped(self) -> Unmapped:
        """The policy for unmapped tokens."""

    @property
    def limits(self) -> Limits:
        """The rows and tokens that are steered."""

    def follow(self, prompt: Prompt) -> FollowedText:
        """The text of a new request."""

    def logits(self, texts: Sequence[FollowedText]) -> Tensor:
        """Float [texts, delta logits]."""


@dataclass(frozen=True)
class Contrast:
    """An expert less an anti-expert (proxy-tuning, arXiv 2401.08565).

    Both have the same vocabulary; the expert's map, `unmapped` and `limits` are used. `alpha` is
    the strength of requests that say none.

    >>> tuned = load_delta("tuned", tokenizer, num_logits=128_256)  # doctest: +SKIP
    >>> plain = load_delta("plain", tokenizer, num_logits=128_256)  # doctest: +SKIP
    >>> generate(user, ["Who wrote Emma?"], Contrast(tuned, plain))  # doctest: +SKIP
    """

    expert: FollowingModel
    anti_expert: FollowingModel
    alpha: float = 1.0

    def begin(self, prompt: Prompt, alpha: float | None = None) -> Request:
        """A request of which nothing but the prompt is there yet."""
        strength = self.alpha if alpha is None else alpha
        return Request((self.expert.follow(prompt), self.anti_expert.follow(prompt)), strength)

    def fuse(self, base: Tensor, requests: Sequence[Request]) -> Tensor:
        """Float [requests, user logits]."""
        return add_delta(base, requests, self._difference, self.expert)

    def _difference(self, requests: Sequence[Request]) -> Tensor:
        expert, anti = _pair_logits(self.expert, self.anti_expert, requests)
        return expert - anti


@dataclass(frozen=True)
class AdaptiveSteering:
    """An expert less an anti-expert, at each step as strongly as they themselves differ.

    The strength is chosen for each request, from 0 to its `alpha` (`most`, if it says none), so
    that the fused distribution is as far from the user model's as the expert's is from the
    anti-expert's (Dynamic Logit Fusion, arXiv 2406.15480).

    >>> tuned = load_delta("tuned", tokenizer, num_logits=128_256)  # doctest: +SKIP
    >>> plain = load_delta("plain", tokenizer, num_logits=128_256)  # doctest: +SKIP
    >>> generate(user, ["Who wrote Emma?"], AdaptiveSteering(tuned, plain))  # doctest: +SKIP
    """

    expert: FollowingModel
    anti_expert: FollowingModel
    most: float = 2.0

    def begin(self, prompt: Prompt, alpha: float | None = None) -> Request:
        """A request of which nothing but the prompt is there yet."""
        most = self.most if alpha is None else alpha
        if not most >= 0:
            raise OptionError(f"alpha is {most}; it is the most to choose: expected 0 or more")
        return Request((self.expert.follow(prompt), self.anti_expert.follow(prompt)), most)

    def fuse(self, base: Tensor, requests: Sequence[Request]) -> Tensor:
        """Float [requests, user logits]."""
        return _fuse_due(base, requests, self._add_shift, self.expert.limits)

    def _add_shift(self, base: Tensor, requests: Sequence[Request]) -> Tensor:
        expert, anti = _pair_logits(self.expert, self.anti_expert, requests)
        nothing = torch.zeros_like(base, dtype=torch.float32)
        tensors, unmapped = self.expert.tensors, self.expert.unmapped
        shift = fuse_logits(nothing, expert - anti, tensors, unmapped=unmapped)
        most = torch.tensor([request.alpha for request in requests], device=base.device)
        alpha = alpha_for_divergence(base, shift, divergence(expert, anti), most=most)
        return (base + alpha[:, None] * shift).to(base.dtype)


def _pair_logits(
    expert: FollowingModel, anti_expert: FollowingModel, requests: Sequence[Request]
) -> tuple[Tensor, Tensor]:
    """Float [requests, delta logits] of each."""
    texts = zip(*(request.texts for request in requests), strict=True)
    of_expert, of_anti_expert = map(list, texts)
    return expert.logits(of_expert), anti_expert.logits(of_anti_expert)


def add_delta(
    base: Tensor,
    requests: Sequence[Request],
    delta_logits: Callable[[Sequence[Request]], Tensor],
    through: FollowingModel,
) -> Tensor:
    """Float [requests, user logits]: `base` and, times its alpha, what each request's delta adds.

    Requests whose alpha is 0, or whose rows the gate keeps, are left out: `delta_logits` is not
    asked for them. Where all are, `base` itself is returned.

    Args:
        base: Floating [requests, user logits].
        requests: One for each row.
        delta_logits: From some requests to floating [requests, delta logits].
        through: Whose map, `unmapped` and `limits` are used.
    """

    def add(base: Tensor, requests: Sequence[Request]) -> Tensor:
        delta, alpha = delta_logits(requests), _strength(requests, base)
        return fuse_logits(base, delta, through.tensors, alpha, unmapped=through.unmapped)

    return _fuse_due(base, requests, add, through.limits)


def _fuse_due(
    base: Tensor,
    requests: Sequence[Request],
    fuse: Callable[[Tensor, Sequence[Request]], Tensor],
    limits: Limits,
) -> Tensor:
    """Float [requests, user logits]: `base`, fused in the rows that are due, within the limits."""
    due = _due(base, requests, limits)
    if not due:
        return base
    if len(due) == len(requests):
        return limits.keep_tokens(base, fuse(base, requests))
    fused, some = base.clone(), base[due]
    fused[due] = limits.keep_tokens(some, fuse(some, [requests[row] for row in due]))
    return fused


def _due(base: Tensor, requests: Sequence[Request], limits: Limits) -> list[int]:
    """The rows whose alpha is not 0 and that the gate lets through."""
    due = [row for row, request in enumerate(requests) if request.alpha != 0]
    if limits.gate == 1 or not due:
        return due
    is_open = limits.open_rows(base).tolist()
    return [row for row in due if is_open[row]]


def _strength(requests: Sequence[Request], base: Tensor) -> float | Tensor:
    """The alpha of all requests, or a tensor [requests] where they differ."""
    alphas = [request.alpha for request in requests]
    if min(alphas) == max(alphas):
        return alphas[0]
    at_least = torch.promote_types(base.dtype, torch.float32)
    return torch.tensor(alphas, dtype=at_least, device=base.device)
