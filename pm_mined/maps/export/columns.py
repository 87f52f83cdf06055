"""Columns of a map, as several formats need them."""

import numpy as np
from numpy.typing import NDArray

from pm_mined.errors import MapFileError
from pm_mined.kernels.tokens import UNMAPPED, Rule
from pm_mined.maps.arrow_columns import column_values, packed_tokens
from pm_mined.maps.token_map import TokenMap

Contents = list[bytes | memoryview]
"""The content of each file of an export."""


def is_same_token(token_map: TokenMap) -> NDArray[np.bool_]:
    """True where both tokens stand for the same text: bool [source ids].

    That is so for the rules `special`, `exact` and `byte`, and for an override of a special token
    or by a token with the same bytes.
    """
    same = (token_map.rule > Rule.OVERRIDE) & (token_map.rule <= Rule.BYTE)
    by_hand = (token_map.rule == Rule.OVERRIDE) & (token_map.dst_id != UNMAPPED)
    for src_id in np.flatnonzero(by_hand).tolist():
        row = token_map.row(src_id)
        same[src_id] = row.src_kind == "special" or row.src_token == row.dst_token
    return same


def metadata_json(token_map: TokenMap) -> str:
    """The metadata of a map, as in its file."""
    return token_map.info.to_json().decode()


def tokens_of(token_map: TokenMap, column: str) -> list[bytes]:
    """The tokens of a column, `src_token` or `dst_token`."""
    return packed_tokens(token_map.column(column)).tolist()


def names_of(token_map: TokenMap, column: str) -> list[str]:
    """The names in a column, `rule` or `src_kind`."""
    names = token_map.names(column)
    return [names[code] for code in column_values(token_map.column(column)).tolist()]


def refuse_several(token_map: TokenMap, name: str) -> None:
    """Refuse a map in which a token has several destination tokens."""
    count = int((token_map.choice_counts > 1).sum())
    if count:
        raise MapFileError(
            f"{name} holds one destination token for each source token, and {count:,} of this map "
            "have several: build a map with --strategy pm-mined or first-token"
        )
