"""The map file: Arrow IPC, checked as it is read, whole or not there. See docs/map-format.md."""

import hashlib
import json
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .atomic_file import write_atomically
from .errors import MapFileError
from .kernels.tokens import UNMAPPED
from .token_map import COLUMNS, FORMAT_VERSION, MapInfo, TokenMap, column_values

_KEY = b"pm_mined"
_DIGEST_KEY = b"pm_mined_sha256"
_MAGIC = b"ARROW1"


def save_map(token_map: TokenMap, path: str | PathLike[str]) -> None:
    """Write a map; readers see the old file or the whole new one, never a part.

    The same map is the same bytes, everywhere.

    Raises:
        MapFileError: the file cannot be written; what was there before is untouched.
    """
    text = json.dumps(asdict(token_map.info), ensure_ascii=False, sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    schema = COLUMNS.with_metadata({_KEY: text, _DIGEST_KEY: digest})
    batch = pa.RecordBatch.from_arrays(token_map.to_arrow().columns, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(
        sink, schema, options=pa.ipc.IpcWriteOptions(unify_dictionaries=False)
    ) as writer:
        writer.write_batch(batch)
    try:
        write_atomically(Path(path), sink.getvalue())
    except OSError as error:
        raise MapFileError(f"{path}: cannot write the map: {error.strerror or error}") from error


def load_map(path: str | PathLike[str]) -> TokenMap:
    """Map the file into memory and check all that its use relies on.

    `dst_id` is checked at once; the other columns when they are first used.

    Raises:
        MapFileError: the file is not a map, is damaged, or is of a newer format.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(len(_MAGIC))
        if head != _MAGIC:
            raise _RefusedError("not a map: no Arrow file; `pm-mined build` writes maps")
        info, batch = _read(pa.memory_map(str(path)))
        token_map = TokenMap(info, batch, file=path)
        _check_ids(token_map)
    except _RefusedError as error:
        raise MapFileError(f"{path}: {error}") from error
    except OSError as error:
        raise MapFileError(f"{path}: cannot read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise MapFileError(f"{path}: damaged or cut off: {reason}; build the map again") from error
    return token_map


class _RefusedError(Exception):
    """Why a file is refused; its name is put in front."""


def _read(source: pa.NativeFile) -> tuple[MapInfo, pa.RecordBatch]:
    reader = pa.ipc.open_file(source)
    info = _checked_info(reader.schema.metadata or {})
    if not reader.schema.remove_metadata().equals(COLUMNS):
        raise _RefusedError("damaged: the columns are not those of a map")
    source.seek(8)  # the schema stands twice: at the head, for streams, and in the footer
    if not pa.ipc.open_stream(source).schema.equals(reader.schema, check_metadata=True):
        raise _RefusedError("damaged: the two copies of the schema differ")
    if reader.num_record_batches != 1:
        raise _RefusedError(f"damaged: {reader.num_record_batches} record batches, not 1")
    batch = reader.get_batch(0)
    batch.validate()
    return info, batch


def _checked_info(metadata: dict[bytes, bytes]) -> MapInfo:
    if _KEY not in metadata:
        raise _RefusedError("an Arrow file, but not a map of pm-mined (no `pm_mined` metadata)")
    try:
        document: dict[str, Any] = json.loads(metadata[_KEY])
        version = int(document["format_version"])
        if version > FORMAT_VERSION:
            raise _RefusedError(
                f"format version {version}, but this pm-mined reads up to {FORMAT_VERSION}: "
                "upgrade with `pip install -U pm-mined`"
            )
        if hashlib.sha256(metadata[_KEY]).hexdigest().encode() != metadata.get(_DIGEST_KEY):
            raise _RefusedError("damaged: the metadata do not fit their SHA-256")
        return MapInfo.from_json(document)
    except (ValueError, KeyError, TypeError) as error:
        raise _RefusedError(f"damaged: the metadata cannot be read: {error}") from error


def _check_ids(token_map: TokenMap) -> None:
    """Every id is in range, so that nothing that indexes with them can go astray."""
    size, dst_size = token_map.info.src.size, token_map.info.dst.size
    if len(token_map) != size:
        raise _RefusedError(f"damaged: {len(token_map)} rows for {size} source tokens")
    if not np.array_equal(column_values(token_map.column("src_id")), np.arange(size)):
        raise _RefusedError("damaged: src_id is not the row number")
    dst_id = token_map.dst_id
    if size and (dst_id.min() < UNMAPPED or dst_id.max() >= dst_size):
        raise _RefusedError(f"damaged: dst_id is out of range (-1 to {dst_size - 1})")
