"""Where two maps between the same vocabularies differ."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pm_mined.errors import PmMinedError
from pm_mined.kernels.tokens import UNMAPPED, Rule
from pm_mined.maps.info import SIDES
from pm_mined.maps.token_map import TokenMap

from .usage import Usage

_MATCH = ("rule", "distance", "dst_id", "dst_token", "dst_token_hex")
"""The columns in which two maps of the same source may differ."""


class Group(NamedTuple):
    """Tokens that differ in one way, the most used first; without text, by id."""

    same_dst: bool  # then it is the rule or the distance that differs
    same_match: bool  # then it is the other choices
    rule_a: str
    rule_b: str
    src_ids: NDArray[np.int64]


class Comparison:
    """Two maps side by side; with `usage`, weighted by how often text uses each token.

    Arrays of bool [source ids]: `other_dst` where the (first) destination token differs,
    `other_choices` where only the choices beside it, a weight or the order differ, and `otherwise`
    where only the rule or the distance differs.

    Raises:
        PmMinedError: the maps are between other vocabularies; the text says which.
        MapFileError: a column of a map is damaged.
    """

    def __init__(self, a: TokenMap, b: TokenMap, usage: Usage | None = None) -> None:
        _check_vocabularies(a, b)
        self.a, self.b, self.usage = a, b, usage
        self.other_dst = a.dst_id != b.dst_id
        self.other_choices = ~self.other_dst & _other_choices(a, b)
        same = ~(self.other_dst | self.other_choices)
        self.otherwise = same & ((a.rule != b.rule) | (a.distance != b.distance))

    @property
    def equal(self) -> bool:
        """True if every token has the same destination, rule, distance and choices."""
        return not (self.other_dst | self.otherwise | self.other_choices).any()

    @cached_property
    def groups(self) -> list[Group]:
        """All tokens that differ: first those with another destination, then the largest groups."""
        ids = np.flatnonzero(self.other_dst | self.otherwise | self.other_choices)
        if self.usage is not None:
            ids = ids[np.argsort(-self.usage.uses[ids], kind="stable")]
        shape = (3, len(Rule), len(Rule))
        differs = np.where(self.other_choices, 2, self.otherwise)
        keys = (differs[ids], self.a.rule[ids], self.b.rule[ids])
        cells = np.ravel_multi_index(keys, shape)
        found = []
        for cell in np.unique(cells):
            what, *rules = np.unravel_index(cell, shape)
            rule_a, rule_b = (Rule(int(rule)).name.lower() for rule in rules)
            found.append(Group(bool(what > 0), bool(what == 2), rule_a, rule_b, ids[cells == cell]))
        return sorted(found, key=lambda group: (group.same_dst, *self._largest_first(group)))

    def _largest_first(self, group: Group) -> tuple[int, int]:
        uses = 0 if self.usage is None else int(self.usage.uses[group.src_ids].sum())
        return -uses, -len(group.src_ids)

    def to_json(self, limit: int = 3) -> dict[str, Any]:
        """All figures, and up to `limit` tokens of each group as examples.

        `a`, `b`: `strategy`, `overrides_sha256` and `tool_version` of each map. `src`, `dst`: the
        vocabularies. `text`: what the maps are weighted by, or null. `equal`. `other_dst`,
        `otherwise` and `other_choices`: the figures of the tokens that map to another token, of
        those that map to the same by another rule or at another distance, and of those that have
        the same first choice, but others beside it. `groups`: `same_dst`, `same_match` (the last
        case), `rule_a`, `rule_b`, the figures, and `examples`: the source token, and what it maps
        to in `a` and in `b`, with `dst_ids` and `weights` where the map has choices.
        Figures are `tokens` and `share` of all tokens; with text, `uses` and `use_share`.
        """
        src, dst = (self.a.summary()[side] for side in SIDES)
        return {
            "equal": self.equal,
            "a": _about(self.a),
            "b": _about(self.b),
            "src": src,
            "dst": dst,
            "text": self._text(),
            "other_dst": self._figures(np.flatnonzero(self.other_dst)),
            "otherwise": self._figures(np.flatnonzero(self.otherwise)),
            "other_choices": self._figures(np.flatnonzero(self.other_choices)),
            "groups": [
                {
                    "same_dst": group.same_dst,
                    "same_match": group.same_match,
                    "rule_a": group.rule_a,
                    "rule_b": group.rule_b,
                    **self._figures(group.src_ids),
                    "examples": [self._example(i) for i in group.src_ids[:limit].tolist()],
                }
                for group in self.groups
            ],
        }

    def _text(self) -> dict[str, Any] | None:
        if self.usage is None:
            return None
        return {
            "files": self.usage.files,
            "documents": self.usage.documents,
            "tokens": int(self.usage.uses.sum()),
            "characters": self.usage.characters,
        }

    def _figures(self, ids: NDArray[np.int64]) -> dict[str, Any]:
        figures = {"tokens": len(ids), "share": len(ids) / max(len(self.a), 1)}
        if self.usage is not None:
            uses = int(self.usage.uses[ids].sum())
            figures |= {"uses": uses, "use_share": uses / max(int(self.usage.uses.sum()), 1)}
        return figures

    def _example(self, src_id: int) -> dict[str, Any]:
        source = self.a.row(src_id).to_json()
        example = {key: value for key, value in source.items() if key not in _MATCH}
        if self.usage is not None:
            example["uses"] = int(self.usage.uses[src_id])
        return example | {"a": _match_of(self.a, src_id), "b": _match_of(self.b, src_id)}


def _match_of(token_map: TokenMap, src_id: int) -> dict[str, Any]:
    row = token_map.row(src_id).to_json()
    match = {key: row[key] for key in _MATCH}
    if (choices := token_map.choices) is not None:
        of = slice(*choices.offsets[src_id : src_id + 2])
        match["dst_ids"] = choices.dst_id[of].tolist()
        if choices.weight is not None:
            match["weights"] = choices.weight[of].tolist()
    return match


def _other_choices(a: TokenMap, b: TokenMap) -> NDArray[np.bool_]:
    """Where the choices are not the same ones, with the same weights, in the same order."""
    counts = a.choice_counts
    differ: NDArray[np.bool_] = counts != b.choice_counts
    (rows, *columns_a), (_, *columns_b) = (_choices_of(one, ~differ) for one in (a, b))
    for column_a, column_b in zip(columns_a, columns_b, strict=True):
        differ[rows[column_a != column_b]] = True
    return differ


def _choices_of(token_map: TokenMap, rows: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
    """The choices of these rows end to end: their row, their id and their weight.

    A single choice weighs 1 in every map; one of several without weights, 0.
    """
    counts = token_map.choice_counts
    row = np.repeat(np.arange(len(counts)), counts)
    ids = token_map.dst_id[token_map.dst_id != UNMAPPED]
    weight = np.ones(len(ids), np.float32)
    if token_map.choices is not None:
        _, ids, weights = token_map.choices
        weight = (counts[row] == 1).astype(np.float32) if weights is None else weights
    kept = rows[row]
    return row[kept], ids[kept], weight[kept]


def _about(token_map: TokenMap) -> dict[str, Any]:
    info = token_map.info
    return {
        "strategy": info.strategy,
        "overrides_sha256": info.overrides_sha256,
        "tool_version": info.tool_version,
    }


def _check_vocabularies(a: TokenMap, b: TokenMap) -> None:
    differing = []
    for side, name in SIDES.items():
        one, other = (token_map.info.of(side) for token_map in (a, b))
        if one.fingerprint != other.fingerprint:
            described = (
                f"{v.name} ({v.size:,} tokens, {v.fingerprint[:12]})" for v in (one, other)
            )
            differing.append(f"the {name} of A is {' and that of B '.join(described)}")
    if differing:
        raise PmMinedError(
            f"maps between other vocabularies cannot be compared: {'; '.join(differing)}"
        )
