"""Pieces of characters, completed to text by the bytes that belong before and after them."""

from itertools import product

from pm_mined.vocabulary import is_utf8

_CONTINUING = bytes(range(0x80, 0xC0))
# By how many bytes continue a character: the first byte of one that has so many, of any value.
_LEADS = (b"", b"\xc3", b"\xe1", b"\xf1")
# The first byte after a piece is one of these, whatever that begins with; others may be any.
_ENDS = [b"", *(bytes([one]) + b"\x80" * more for more, one in product(range(3), (0x80, 0xA0)))]


def completion(piece: bytes) -> tuple[bytes, bytes] | None:
    r"""The bytes to write before and after a piece so that all of it is UTF-8; None for no such.

    >>> completion("é".encode()[1:]), completion(b"\xe2\x82"), completion(b"\xff")
    ((b'\xc3', b''), (b'', b'\x80'), None)
    """
    continuing = len(piece) - len(piece.lstrip(_CONTINUING))
    if continuing >= len(_LEADS):
        return None
    before = _LEADS[continuing]
    return next(((before, after) for after in _ENDS if is_utf8(before + piece + after)), None)
