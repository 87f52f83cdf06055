"""Look up tokens in a map: what a source token maps to, and what maps to a destination token."""

from typing import NamedTuple

import numpy as np

from pm_mined.kernels.tokens import UNMAPPED

from .arrow_columns import packed_tokens
from .token_map import TokenMap


def choices_of(token_map: TokenMap, src_id: int) -> list[tuple[int, float | None]]:
    """The destination ids of a source token, each with its weight if the map has weights.

    The first is that of the map's `dst_id`; there are none where the token is unmapped.
    """
    choices = token_map.choices
    if choices is None:
        dst_id = int(token_map.dst_id[src_id])
        return [] if dst_id == UNMAPPED else [(dst_id, None)]
    of = slice(*choices.offsets[src_id : src_id + 2])
    ids = choices.dst_id[of].tolist()
    weights = [None] * len(ids) if choices.weight is None else choices.weight[of].tolist()
    return list(zip(ids, weights, strict=True))


class Source(NamedTuple):
    """A source token that maps to a destination token."""

    src_id: int
    place: int  # of the destination token among the choices: 1 for the first
    weight: float | None


def sources_of(token_map: TokenMap, dst_id: int) -> list[Source]:
    """The source tokens that map to a destination token.

    The heaviest come first, then those that have it as an earlier choice, then the nearest; ties
    are in order of the ids.
    """
    choices = token_map.choices
    if choices is None:
        ids = np.flatnonzero(token_map.dst_id == dst_id)
        places, weights = np.ones_like(ids), None
    else:
        at = np.flatnonzero(choices.dst_id == dst_id)
        ids = np.searchsorted(choices.offsets, at, side="right") - 1
        places = at - choices.offsets[ids] + 1
        weights = None if choices.weight is None else choices.weight[at]
    nearness = np.where(places == 1, token_map.distance[ids], 0)
    heavy = np.zeros(len(ids)) if weights is None else -weights
    order = np.lexsort((nearness, places, heavy)).tolist()
    return [
        Source(int(ids[i]), int(places[i]), None if weights is None else float(weights[i]))
        for i in order
    ]


def first_choices(token_map: TokenMap, dst_token: bytes) -> list[int]:
    """The ids of the destination tokens with these bytes that are first choices, ascending."""
    tokens = packed_tokens(token_map.column("dst_token")).tolist()
    pairs = zip(token_map.dst_id.tolist(), tokens, strict=True)
    return sorted({i for i, token in pairs if i != UNMAPPED and token == dst_token})
