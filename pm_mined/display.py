"""Tokens as a person reads them: visible spaces, escaped bytes, nothing that a terminal obeys."""

import unicodedata

_SPACE = "␣"


def _readable(character: str) -> str:
    if character == " ":
        return _SPACE
    if character in (_SPACE, "\\"):
        return character if character == _SPACE else "\\\\"
    if character.isprintable() and not unicodedata.combining(character):
        return character
    return character.encode("unicode_escape").decode()


def display_token(token: bytes) -> str:
    r"""`token` in one line of printable text; bytes that are not UTF-8 as `\xNN`.

    >>> print(display_token(b" the"), display_token(b"\n\t"), display_token(b"\xe4\xbd"))
    ␣the \n\t \xe4\xbd
    """
    try:
        return "".join(map(_readable, token.decode()))
    except UnicodeDecodeError:
        escaped = token.decode(errors="backslashreplace")
        return "".join(c if c.isprintable() and c != " " else _readable(c) for c in escaped)
