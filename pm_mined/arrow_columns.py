"""NumPy arrays as Arrow columns and back, without copies.

`pa.array` and `to_numpy` would do most of it, and import pandas, if that is installed, to look
for its types: a tenth of a second that a build does not have.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .errors import MapFileError
from .kernels.tokens import PackedTokens, pack


def int_column(values: NDArray[Any]) -> pa.Array:
    """An integer column."""
    buffers = [None, pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def binary_column(tokens: PackedTokens) -> pa.Array:
    """The tokens as a column of bytes.

    Raises:
        MapFileError: they hold 2 GiB or more, which int32 offsets cannot tell.
    """
    if tokens.offsets[-1] >= 2**31:
        raise MapFileError(f"the tokens hold {tokens.offsets[-1]} bytes; a map takes 2 GiB at most")
    buffers = [None, pa.py_buffer(tokens.offsets.astype(np.int32)), pa.py_buffer(tokens.data)]
    return pa.Array.from_buffers(pa.binary(), len(tokens.kinds), buffers)


def codes_column(codes: NDArray[np.int8], names: list[str]) -> pa.Array:
    """A dictionary column: code `i` stands for `names[i]`."""
    letters = pack([name.encode() for name in names], np.zeros(len(names), np.uint8))
    return pa.DictionaryArray.from_arrays(int_column(codes), binary_column(letters).view("utf8"))


def column_values(column: pa.Array) -> NDArray[Any]:
    """The values of an integer column, the codes of a dictionary column; read-only."""
    if pa.types.is_dictionary(column.type):
        column = column.indices
    dtype = column.type.to_pandas_dtype()
    if not len(column):  # Arrow may leave out the buffer
        return np.empty(0, dtype)
    values = np.frombuffer(column.buffers()[1], dtype, len(column))
    values.flags.writeable = False
    return values


def packed_tokens(column: pa.Array, kinds: NDArray[np.uint8] | None = None) -> PackedTokens:
    """The tokens of a column of bytes, without a copy of their bytes; text where no kinds are."""
    _, offsets, data = column.buffers()
    ends = (
        np.frombuffer(offsets, np.int32, len(column) + 1) if len(column) else np.zeros(1, np.int32)
    )
    packed = np.frombuffer(data, np.uint8, ends[-1]) if ends[-1] else np.empty(0, np.uint8)
    return PackedTokens(
        packed, ends.astype(np.int64), np.zeros(len(column), np.uint8) if kinds is None else kinds
    )


def column_digest(column: pa.Array) -> str:
    """SHA-256 of a column's values as they lie in memory, without padding.

    Integers: their little-endian values. Dictionary columns: their int8 codes. Binary: the
    int32 offsets, beginning with 0, and then the bytes.
    """
    if not pa.types.is_binary(column.type):
        return hashlib.sha256(column_values(column).data).hexdigest()
    _, offsets, data = column.buffers()
    # Arrow may leave out the buffers of a column without rows, or without bytes.
    ends = np.frombuffer(offsets, "<i4", len(column) + 1) if len(column) else np.zeros(1, "<i4")
    digest = hashlib.sha256(ends.data)
    digest.update(memoryview(data)[: ends[-1]] if ends[-1] else b"")
    return digest.hexdigest()
