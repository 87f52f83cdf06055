"""A SentencePiece model in its own serialized form, without an object for each of its pieces.

The message: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

# The numbers of fields, and how they are written.
_PIECES, _PIECE, _SCORE, _TYPE = 0x0A, 0x0A, 0x15, 0x18
_AFTER = np.dtype([("score", "u1"), ("its_score", "<f4"), ("type", "u1"), ("its_type", "u1")])
_TRAINER, _NORMALIZER = 0x12, 0x1A
_MODEL_TYPE, _BPE, _BYTE_FALLBACK, _UNKNOWN_ID = 3, 2, 35, 40
_ADD_DUMMY_PREFIX, _REMOVE_EXTRA_WHITESPACES = 3, 4


def serialize_pieces(pieces: Sequence[bytes], scores: ArrayLike, types: ArrayLike) -> bytes:
    r"""Serialize a model that has pieces and nothing else; to add to it, append what else it has.

    >>> serialize_pieces([b"ab"], [-1.0], [1]).hex(" ")
    '0a 0b 0a 02 61 62 15 00 00 80 bf 18 01'
    """
    before = {length: _before(length) for length in set(map(len, pieces))}
    after = np.empty(len(pieces), _AFTER)
    after["score"], after["type"] = _SCORE, _TYPE
    after["its_score"], after["its_type"] = scores, types
    each = zip(pieces, after.view(f"V{_AFTER.itemsize}").tolist(), strict=True)
    return b"".join([before[len(piece)] + piece + rest for piece, rest in each])


def serialize_bpe(*, unknown_id: int, byte_fallback: bool, add_dummy_prefix: bool) -> bytes:
    """Serialize what a BPE model has beside its pieces; no spaces are removed.

    >>> serialize_bpe(unknown_id=0, byte_fallback=True, add_dummy_prefix=False).hex(" ")
    '12 08 18 02 98 02 01 c0 02 00 1a 04 18 00 20 00'
    """
    trainer = [(_MODEL_TYPE, _BPE), (_BYTE_FALLBACK, byte_fallback), (_UNKNOWN_ID, unknown_id)]
    normalizer = [(_ADD_DUMMY_PREFIX, add_dummy_prefix), (_REMOVE_EXTRA_WHITESPACES, False)]
    made = b""
    for key, fields in ((_TRAINER, trainer), (_NORMALIZER, normalizer)):
        content = b"".join(_varint(number << 3) + _varint(value) for number, value in fields)
        made += bytes([key]) + _varint(len(content)) + content
    return made


def _before(length: int) -> bytes:
    """Serialize what is before the text of a piece."""
    head = bytes([_PIECE]) + _varint(length)
    return bytes([_PIECES]) + _varint(len(head) + length + _AFTER.itemsize) + head


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last are marked."""
    low, more = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(more) if more else bytes([low])
