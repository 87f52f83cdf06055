"""Where two maps between the same vocabularies differ."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import PmMinedError
from .kernels.tokens import Rule
from .map_file import NAMES
from .token_map import TokenMap
from .usage import Usage
from .verify import SIDES

_READ = ("rule", "distance", "dst_id", "dst_token", "dst_token_hex")
"""What the two maps may say otherwise of a token."""


class Group(NamedTuple):
    """Tokens that differ in one way, the most used first; without text, by id."""

    same_dst: bool  # then it is the rule or the distance that differs
    rule_a: str
    rule_b: str
    src_ids: NDArray[np.int64]


class Comparison:
    """Two maps side by side; with `usage`, weighted by how often text uses each token.

    Arrays of bool [source ids]: `other_dst` where another token is read, `otherwise` where the
    same token is read by another rule or at another distance.

    Raises:
        PmMinedError: the maps are between other vocabularies; the text says which.
        MapFileError: a column of a map is damaged.
    """

    def __init__(self, a: TokenMap, b: TokenMap, usage: Usage | None = None) -> None:
        _check_vocabularies(a, b)
        self.a, self.b, self.usage = a, b, usage
        self.other_dst = a.dst_id != b.dst_id
        self.otherwise = ~self.other_dst & ((a.rule != b.rule) | (a.distance != b.distance))

    @property
    def equal(self) -> bool:
        """Whether every token has the same destination, rule and distance."""
        return not (self.other_dst.any() or self.otherwise.any())

    @cached_property
    def groups(self) -> list[Group]:
        """All tokens that differ: first what is read differently, then the largest groups."""
        ids = np.flatnonzero(self.other_dst | self.otherwise)
        if self.usage is not None:
            ids = ids[np.argsort(-self.usage.uses[ids], kind="stable")]
        shape = (2, len(Rule), len(Rule))
        keys = (self.otherwise[ids].astype(np.int8), self.a.rule[ids], self.b.rule[ids])
        cells = np.ravel_multi_index(keys, shape)
        found = []
        for cell in np.unique(cells):
            same_dst, rule_a, rule_b = np.unravel_index(cell, shape)
            names = NAMES["rule"][rule_a], NAMES["rule"][rule_b]
            found.append(Group(bool(same_dst), *names, ids[cells == cell]))
        return sorted(found, key=lambda group: (group.same_dst, *self._largest_first(group)))

    def _largest_first(self, group: Group) -> tuple[int, int]:
        uses = 0 if self.usage is None else int(self.usage.uses[group.src_ids].sum())
        return -uses, -len(group.src_ids)

    def to_json(self, limit: int = 3) -> dict[str, Any]:
        """All figures, and up to `limit` tokens of each group as examples.

        `a`, `b`: `strategy`, `overrides_sha256` and `tool_version` of each map. `src`, `dst`: the
        vocabularies. `text`: what the maps are weighted by, or null. `equal`. `other_dst` and
        `otherwise`: the figures of the tokens that read another token, and of those that read the
        same one by another rule or at another distance. `groups`: `same_dst`, `rule_a`, `rule_b`,
        the figures, and `examples`: the source token, and what it reads in `a` and in `b`.
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
            "groups": [
                {
                    "same_dst": group.same_dst,
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
        rows = {"a": self.a.row(src_id).to_json(), "b": self.b.row(src_id).to_json()}
        example = {key: value for key, value in rows["a"].items() if key not in _READ}
        if self.usage is not None:
            example["uses"] = int(self.usage.uses[src_id])
        return example | {of: {key: row[key] for key in _READ} for of, row in rows.items()}


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
