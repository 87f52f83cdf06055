"""NumPy arrays as Arrow columns and back, without copies.

`pa.array`, `to_numpy` and `to_pandas_dtype` would do most of it, but import pandas, if it is
installed, to look for its types: that takes a tenth of a second, as long as a whole build.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pm_mined.errors import MapFileError
from pm_mined.kernels.tokens import PackedTokens, pack

_DTYPES = {
    pa.from_numpy_dtype(dtype): np.dtype(dtype)
    for dtype in (np.int8, np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64)
}


def int_column(values: NDArray[Any]) -> pa.Array:
    """Make a column of integers or floats."""
    buffers = [None, pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def binary_column(tokens: PackedTokens) -> pa.Array:
    """Make a column of bytes from tokens.

    Raises:
        MapFileError: the tokens hold 2 GiB or more, too much for int32 offsets.
    """
    if tokens.offsets[-1] >= 2**31:
        raise MapFileError(f"the tokens hold {tokens.offsets[-1]} bytes; a map takes 2 GiB at most")
    buffers = [None, pa.py_buffer(tokens.offsets.astype(np.int32)), pa.py_buffer(tokens.data)]
    return pa.Array.from_buffers(pa.binary(), len(tokens.kinds), buffers)


def list_column(offsets: NDArray[np.int32], values: NDArray[Any]) -> pa.Array:
    """Make a column of lists that lie end to end; no list and no item can be null."""
    items = int_column(values)
    item = pa.field("item", items.type, nullable=False)
    buffers = [None, pa.py_buffer(offsets)]
    return pa.Array.from_buffers(pa.list_(item), len(offsets) - 1, buffers, children=[items])


def codes_column(codes: NDArray[np.int8], names: list[str]) -> pa.Array:
    """Make a dictionary column: code `i` stands for `names[i]`."""
    letters = pack([name.encode() for name in names], np.zeros(len(names), np.uint8))
    return pa.DictionaryArray.from_arrays(int_column(codes), binary_column(letters).view("utf8"))


def column_values(column: pa.Array) -> NDArray[Any]:
    """The values of a column of integers or floats, or the codes of a dictionary; read-only."""
    if pa.types.is_dictionary(column.type):
        column = column.indices
    dtype = _DTYPES[column.type]
    if not len(column):  # Arrow may leave out the buffer
        return np.empty(0, dtype)
    values = np.frombuffer(column.buffers()[1], dtype, len(column))
    values.flags.writeable = False
    return values


def list_values(column: pa.Array) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """The offsets and the values of a column of lists; read-only."""
    return _offsets(column), column_values(column.values)


def packed_tokens(column: pa.Array, kinds: NDArray[np.uint8] | None = None) -> PackedTokens:
    """The tokens of a column of bytes, which are not copied; text unless kinds are given."""
    offsets = _offsets(column).astype(np.int64)
    kinds = np.zeros(len(column), np.uint8) if kinds is None else kinds
    return PackedTokens(_bytes(column), offsets, kinds)


def has_nulls(column: pa.Array) -> bool:
    """True if a column, or an item of its lists, is null or has room to say so."""
    columns = [column, column.values] if pa.types.is_list(column.type) else [column]
    return any(one.null_count or one.buffers()[0] is not None for one in columns)


def longest_bytes(column: pa.Array) -> int:
    """The size of the longest value in a column of bytes; 0 where there is none."""
    return int(np.diff(_offsets(column)).max(initial=0))


def column_digest(column: pa.Array) -> str:
    """SHA-256 of a column's values as they lie in memory, without padding.

    Integers: their little-endian values. Dictionary columns: their int8 codes. Binary: the
    int32 offsets, beginning with 0, and then the bytes. Lists: the int32 offsets, and then the
    values of all items.
    """
    digest = hashlib.sha256()
    for part in _parts(column):
        digest.update(part.data)
    return digest.hexdigest()


def _parts(column: pa.Array) -> tuple[NDArray[Any], ...]:
    if pa.types.is_binary(column.type):
        return _offsets(column), _bytes(column)
    return list_values(column) if pa.types.is_list(column.type) else (column_values(column),)


def _bytes(column: pa.Array) -> NDArray[np.uint8]:
    size = _offsets(column)[-1]
    if not size:  # Arrow may leave out the buffer
        return np.empty(0, np.uint8)
    return np.frombuffer(column.buffers()[2], np.uint8, size)


def _offsets(column: pa.Array) -> NDArray[np.int32]:
    """The start of each row's bytes or items, and the end of the last: [rows + 1], read-only."""
    if not len(column):  # Arrow may leave out the buffer
        return np.zeros(1, np.int32)
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1)
    offsets.flags.writeable = False
    return offsets
