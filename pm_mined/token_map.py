"""The token map: for each source token its destination token, the rule and the distance."""

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from . import __version__
from .errors import MapFileError
from .kernels.tokens import UNMAPPED, Kind, Matches, PackedTokens, Rule, Unit, pack
from .vocabulary import Vocabulary

FORMAT_VERSION = 1
RULES = [rule.name.lower() for rule in Rule]
KINDS = [kind.name.lower() for kind in Kind]

_CODES = pa.dictionary(pa.int8(), pa.utf8())
COLUMNS = pa.schema(
    [
        pa.field("src_id", pa.int32(), nullable=False),
        pa.field("dst_id", pa.int32(), nullable=False),
        pa.field("rule", _CODES, nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
        pa.field("src_kind", _CODES, nullable=False),
        pa.field("src_token", pa.binary(), nullable=False),
        pa.field("dst_token", pa.binary(), nullable=False),
    ]
)


@dataclass(frozen=True)
class VocabularyInfo:
    """What a map remembers of a vocabulary."""

    name: str
    source: str
    size: int
    fingerprint: str

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "VocabularyInfo":
        """Describe `vocabulary`."""
        size = len(vocabulary)
        return cls(vocabulary.name, vocabulary.source, size, vocabulary.fingerprint)


@dataclass(frozen=True)
class MapInfo:
    """Everything about a map but its rows; stored as JSON in the file."""

    format_version: int
    tool_version: str
    strategy: dict[str, Any]
    src: VocabularyInfo
    dst: VocabularyInfo
    overrides_sha256: str | None
    rules: dict[str, int]
    column_sha256: dict[str, str]

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "MapInfo":
        """Undo `dataclasses.asdict`."""
        src, dst = VocabularyInfo(**document["src"]), VocabularyInfo(**document["dst"])
        return cls(**{**document, "src": src, "dst": dst})


class Row(NamedTuple):
    """One source token and what it is mapped to."""

    src_id: int
    src_token: bytes
    src_kind: str
    rule: str
    distance: int
    dst_id: int
    dst_token: bytes


def column_digest(column: pa.Array) -> str:
    """SHA-256 of a column's values as they lie in memory, without padding.

    Integers: their little-endian values. Dictionary columns: their int8 codes. Binary: the
    int32 offsets, beginning with 0, and then the bytes.
    """
    digest = hashlib.sha256()
    if pa.types.is_binary(column.type):
        _, offsets, data = column.buffers()
        # Arrow may leave out the buffers of a column without rows.
        ends = np.frombuffer(offsets, "<i4", len(column) + 1) if len(column) else np.zeros(1, "<i4")
        digest.update(ends.data)
        digest.update(memoryview(data)[: ends[-1]] if ends[-1] else b"")
    else:
        digest.update(column_values(column).data)
    return digest.hexdigest()


def column_values(column: pa.Array) -> NDArray[Any]:
    """The values of an integer column, the codes of a dictionary column; nothing is copied.

    `to_numpy` would do the same, and import pandas, if it is installed, to look for it.
    """
    if pa.types.is_dictionary(column.type):
        column = column.indices
    dtype = column.type.to_pandas_dtype()
    if not len(column):  # Arrow may leave out the buffer
        return np.empty(0, dtype)
    values = np.frombuffer(column.buffers()[1], dtype, len(column))
    values.flags.writeable = False
    return values


def _binary_column(tokens: PackedTokens) -> pa.Array:
    """The tokens as an Arrow column, without copying their bytes."""
    if tokens.offsets[-1] >= 2**31:
        raise MapFileError(f"the tokens hold {tokens.offsets[-1]} bytes; a map takes 2 GiB at most")
    buffers = [None, pa.py_buffer(tokens.offsets.astype(np.int32)), pa.py_buffer(tokens.data)]
    return pa.Array.from_buffers(pa.binary(), len(tokens.kinds), buffers)


def _int_column(values: NDArray[Any]) -> pa.Array:
    """An integer column; `pa.array`, too, would import pandas."""
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)]
    )


def _codes_column(codes: NDArray[np.int8], names: list[str]) -> pa.Array:
    letters = pack([name.encode() for name in names], np.zeros(len(names), np.uint8))
    return pa.DictionaryArray.from_arrays(_int_column(codes), _binary_column(letters).view("utf8"))


def _gather(tokens: PackedTokens, ids: NDArray[np.int32]) -> PackedTokens:
    """The tokens of `ids`, end to end; one without bytes where the id is -1."""
    ends = np.append(tokens.offsets, tokens.offsets[-1])  # one more token, without bytes
    picked = np.where(ids == UNMAPPED, len(tokens.kinds), ids)
    starts, lengths = ends[picked], ends[picked + 1] - ends[picked]
    offsets = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    source = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return PackedTokens(tokens.data[source], offsets, np.zeros(len(ids), np.uint8))


class TokenMap:
    """A token map, built or loaded; its columns are read-only NumPy views of Arrow memory.

    A column of a loaded map is checked against its digest when it is first used.
    """

    def __init__(
        self, info: MapInfo, batch: pa.RecordBatch, *, file: str | PathLike[str] | None = None
    ) -> None:
        self.info = info
        self._batch = batch
        self._file = file  # whose columns are to be checked; None for a map built in memory
        self._checked = set() if file else set(COLUMNS.names)

    @classmethod
    def from_matches(
        cls,
        src: Vocabulary,
        dst: Vocabulary,
        matches: Matches,
        *,
        strategy: str,
        unit: Unit,
        overrides_sha256: str | None = None,
    ) -> "TokenMap":
        """Put the matches of every source token into a map."""
        columns = [
            _int_column(np.arange(len(src), dtype=np.int32)),
            _int_column(matches.dst_id),
            _codes_column(matches.rule, RULES),
            _int_column(matches.distance),
            _codes_column(src.packed.kinds.astype(np.int8), KINDS),
            _binary_column(src.packed),
            _binary_column(_gather(dst.packed, matches.dst_id)),
        ]
        counts = np.bincount(matches.rule, minlength=len(RULES)).tolist()
        info = MapInfo(
            format_version=FORMAT_VERSION,
            tool_version=__version__,
            strategy={"name": strategy, "unit": unit},
            src=VocabularyInfo.of(src),
            dst=VocabularyInfo.of(dst),
            overrides_sha256=overrides_sha256,
            rules=dict(zip(RULES, counts, strict=True)),
            column_sha256={
                name: column_digest(column)
                for name, column in zip(COLUMNS.names, columns, strict=True)
            },
        )
        return cls(info, pa.RecordBatch.from_arrays(columns, schema=COLUMNS))

    def __len__(self) -> int:
        return len(self._batch)

    def to_arrow(self) -> pa.RecordBatch:
        """The rows as Arrow, every column checked."""
        for name in COLUMNS.names:
            self.column(name)
        return self._batch

    def column(self, name: str) -> pa.Array:
        """One column as Arrow.

        Raises:
            MapFileError: the column of a loaded map is damaged.
        """
        column = self._batch.column(name)
        if name not in self._checked:
            try:
                column.validate(full=True)
                sound = column_digest(column) == self.info.column_sha256.get(name)
                if pa.types.is_dictionary(column.type):
                    sound &= column.dictionary.to_pylist() == (RULES if name == "rule" else KINDS)
            except pa.ArrowException:
                sound = False
            if not sound:
                raise MapFileError(
                    f"{self._file}: damaged: column {name} does not fit its SHA-256; "
                    "build the map again"
                )
            self._checked.add(name)
        return column

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
        """One source token and what it is mapped to."""
        names = ("src_token", "src_kind", "rule", "distance", "dst_id", "dst_token")
        return Row(src_id, *(self.column(name)[src_id].as_py() for name in names))

    def find(self, src_token: bytes) -> list[int]:
        """The ids of all source tokens with these bytes, ascending."""
        import pyarrow.compute as pc

        equal = pc.equal(self.column("src_token"), pa.scalar(src_token, pa.binary()))
        return pc.indices_nonzero(equal).to_pylist()  # type: ignore[no-any-return]

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
        """Write the map file; see `pm_mined.map_file.save_map`."""
        from .map_file import save_map

        save_map(self, path)
