"""tiktoken rank files: a line per token, `base64 rank`. The rank is the id."""

from binascii import Error as Base64Error
from binascii import a2b_base64
from pathlib import Path

from pm_mined.errors import VocabularyError
from pm_mined.kernels.tokens import Kind
from pm_mined.vocabulary import TokenTable

_EMPTY = b"="  # how Whisper's file writes a token without bytes
_MAX_DIGITS = 18  # of a rank; far more than fits any vocabulary


def read(path: Path) -> TokenTable:
    """The ordinary tokens; a rank file carries no special ones."""
    content = path.read_bytes().rstrip()
    fields = content.split()
    encoded, ranks = fields[::2], fields[1::2]
    lines = content.count(b"\n") + 1
    regular = lines * 2 == len(fields) and b"".join(ranks).isdigit()
    if not regular or len(max(ranks, key=len)) > _MAX_DIGITS:
        raise _first_bad_line(content)
    try:
        tokens = [a2b_base64(one, strict_mode=True) if one != _EMPTY else b"" for one in encoded]
    except Base64Error:
        raise _first_bad_line(content) from None
    ids = list(map(int, ranks))
    table = TokenTable(max(ids) + 1)
    if ids == list(range(len(ids))):  # the usual case
        table.tokens = tokens
        table.kinds = bytearray([Kind.TEXT]) * len(ids)
        return table
    if len(set(ids)) != len(ids):
        raise _first_bad_line(content)
    for token_id, token in zip(ids, tokens, strict=True):
        table.put(token_id, token, Kind.TEXT)
    return table


def _first_bad_line(content: bytes) -> VocabularyError:
    """Look again, line by line, for what to tell."""
    seen: dict[int, int] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdigit() or len(fields[1]) > _MAX_DIGITS:
            shown = line[:60].decode(errors="backslashreplace")
            return VocabularyError(
                f"line {number}: {shown!r}: expected a base64 token and a rank of 0 or more"
            )
        try:
            if fields[0] != _EMPTY:
                a2b_base64(fields[0], strict_mode=True)
        except Base64Error as error:
            return VocabularyError(f"line {number}: the token is not base64: {error}")
        rank = int(fields[1])
        if rank in seen:
            return VocabularyError(f"line {number}: rank {rank} is also on line {seen[rank]}")
        seen[rank] = number
    return VocabularyError("the lines do not fit together")
