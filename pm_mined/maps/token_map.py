"""The token map: for each source token its destination tokens, the rule and the distance."""

from dataclasses import asdict
from functools import cached_property
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pm_mined.display import printable, token_json
from pm_mined.kernels.tokens import UNMAPPED, Choices, Matches, Rule
from pm_mined.notebook import html_table, percent
from pm_mined.version import __version__
from pm_mined.vocabulary import Vocabulary

from .arrow_columns import (
    binary_column,
    codes_column,
    column_digest,
    column_values,
    int_column,
    list_column,
    list_values,
    packed_tokens,
)
from .file import CHECKED_AT_LOAD, SCHEMAS, Form, check_column, read_map, write_map
from .info import NAMES, MapInfo, VocabularyInfo


class Row(NamedTuple):
    """One source token and the destination token that it maps to."""

    src_id: int
    src_token: bytes
    src_kind: str
    rule: str
    distance: int
    dst_id: int
    dst_token: bytes

    def to_json(self) -> dict[str, Any]:
        """The row for JSON: tokens as text, where they are text, and as hexadecimal digits."""
        src, dst = token_json("src_token", self.src_token), token_json("dst_token", self.dst_token)
        return {**self._asdict(), **src, **dst}


class TokenMap:
    """A token map, built or loaded; its columns are read-only NumPy views of Arrow memory.

    Where it has `choices`, `dst_id` is the first of each token, and the rule, the distance and
    the destination token of its rows are those of the first. A column of a loaded map that was
    not checked at load is checked against its digest when it is first used. `file` is the one that
    it was loaded from.

    >>> from pm_mined import Kind, Vocabulary, build_map
    >>> src = Vocabulary.from_tokens([b" cats", b"?"], [Kind.TEXT, Kind.TEXT], name="src")
    >>> dst = Vocabulary.from_tokens([b" cat"], [Kind.TEXT], name="dst")
    >>> token_map = build_map(src, dst)
    >>> token_map
    TokenMap(src (2) -> dst (1), pm-mined, 50.0 % mapped)
    >>> token_map.dst_id.tolist(), token_map.distance.tolist()
    ([0, -1], [1, -1])
    """

    def __init__(
        self, info: MapInfo, batch: pa.RecordBatch, *, file: str | PathLike[str] | None = None
    ) -> None:
        self.info = info
        self._batch = batch
        self.file = file
        self._unchecked = set(batch.schema.names) - set(CHECKED_AT_LOAD)

    @classmethod
    def from_matches(
        cls,
        src: Vocabulary,
        dst: Vocabulary,
        matches: Matches,
        *,
        strategy: dict[str, Any],
        choices: Choices | None = None,
        overrides_sha256: str | None = None,
    ) -> "TokenMap":
        """Put the matches of every source token into a map, and their choices if there are any.

        `strategy` has its `name`, the `unit` of the distances, and the parameters it was given.
        """
        version = 1 if choices is None and not (matches.rule == Rule.ENCODING).any() else 2
        names = NAMES[version]
        columns = {
            "src_id": int_column(np.arange(len(src), dtype=np.int32)),
            "dst_id": int_column(matches.dst_id),
            "rule": codes_column(matches.rule, names["rule"]),
            "distance": int_column(matches.distance),
            "src_kind": codes_column(src.packed.kinds.astype(np.int8), names["src_kind"]),
            "src_token": binary_column(src.packed),
            "dst_token": binary_column(dst.packed.take(matches.dst_id)),
            **_list_columns(choices),
        }
        counts = np.bincount(matches.rule, minlength=len(names["rule"])).tolist()
        info = MapInfo(
            format_version=version,
            tool_version=__version__,
            strategy=strategy,
            src=VocabularyInfo.of(src),
            dst=VocabularyInfo.of(dst),
            overrides_sha256=overrides_sha256,
            rules=dict(zip(names["rule"], counts, strict=True)),
            column_sha256={name: column_digest(column) for name, column in columns.items()},
        )
        schema = SCHEMAS[_form(list(columns))]
        return cls(info, pa.RecordBatch.from_arrays(list(columns.values()), schema=schema))

    def __len__(self) -> int:
        return len(self._batch)

    def __repr__(self) -> str:
        sides = [f"{printable(str(one.name))} ({one.size:,})" for one in self._sides]
        strategy = printable(str(self.info.strategy.get("name")))
        mapped = percent(self._num_mapped, len(self))
        return f"TokenMap({' -> '.join(sides)}, {strategy}, {mapped} mapped)"

    def _repr_html_(self) -> str:
        sides = zip(("source", "destination"), self._sides, strict=True)
        rows = [(side, str(one.name), f"{one.size:,} tokens") for side, one in sides]
        strategy = ("strategy", str(self.info.strategy.get("name")))
        share = ("mapped", f"{self._num_mapped:,}", percent(self._num_mapped, len(self)))
        counts = [(rule, n) for rule, n in self.info.rules.items() if type(n) is int and n > 0]
        rules = [
            (rule, f"{count:,}", percent(count, len(self)))
            for rule, count in sorted(counts, key=lambda one: (-one[1], one[0]))
        ]
        return html_table("TokenMap", [*rows, strategy, share, *rules])

    @property
    def _sides(self) -> tuple[VocabularyInfo, VocabularyInfo]:
        return self.info.src, self.info.dst

    @property
    def _num_mapped(self) -> int:
        return int(np.count_nonzero(self.dst_id != UNMAPPED))

    def to_arrow(self) -> pa.RecordBatch:
        """The rows as Arrow, every column checked.

        Raises:
            MapFileError: a column of a loaded map is damaged.
        """
        for name in self._batch.schema.names:
            self.column(name)
        return self._batch

    def column(self, name: str) -> pa.Array:
        """One column as Arrow.

        Raises:
            MapFileError: the column of a loaded map is damaged.
        """
        if name in self._unchecked and self.file is not None:
            check_column(self.file, self.info, self._batch, name)
            self._unchecked.discard(name)  # another thread may have been first
        return self._batch.column(name)

    def names(self, column: str) -> list[str]:
        """The names of the codes of `rule` or `src_kind`."""
        names: list[str] = self.column(column).dictionary.to_pylist()
        return names

    @property
    def form(self) -> Form:
        """`one` destination token each, or several: `weighted`, or `grouped` without weights."""
        return _form(self._batch.schema.names)

    @cached_property
    def choices(self) -> Choices | None:
        """The destination tokens of each source token; None where `dst_id` is all there is."""
        if self.form == "one":
            return None
        offsets, ids = list_values(self.column("dst_ids"))
        weighted = self.form == "weighted"
        weight = list_values(self.column("weights"))[1] if weighted else None
        return Choices(offsets, ids, weight)

    @property
    def choice_counts(self) -> NDArray[np.int64]:
        """int64 [source ids]: the number of destination tokens of each; 0 where unmapped."""
        choices = self.choices
        counts = self.dst_id != UNMAPPED if choices is None else np.diff(choices.offsets)
        return counts.astype(np.int64)

    @cached_property
    def dst_id(self) -> NDArray[np.int32]:
        """int32 [source ids]: the destination id, -1 where unmapped."""
        return column_values(self.column("dst_id"))

    @cached_property
    def rule(self) -> NDArray[np.int8]:
        """int8 [source ids]: the code of the `Rule` that decided."""
        return column_values(self.column("rule"))

    @cached_property
    def distance(self) -> NDArray[np.int32]:
        """int32 [source ids]: Levenshtein distance in the map's unit, -1 where unmapped.

        It is 0 where a role or a person decided, and not the spelling.
        """
        return column_values(self.column("distance"))

    @property
    def mean_distance(self) -> float:
        """Mean distance of the mapped tokens; 0.0 where nothing is mapped."""
        mapped = self.distance[self.dst_id != UNMAPPED]
        return float(mapped.mean()) if len(mapped) else 0.0

    def row(self, src_id: int) -> Row:
        """One source token and the destination token that it maps to."""
        return Row(**{name: self.column(name)[src_id].as_py() for name in Row._fields})

    @cached_property
    def source(self) -> Vocabulary:
        """The source vocabulary, as the map itself holds it."""
        kinds = column_values(self.column("src_kind")).astype(np.uint8)
        packed = packed_tokens(self.column("src_token"), kinds)
        return Vocabulary(self.info.src.name, self.info.src.source, packed)

    def find(self, src_token: bytes) -> list[int]:
        """The ids of all source tokens with these bytes, ascending."""
        return self.source.find(src_token)

    def summary(self) -> dict[str, Any]:
        """The figures of the whole map, ready for JSON."""
        return {
            "strategy": self.info.strategy,
            "src": asdict(self.info.src),
            "dst": asdict(self.info.dst),
            "overrides_sha256": self.info.overrides_sha256,
            "rules": self.info.rules,
            "mean_distance": self.mean_distance,
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Write the map file atomically; the same map gives the same bytes.

        Raises:
            MapFileError: the file cannot be written; what was there before is untouched.
        """
        write_map(path, self.info, self.to_arrow())


def load_map(path: str | PathLike[str]) -> TokenMap:
    """Read a file and check it.

    `dst_id` and the choices are checked at once; the other columns when they are first used. All
    lie in private memory: the map stays as it is when its file changes.

    Raises:
        MapFileError: the file is not a map, is damaged, or is of a newer format.

    >>> token_map = load_map("llama3-to-qwen3.arrow")  # doctest: +SKIP
    >>> token_map.row(9906)  # doctest: +SKIP
    Row(src_id=9906, src_token=b'Hello', ..., dst_id=9707, dst_token=b'Hello')
    """
    return TokenMap(*read_map(path), file=path)


def _form(columns: list[str]) -> Form:
    if "dst_ids" not in columns:
        return "one"
    return "weighted" if "weights" in columns else "grouped"


def _list_columns(choices: Choices | None) -> dict[str, pa.Array]:
    if choices is None:
        return {}
    columns = {"dst_ids": list_column(choices.offsets, choices.dst_id)}
    if choices.weight is not None:
        columns["weights"] = list_column(choices.offsets, choices.weight)
    return columns
