"""The messages of an Arrow file, looked at before Arrow reads their content.

Arrow decompresses what says that it is compressed, and reads a dictionary as often as the footer
lists it: a small file can take any memory and time. What footer and messages say of themselves are
FlatBuffers, whose few fields that matter are found by hand here, once Arrow has verified them.
Their schemas are `File.fbs` and `Message.fbs` of Arrow.
"""

from struct import unpack_from

import pyarrow as pa

_TAIL = 10  # bytes: the length of the footer, and the magic
_DICTIONARIES, _RECORD_BATCHES = 2, 3  # fields of `Footer`
_HEADER = 2  # field of `Message`
_DATA = 1  # field of `DictionaryBatch`
_COMPRESSION = 3  # field of `RecordBatch`
_V5 = 4  # of `MetadataVersion`; earlier ones have other ways to say that they are compressed


def message_places(content: pa.Buffer) -> list[int]:
    """The places of all messages that the footer of a file lists, but its schema."""
    data = memoryview(content)
    (length,) = unpack_from("<i", data, len(data) - _TAIL)
    footer = data[len(data) - _TAIL - length :]
    return [*_places(footer, _DICTIONARIES), *_places(footer, _RECORD_BATCHES)]


def is_plain(content: pa.Buffer, place: int) -> bool:
    """True if the message at this place is not compressed, and of the current version."""
    source = pa.BufferReader(content)
    source.seek(place)
    message = pa.ipc.read_message(source)
    return message.metadata_version == _V5 and not _is_compressed(message)


def _is_compressed(message: pa.Message) -> bool:
    data = memoryview(message.metadata)
    batch = _follow(data, _field(data, _follow(data, 0), _HEADER))
    if message.type == "dictionary":
        batch = _follow(data, _field(data, batch, _DATA))
    return _field(data, batch, _COMPRESSION) != 0


def _places(footer: memoryview, field: int) -> list[int]:
    """The first 8 of the 24 bytes of each `Block` in a field of the footer."""
    at = _field(footer, _follow(footer, 0), field)
    if not at:
        return []
    vector = _follow(footer, at)
    (count,) = unpack_from("<i", footer, vector)
    return [unpack_from("<q", footer, vector + 4 + 24 * i)[0] for i in range(count)]


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a field of a table lies; 0 where the table does not have it."""
    vtable = table - unpack_from("<i", data, table)[0]
    (size,) = unpack_from("<H", data, vtable)
    entry = 4 + 2 * number
    offset = unpack_from("<H", data, vtable + entry)[0] if entry < size else 0
    return table + offset if offset else 0


def _follow(data: memoryview, at: int) -> int:
    """Where the reference that lies at `at` leads."""
    return at + int(unpack_from("<I", data, at)[0])
