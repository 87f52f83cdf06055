"""Ends of texts, laid over a map: whatever ends a text maps to one destination token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pm_mined.kernels.tokens import Matches, Rule
from pm_mined.vocabulary import Vocabulary

from .token_map import TokenMap


def map_ends(
    token_map: TokenMap, src: Vocabulary, dst: Vocabulary, ends: Sequence[int], end: int
) -> TokenMap:
    """Let the source tokens `ends` map to the destination token `end`, and to no other.

    Those that an override decided stay as they are. The others get the rule `special`, and the
    strategy's `end` names the destination token. `src` and `dst` are the map's vocabularies.

    Returns:
        Another map, or the same if there is nothing to change.

    >>> from pm_mined import Kind, build_map
    >>> src = Vocabulary.from_tokens([b"<eos>", b"a"], [Kind.SPECIAL, Kind.TEXT])
    >>> dst = Vocabulary.from_tokens([b"<eos>", b"<|im_end|>"], [Kind.SPECIAL, Kind.SPECIAL])
    >>> map_ends(build_map(src, dst), src, dst, ends=[0], end=1).dst_id.tolist()
    [1, -1]
    """
    rows = _changed(token_map, ends, end)
    if not len(rows):
        return token_map
    matches = Matches(token_map.dst_id.copy(), token_map.rule.copy(), token_map.distance.copy())
    matches.dst_id[rows], matches.rule[rows], matches.distance[rows] = end, Rule.SPECIAL, 0
    choices, info = token_map.choices, token_map.info
    return TokenMap.from_matches(
        *(src, dst, matches),
        strategy={**info.strategy, "end": dst[end].decode(errors="backslashreplace")},
        choices=None if choices is None else choices.replace(rows, matches.dst_id[rows]),
        overrides_sha256=info.overrides_sha256,
    )


def _changed(token_map: TokenMap, ends: Sequence[int], end: int) -> NDArray[np.int64]:
    """int64 [rows]: the `ends` that are to map to `end` and do not, ascending."""
    rows = np.unique(np.array(ends, np.int64))
    by_hand = token_map.rule[rows] == Rule.OVERRIDE
    is_right = (token_map.dst_id[rows] == end) & (token_map.choice_counts[rows] == 1)
    changed: NDArray[np.int64] = rows[~by_hand & ~is_right]
    return changed
