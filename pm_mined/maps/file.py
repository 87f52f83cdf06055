"""The map file: Arrow IPC, written atomically and checked when read. See docs/map-format.md."""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pm_mined.atomic_file import write_atomically
from pm_mined.errors import MapFileError
from pm_mined.kernels.tokens import UNMAPPED
from pm_mined.vocabulary import MAX_TOKEN_BYTES

from .arrow_columns import column_digest, column_values, has_nulls, list_values, longest_bytes
from .arrow_messages import is_plain, message_places
from .info import FORMAT_VERSION, NAMES, MapInfo

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

Form = Literal["one", "weighted", "grouped"]
"""The form of a map: one destination token each, or several, with weights or without."""


def _lists(name: str, items: pa.DataType) -> pa.Field:
    return pa.field(name, pa.list_(pa.field("item", items, nullable=False)), nullable=False)


_GROUPED = COLUMNS.append(_lists("dst_ids", pa.int32()))
SCHEMAS: dict[Form, pa.Schema] = {
    "one": COLUMNS,
    "weighted": _GROUPED.append(_lists("weights", pa.float32())),
    "grouped": _GROUPED,
}

CHECKED_AT_LOAD = ("src_id", "dst_id", "dst_ids", "weights")
"""The columns that index other arrays, and those beside them."""

_WEIGHT_ERROR = 1e-6  # of the sum of a token's weights: float32 rounding has room, no weight has
_KEY = b"pm_mined"
_DIGEST_KEY = b"pm_mined_sha256"
_MAGIC = b"ARROW1"
_MAX_BYTES = 2**30  # of a map file; real ones have 5 to 20 MB
_MESSAGES = 3  # two dictionaries and a record batch


def write_map(path: str | PathLike[str], info: MapInfo, batch: pa.RecordBatch) -> None:
    """Write a map atomically: the old file or the whole new one is there, never a part.

    Raises:
        MapFileError: the file cannot be written; what was there before is untouched.
    """
    text = info.to_json()
    digest = hashlib.sha256(text).hexdigest().encode()
    schema = batch.schema.with_metadata({_KEY: text, _DIGEST_KEY: digest})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    content = sink.getvalue()
    if len(content) > _MAX_BYTES:
        raise MapFileError(f"{path}: cannot write the map: it has more than {_MAX_BYTES:,} bytes")
    try:
        write_atomically(Path(path), content)
    except OSError as error:
        raise MapFileError(f"{path}: cannot write the map: {error.strerror or error}") from error


def read_map(path: str | PathLike[str]) -> tuple[MapInfo, pa.RecordBatch]:
    """Read a file; check metadata, schema and the columns of `CHECKED_AT_LOAD`.

    Check any other column with `check_column` before it is used. The columns lie in a copy of the
    file in private memory, which does not change when the file does.

    Raises:
        MapFileError: the file is not a map, is damaged, or is of a newer format.
    """
    with _refusals(path):
        content = _read_content(Path(path))
        reader = pa.ipc.open_file(content)
        info = _checked_info(reader.schema.metadata or {})
        _check_schema(info, content, reader)
        _check_messages(content)
        batch = reader.get_batch(0)
        batch.validate()
        _check_ids(info, batch)
        if "dst_ids" in batch.schema.names:
            _check_choices(info, batch)
        return info, batch


def check_column(
    path: str | PathLike[str], info: MapInfo, batch: pa.RecordBatch, name: str
) -> None:
    """Check a column of a map that was read from `path`.

    Raises:
        MapFileError: the column is damaged.
    """
    with _refusals(path):
        _check_values(info, batch, name)


class _RefusedError(Exception):
    """The reason for refusing a file; its name is put in front."""


@contextmanager
def _refusals(path: str | PathLike[str]) -> Iterator[None]:
    """Turn every error of reading a file into one line that begins with its name."""
    try:
        yield
    except _RefusedError as error:
        raise MapFileError(f"{path}: {error}") from error
    except (OSError, EOFError, struct.error, pa.ArrowException) as error:
        # Arrow raises OSErrors of its own, without a number, for malformed files.
        if isinstance(error, OSError) and error.errno is not None:
            raise MapFileError(f"{path}: cannot read: {error.strerror}") from error
        reason = str(error).splitlines()[0]
        raise MapFileError(f"{path}: damaged or cut off: {reason}; build the map again") from error


def _read_content(path: Path) -> pa.Buffer:
    """The bytes of a file that begins as an Arrow file."""
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        head = file.read(len(_MAGIC))
        if head != _MAGIC or not stat.S_ISREG(about.st_mode):
            raise _RefusedError("not a map: no Arrow file; `pm-mined build` writes maps")
        if about.st_size > _MAX_BYTES:
            raise _RefusedError(f"not a map: {about.st_size:,} bytes, more than {_MAX_BYTES:,}")
        return pa.py_buffer(head + file.read(about.st_size - len(head)))


def _checked_info(metadata: dict[bytes, bytes]) -> MapInfo:
    if _KEY not in metadata:
        raise _RefusedError("an Arrow file, but not a map of pm-mined (no `pm_mined` metadata)")
    try:
        document: dict[str, Any] = json.loads(metadata[_KEY])
        version = document["format_version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format version {version!r}")
        if version > FORMAT_VERSION:
            raise _RefusedError(
                f"format version {version}, but this pm-mined reads up to {FORMAT_VERSION}: "
                "upgrade with `pip install -U pm-mined`"
            )
        if hashlib.sha256(metadata[_KEY]).hexdigest().encode() != metadata.get(_DIGEST_KEY):
            raise _damaged("the metadata do not fit their SHA-256")
        return MapInfo.from_json(document)
    except KeyError as error:
        raise _damaged(f"the metadata cannot be read: {error} is missing") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(f"the metadata cannot be read: {error}") from error


def _damaged(what: str) -> _RefusedError:
    return _RefusedError(f"damaged: {what}; build the map again")


def _check_schema(info: MapInfo, content: pa.Buffer, reader: pa.RecordBatchFileReader) -> None:
    schemas = [COLUMNS] if info.format_version == 1 else SCHEMAS.values()
    if not any(reader.schema.remove_metadata().equals(schema) for schema in schemas):
        raise _damaged("the columns are not those of a map")
    head = content.slice(8)  # the schema stands twice: here, for streams, and in the footer
    if not pa.ipc.open_stream(head).schema.equals(reader.schema, check_metadata=True):
        raise _damaged("the two copies of the schema differ")
    if reader.num_record_batches != 1:
        raise _damaged(f"{reader.num_record_batches} record batches, not 1")


def _check_messages(content: pa.Buffer) -> None:
    """Check that reading the messages takes no more memory than the file."""
    places = message_places(content)
    if len(places) != _MESSAGES:
        raise _damaged(f"{len(places)} messages, not {_MESSAGES}")
    if not all(is_plain(content, place) for place in places):
        raise _RefusedError("not a map: it is compressed, or of an old version of Arrow")


def _check_values(info: MapInfo, batch: pa.RecordBatch, name: str) -> None:
    column = batch.column(name)
    column.validate(full=True)
    if has_nulls(column):
        raise _damaged(f"column {name} has nulls")
    if pa.types.is_binary(column.type) and (longest := longest_bytes(column)) > MAX_TOKEN_BYTES:
        raise _damaged(f"column {name} has a token of {longest:,} bytes")
    names = NAMES[info.format_version]
    if name in names and column.dictionary.to_pylist() != names[name]:
        raise _damaged(f"the names in column {name} are not those of the format")
    if column_digest(column) != info.column_sha256.get(name):
        raise _damaged(f"column {name} does not fit its SHA-256")


def _check_ids(info: MapInfo, batch: pa.RecordBatch) -> None:
    """Check that every id is in range, so that indexing with them is safe."""
    if len(batch) != info.src.size:
        raise _damaged(f"{len(batch)} rows for {info.src.size} source tokens")
    _check_values(info, batch, "src_id")
    _check_values(info, batch, "dst_id")
    if not np.array_equal(column_values(batch.column("src_id")), np.arange(len(batch))):
        raise _damaged("src_id is not the row number")
    dst_id = column_values(batch.column("dst_id"))
    if len(batch) and (dst_id.min() < UNMAPPED or dst_id.max() >= info.dst.size):
        raise _damaged(f"dst_id is out of range (-1 to {info.dst.size - 1})")


def _check_choices(info: MapInfo, batch: pa.RecordBatch) -> None:
    """Check that choices are in range and distinct, and `dst_id` is the first of each token."""
    offsets, ids = _checked_lists(info, batch, "dst_ids")
    counts = np.diff(offsets)
    dst_id = column_values(batch.column("dst_id"))
    mapped = dst_id != UNMAPPED
    if len(ids) and (ids.min() < 0 or ids.max() >= info.dst.size):
        raise _damaged(f"dst_ids is out of range (0 to {info.dst.size - 1})")
    if not np.array_equal(counts > 0, mapped):
        raise _damaged("dst_ids is not empty just where dst_id is -1")
    if not np.array_equal(ids[offsets[:-1][mapped]], dst_id[mapped]):
        raise _damaged("dst_id is not the first of dst_ids")
    if _any_twice(counts, ids):
        raise _damaged("dst_ids has an id twice for one token")
    if "weights" in batch.schema.names:
        weight_offsets, weights = _checked_lists(info, batch, "weights")
        if not np.array_equal(weight_offsets, offsets):
            raise _damaged("weights and dst_ids are not lists of the same lengths")
        _check_weights(weights, offsets[:-1][mapped])


def _checked_lists(
    info: MapInfo, batch: pa.RecordBatch, name: str
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    _check_values(info, batch, name)  # offsets ascend: that is checked, too
    column = batch.column(name)
    offsets, values = list_values(column)
    if offsets[0] != 0 or offsets[-1] != len(values):
        raise _damaged(f"the lists of {name} do not lie end to end")
    return offsets, values


def _any_twice(counts: NDArray[np.int32], ids: NDArray[np.int32]) -> bool:
    """True if one of the lists with these lengths has an id twice."""
    keys = np.repeat(np.arange(len(counts)) << 32, counts) | ids
    keys.sort()
    return bool((keys[1:] == keys[:-1]).any())


def _check_weights(weights: NDArray[np.float32], starts: NDArray[np.int32]) -> None:
    """Check that weights are above 0 and sum to 1 in each list; `starts` are their first ones."""
    if not (weights > 0).all():
        raise _damaged("weights has one that is not above 0")
    if len(starts):
        sums = np.add.reduceat(weights.astype(np.float64), starts)
        if not (np.abs(sums - 1) <= _WEIGHT_ERROR).all():
            raise _damaged("the weights of a token do not sum to 1")
