"""The letters that byte-level BPE writes for bytes (GPT-2's table: `Ġ` is a space)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pm_mined.errors import VocabularyError

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]


def _table() -> NDArray[np.int16]:
    """Code point -> byte, or -1 where it is no byte letter; the last entry is any other."""
    table = np.full(0x100 + len(_OTHERS) + 1, -1, np.int16)
    table[_PRINTABLE] = _PRINTABLE
    table[0x100 : 0x100 + len(_OTHERS)] = _OTHERS
    return table


def undo_byte_letters(tokens: Sequence[str]) -> list[bytes]:
    r"""The bytes of each token; one that holds any other letter stands for itself, in UTF-8.

    That is what the ByteLevel decoder of `tokenizers` does. A surrogate escape is its byte.

    >>> undo_byte_letters(["Ġcaf", "Ã©", "<｜User｜>"])
    [b' caf', b'\xc3\xa9', b'<\xef\xbd\x9cUser\xef\xbd\x9c>']
    """
    table = _table()
    utf32 = "".join(tokens).encode("utf-32-le", "surrogatepass")
    code_points = np.frombuffer(utf32, np.uint32)
    decoded = table[np.minimum(code_points, len(table) - 1)]
    ends = np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)))
    literal = set(np.searchsorted(ends, np.flatnonzero(decoded < 0), side="right").tolist())
    whole, stops = decoded.astype(np.uint8).tobytes(), ends.tolist()
    result = [whole[a:b] for a, b in zip([0, *stops], stops, strict=False)]
    for token_id in literal:
        result[token_id] = tokens[token_id].encode(errors="surrogateescape")
    return result


def refuse_surrogates(tokens: Sequence[str]) -> None:
    """Refuse tokens of which one holds a lone surrogate; the error names the first.

    Raises:
        VocabularyError: one does.
    """
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError:
        for token in tokens:
            encode(token)


def encode(token: str) -> bytes:
    """UTF-8, with an error that names a token that has none."""
    try:
        return token.encode()
    except UnicodeEncodeError:
        raise VocabularyError(f"token {token!r} holds a lone surrogate: it is not text") from None
