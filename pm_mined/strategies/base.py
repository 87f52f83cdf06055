"""The interface of a strategy: what it is told, and what it finds."""

from collections.abc import Callable
from typing import NamedTuple

from pm_mined.kernels.tokens import Choices, Matches, Unit
from pm_mined.vocabulary import Vocabulary


class Options(NamedTuple):
    """The options of strategies."""

    unit: Unit = "char"
    fallback: str | None = None  # "edit": the nearest by edit distance, where nothing else is
    max_distance: int = 2  # of the fallback
    top_k: int = 8  # destination tokens for each source token, at most
    decay: float = 0.5  # what one more place, or one more edit, leaves of a weight


class Matched(NamedTuple):
    """The result of a strategy."""

    matches: Matches
    choices: Choices | None = None  # None: one destination token each, that of `matches`


Match = Callable[[Vocabulary, Vocabulary, Options], Matched]
"""Map the ordinary tokens of a source vocabulary onto those of a destination vocabulary."""
