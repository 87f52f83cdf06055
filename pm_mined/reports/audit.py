"""The audit of a map: figures by rule, distance, kind and script, weighted by real text.

Where a token has several destination tokens, all figures but `choices` are of the first one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pm_mined.display import token_json
from pm_mined.kernels.tokens import UNMAPPED, Kind
from pm_mined.maps.token_map import TokenMap
from pm_mined.notebook import html_table, percent
from pm_mined.tokenizer.special_tokens import looks_special

from .scripts import character_counts, scripts_of
from .usage import Usage

AUDIT_VERSION = 1
MATCHES = ("exact", "near", "far", "unmapped")
"""Classes of distance to the destination token: 0, up to `NEAR`, more, or unmapped."""

NEAR = 2

_EXAMPLES = 5


class Audit:
    """The figures of a map, with `usage` weighted by the uses of each token in text.

    Per source token, arrays of [source ids]: `match`, codes of `MATCHES`; `script`, codes of
    `script_names`; `characters` that it writes; `uses` in the text, None without text; `cost` of
    one use: the distance, or the token's length where it is unmapped, at least 1.

    Raises:
        MapFileError: a column of the map is damaged.

    >>> from pm_mined import Kind, Vocabulary, build_map
    >>> toy = Vocabulary.from_tokens([b"a", b"b"], [Kind.TEXT, Kind.TEXT], name="toy")
    >>> audit = Audit(build_map(toy, toy))
    >>> [(group["name"], group["tokens"]) for group in audit.to_json()["matches"]]
    [('exact', 2), ('near', 0), ('far', 0), ('unmapped', 0)]
    """

    def __init__(self, token_map: TokenMap, usage: Usage | None = None) -> None:
        self.token_map = token_map
        self.usage = usage
        self.uses = None if usage is None else usage.uses
        source = token_map.source.packed
        self.kinds = source.kinds
        self.script, self.script_names = scripts_of(source)
        self.characters = character_counts(source)
        self.characters[(self.kinds == Kind.SPECIAL) | (self.kinds == Kind.UNUSED)] = 0
        distance = token_map.distance
        in_bytes = token_map.info.strategy["unit"] == "byte"
        length = np.diff(source.offsets) if in_bytes else self.characters
        unmapped = token_map.dst_id == UNMAPPED
        self.cost = np.where(unmapped, np.maximum(length, 1), distance)
        conditions = [unmapped, distance == 0, distance <= NEAR]
        codes = [MATCHES.index(name) for name in ("unmapped", "exact", "near")]
        self.match = np.select(conditions, codes, MATCHES.index("far")).astype(np.int8)

    def __repr__(self) -> str:
        if self.uses is None:
            return f"Audit({self.token_map!r})"
        mapped, uses = self._uses_of(self.match != MATCHES.index("unmapped")), self.uses.sum()
        return f"Audit({self.token_map!r}, {percent(mapped, uses)} of {uses:,} uses)"

    def _repr_html_(self) -> str:
        uses = [] if self.uses is None else ["uses", ""]
        rows = [["match", "tokens", "", *uses]]
        for code, name in enumerate(MATCHES):
            matching = self.match == code
            rows.append([name, *_count_and_share(int(matching.sum()), len(matching))])
            if self.uses is not None:
                rows[-1] += _count_and_share(self._uses_of(matching), int(self.uses.sum()))
        return html_table(repr(self), rows)

    def _uses_of(self, tokens: NDArray[np.bool_]) -> int:
        return 0 if self.uses is None else int(self.uses[tokens].sum())

    def to_json(self, limit: int = 10) -> dict[str, Any]:
        """All figures, and up to `limit` rows of each list; docs/audit.schema.json describes it."""
        token_map = self.token_map
        everything = np.zeros(len(token_map), np.int64)
        (total,) = self._groups(everything, ["total"])
        document = {
            "audit_version": AUDIT_VERSION,
            "map": token_map.summary(),
            "text": self._text(),
            "choices": self._choices(),
            "total": _without(total, "name", "by_match"),
            "matches": self._groups(self.match, MATCHES),
            "rules": self._groups(token_map.rule, token_map.names("rule")),
            "kinds": self._groups(self.kinds, token_map.names("src_kind")),
            "scripts": self._scripts(),
            "distances": self._distances(),
            "most_read": self._most_read(limit),
            "most_distant": self._rows(self._top(token_map.distance, limit)),
            "unmapped": self._rows(self._top(self._unmapped_weight(), limit)),
            "unmapped_special": self._rows(self._unmapped_special()[:limit]),
        }
        if self.uses is not None:
            document["costliest"] = self._rows(self._top(self.uses * self.cost, limit))
        return document

    def _text(self) -> dict[str, Any] | None:
        if self.usage is None:
            return None
        mapped = self.match != MATCHES.index("unmapped")
        uses = self.usage.uses
        mapped_uses = int(uses[mapped].sum())
        total = int((uses * self.token_map.distance)[mapped].sum())
        return {
            "files": self.usage.files,
            "documents": self.usage.documents,
            "tokens": int(uses.sum()),
            "characters": self.usage.characters,
            "mean_distance": total / mapped_uses if mapped_uses else 0.0,
            "unverified_cuts": self.usage.unverified_cuts,
        }

    def _choices(self) -> dict[str, Any]:
        """The number of destination tokens, and the figures of source tokens with several."""
        counts = self.token_map.choice_counts
        mapped = counts[counts > 0]
        _, several = self._groups(counts > 1, ["one", "several"])
        return {
            "form": self.token_map.form,
            "mean": float(mapped.mean()) if len(mapped) else 0.0,
            "max": int(counts.max(initial=0)),
            "several": _without(several, "name", "by_match"),
        }

    def _groups(self, codes: NDArray[Any], names: Sequence[str]) -> list[dict[str, Any]]:
        """The figures of every group of tokens, in all and by match."""
        count, width = len(names), len(MATCHES)
        cells = codes.astype(np.int64) * width + self.match
        columns = {"tokens": np.bincount(cells, minlength=count * width)}
        if self.uses is not None:
            for name, weights in ("uses", self.uses), ("characters", self.uses * self.characters):
                sums = np.bincount(cells, weights, minlength=count * width)
                columns[name] = sums.astype(np.int64)
        tables = {name: column.reshape(count, width) for name, column in columns.items()}
        totals = {name: int(column.sum()) for name, column in columns.items()}
        return [
            {
                "name": name,
                **_figures({key: int(table[i].sum()) for key, table in tables.items()}, totals),
                "by_match": {
                    match: _figures({key: int(t[i, j]) for key, t in tables.items()}, totals)
                    for j, match in enumerate(MATCHES)
                },
            }
            for i, name in enumerate(names)
        ]

    def _scripts(self) -> list[dict[str, Any]]:
        """The scripts that occur, the most used first."""
        groups = [g for g in self._groups(self.script, self.script_names) if g["tokens"]]
        return sorted(groups, key=lambda g: (-g.get("uses", 0), -g["tokens"], g["name"]))

    def _distances(self) -> list[dict[str, Any]]:
        """The histogram; unmapped tokens have no distance."""
        found, codes = np.unique(self.token_map.distance, return_inverse=True)
        groups = self._groups(codes, [str(distance) for distance in found])
        return [
            {"distance": distance, **_without(group, "name")}
            for distance, group in zip(found.tolist(), groups, strict=True)
            if distance >= 0
        ]

    def _most_read(self, limit: int) -> list[dict[str, Any]]:
        """The destination tokens to which the most source tokens map."""
        dst_id = self.token_map.dst_id
        mapped = np.flatnonzero(dst_id != UNMAPPED)
        counts = np.bincount(dst_id[mapped])
        found = []
        for token_id in self._top(counts, limit):
            ids = np.flatnonzero(dst_id == token_id)
            token = self.token_map.row(ids[0]).dst_token
            entry = {
                "dst_id": token_id,
                **token_json("dst_token", token),
                "readers": len(ids),
                "examples": ids[:_EXAMPLES].tolist(),
            }
            if self.uses is not None:
                entry["uses"] = int(self.uses[ids].sum())
            found.append(entry)
        return found

    def _unmapped_weight(self) -> NDArray[Any]:
        """The weight that orders unmapped tokens: cost in text, else ordinary before reserved."""
        reserved_last = len(Kind) - self.kinds.astype(np.int64)
        weight = reserved_last if self.uses is None else self.uses * self.cost
        return np.where(self.match == MATCHES.index("unmapped"), weight, 0)

    def _unmapped_special(self) -> list[int]:
        """The unmapped special tokens, and text tokens written like them, in id order."""
        source = self.token_map.source
        unmapped = self.match == MATCHES.index("unmapped")
        special = np.flatnonzero(unmapped & (self.kinds == Kind.SPECIAL)).tolist()
        text = np.flatnonzero(unmapped & (self.kinds == Kind.TEXT))
        bracketed = np.isin(source.packed.data[source.packed.offsets[text]], list(b"<["))
        alike = [i for i in text[bracketed].tolist() if looks_special(source[i].decode())]
        return sorted([*special, *alike])

    def _top(self, weights: NDArray[Any], limit: int) -> list[int]:
        """The ids of the largest weights above 0, largest first, then by id."""
        order = np.argsort(-weights.astype(np.int64), kind="stable")[:limit]
        return [int(i) for i in order if weights[i] > 0]

    def _rows(self, ids: list[int]) -> list[dict[str, Any]]:
        rows = []
        for i in ids:
            row = self.token_map.row(i).to_json()
            row["script"] = self.script_names[self.script[i]]
            if self.uses is not None:
                row["uses"], row["cost"] = int(self.uses[i]), int(self.uses[i] * self.cost[i])
            rows.append(row)
        return rows


def _count_and_share(count: int, total: int) -> list[str]:
    return [f"{count:,}", percent(count, total)]


def _without(group: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in keys}


def _figures(counts: dict[str, int], totals: dict[str, int]) -> dict[str, Any]:
    """Counts with their shares of the whole."""
    share = {"tokens": "share", "uses": "use_share", "characters": "character_share"}
    figures: dict[str, Any] = {}
    for name, value in counts.items():
        figures[name] = value
        figures[share[name]] = value / totals[name] if totals[name] else 0.0
    return figures
