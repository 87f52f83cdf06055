"""Ways to steer a user model's logits by those of small models, through a token map.

A steering takes the user model's logits for the rows of a batch and returns the fused ones. To
write another, write a class with `fuse`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from cmc_runtime.fusion.arguments import Unmapped
from cmc_runtime.fusion.fuse_logits import fuse_logits
from cmc_runtime.maps.tensors import MapTensors

from .adaptive import alpha_for_divergence, divergence
from .requests import Row


class DeltaSource(Protocol):
    """What has delta logits for rows, such as a `DeltaStream`."""

    def logits(self, rows: Sequence[Row]) -> Tensor:
        """Float [rows, delta logits]."""


class Steering(Protocol):
    """What changes a user model's logits."""

    def fuse(self, base: Tensor, rows: Sequence[Row]) -> Tensor:
        """Float [rows, user logits], of the user model's logits for these rows."""


Steer: TypeAlias = Callable[[Sequence[str]], Sequence[Steering]]
"""What steers the rows of these prompts, one steering after the other."""


@dataclass(frozen=True)
class Contrast:
    """The logits of an expert less those of an anti-expert (proxy-tuning, arXiv 2401.08565)."""

    expert: DeltaSource
    anti_expert: DeltaSource

    def logits(self, rows: Sequence[Row]) -> Tensor:
        """Float [rows, delta logits]."""
        return self.expert.logits(rows) - self.anti_expert.logits(rows)


@dataclass(frozen=True)
class FixedSteering:
    """`base + alpha * delta`, read through a map (Cross-model Control, arXiv 2410.17599).

    `unmapped` says what unmapped tokens read: see `fuse_logits`.
    """

    source: DeltaSource
    tensors: MapTensors
    alpha: float = 1.0
    unmapped: Unmapped = "zero"

    def fuse(self, base: Tensor, rows: Sequence[Row]) -> Tensor:
        """Float [rows, user logits]."""
        if self.alpha == 0:
            return base
        delta = self.source.logits(rows)
        return fuse_logits(base, delta, self.tensors, self.alpha, unmapped=self.unmapped)


@dataclass(frozen=True)
class AdaptiveSteering:
    """An expert less an anti-expert, at each step as strongly as they themselves differ.

    Alpha is chosen for each row, from 0 to `most`, so that the fused distribution is as far from
    the user model's as the expert's is from the anti-expert's (arXiv 2406.15480).
    """

    expert: DeltaSource
    anti_expert: DeltaSource
    tensors: MapTensors
    most: float = 2.0
    unmapped: Unmapped = "zero"

    def fuse(self, base: Tensor, rows: Sequence[Row]) -> Tensor:
        """Float [rows, user logits]."""
        expert, anti = self.expert.logits(rows), self.anti_expert.logits(rows)
        nothing = torch.zeros_like(base, dtype=torch.float32)
        shift = fuse_logits(nothing, expert - anti, self.tensors, unmapped=self.unmapped)
        alpha = alpha_for_divergence(base, shift, divergence(expert, anti), most=self.most)
        return (base + alpha[:, None] * shift).to(base.dtype)
