"""The part of a text that a model has by heart, token by token and in what it writes by chance.

The first two are metrics of Dorna et al., OpenUnlearning (arXiv 2506.12618), from the tokens of an
answer that are the likeliest where the right ones stand before them; the end of the answer is one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pm_mined import OptionError


class Memorization(NamedTuple):
    """The means of both metrics over answers, from 0 to 1."""

    exact_memorization: float
    extraction_strength: float

    @classmethod
    def of(cls, answers: list[NDArray[np.bool_]]) -> "Memorization":
        """Of at least one answer, each bool [tokens]: the token is the likeliest."""
        exact = [exact_memorization(one) for one in answers]
        strength = [extraction_strength(one) for one in answers]
        return cls(float(np.mean(exact)), float(np.mean(strength)))


def exact_memorization(correct: ArrayLike) -> float:
    """The share of an answer's tokens that are the likeliest (Tirumala et al., arXiv 2205.10770).

    Raises:
        OptionError: there is no token.

    >>> exact_memorization([True, False, True, True])
    0.75
    """
    return float(_tokens(correct).mean())


def extraction_strength(correct: ArrayLike) -> float:
    """The share of an answer that follows, token by token, from the tokens before it.

    That is `1 - k / tokens` for the smallest `k` such that all tokens from `k` on are the
    likeliest; 0 where the last one is not, where OpenUnlearning's program has `1 / tokens`
    (Carlini et al., arXiv 2012.07805, for the attack).

    Raises:
        OptionError: there is no token.

    >>> extraction_strength([True, False, True, True])
    0.5
    """
    tokens = _tokens(correct)
    wrong = np.flatnonzero(~tokens)
    return float(1 - (wrong[-1] + 1) / len(tokens)) if len(wrong) else 1.0


def leak(scores: ArrayLike) -> float:
    """The mean over questions of the best of k sampled answers: leak at k (arXiv 2511.04934).

    `scores` is [questions, k]: how much of the truth is in each answer, such as its ROUGE-L.

    Raises:
        OptionError: there is no score.

    >>> leak([[0.25, 0.5], [0.0, 0.25]])
    0.375
    """
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or not table.size:
        raise OptionError(f"scores of sampled answers are {list(table.shape)}; expected 2-D")
    return float(table.max(1).mean())


def _tokens(correct: ArrayLike) -> NDArray[np.bool_]:
    tokens = np.asarray(correct, np.bool_)
    if tokens.ndim != 1 or not tokens.size:
        raise OptionError(f"an answer's tokens are {list(tokens.shape)}; expected at least one")
    return tokens
