"""Matching strategies: each maps the ordinary tokens of one vocabulary onto another's.

Special tokens and overrides are not theirs: `build_map` puts them on top.
"""

from collections.abc import Callable

import numpy as np

from .errors import VocabularyError
from .kernels.tokens import UNMAPPED, Matches, PackedTokens, Rule, Unit


def pm_mined(src: PackedTokens, dst: PackedTokens, unit: Unit) -> Matches:
    """Exact bytes, else the nearest prefix or extension."""
    from .kernels.prefix_match import prefix_match

    try:
        return prefix_match(src, dst, unit)
    except ValueError as error:
        raise VocabularyError(f"the destination vocabulary is too large: {error}") from error


def exact(src: PackedTokens, dst: PackedTokens, unit: Unit) -> Matches:
    """Exact bytes only."""
    matches = pm_mined(src, dst, unit)
    inexact = matches.rule > Rule.BYTE
    return Matches(
        np.where(inexact, np.int32(UNMAPPED), matches.dst_id),
        np.where(inexact, np.int8(Rule.NONE), matches.rule),
        np.where(inexact, np.int32(-1), matches.distance),
    )


Strategy = Callable[[PackedTokens, PackedTokens, Unit], Matches]

STRATEGIES: dict[str, Strategy] = {"pm-mined": pm_mined, "exact": exact}
