"""Requests: one prompt each, and what a user model writes for it, as delta models follow it.

Nothing here knows an engine. A request begins with a prompt, takes the tokens that the user model
writes one by one, may be copied and removed, and knows the strength that it is steered with.
Requests come and go while others run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from cmc_runtime.contexts.context import Context
from cmc_runtime.models.prompts import Text
from pm_mined import OptionError

from .cached_model import CachedModel, CachedSequence

Prompt: TypeAlias = Text | Sequence[int]
"""The prompt that a request begins with: a text, or the user model's ids of it."""


class FollowedText:
    """The text of a request as one delta model follows it: its context, and what it has cached."""

    def __init__(
        self, model: CachedModel, context: Context, sequence: CachedSequence | None = None
    ) -> None:
        self.context = context
        self.sequence = model.begin(context.ids) if sequence is None else sequence
        self._model = model

    def append(self, token_id: int) -> None:
        """Add a token of the user model; one beyond its vocabulary is padding."""
        self.sequence.keep(self.context.append(token_id).keep)

    def copy(self) -> "FollowedText":
        """The same past, to go on from there on its own."""
        context = self.context.copy()
        return FollowedText(self._model, context, self.sequence.copy(context.ids))

    def remove(self) -> None:
        """Free what is cached."""
        self._model.remove(self.sequence)


@dataclass(frozen=True, eq=False)
class Request:
    """One prompt and what is written for it; `begin` of a `Steering` makes one.

    Attributes:
        texts: Its text as each delta model of the steering follows it.
        alpha: The strength; with 0, the user model's logits stay as they are.

    Raises:
        OptionError: alpha is not finite.

    >>> request = delta.begin("Who wrote Emma?", alpha=0.5)  # doctest: +SKIP
    >>> request.append(int(delta.fuse(logits, [request]).argmax()))  # doctest: +SKIP
    >>> request.remove()  # doctest: +SKIP
    """

    texts: tuple[FollowedText, ...]
    alpha: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise OptionError(f"alpha is {self.alpha}; expected a finite number")

    def append(self, token_id: int) -> None:
        """Add a token that the user model wrote.

        Raises:
            IndexError: the id is negative.
        """
        for text in self.texts:
            text.append(token_id)

    def copy(self) -> "Request":
        """Another request with the same past, for beams and several answers to one prompt."""
        return replace(self, texts=tuple(text.copy() for text in self.texts))

    def remove(self) -> None:
        """Free what the delta models keep for it; it must not be used any more."""
        for text in self.texts:
            text.remove()
