"""Tokens and messages as a person reads them; nothing in them that a terminal obeys."""

import unicodedata

_SPACE = "␣"
_INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs that show nothing


def printable(text: str) -> str:
    r"""`text` with control characters and the like escaped.

    >>> print(printable("a\x1b[31mb\nc"))
    a\x1b[31mb\nc
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def display_token(token: bytes) -> str:
    r"""`token` in one line of printable text; bytes that are not UTF-8 as `\xNN`.

    >>> print(display_token(b" the"), display_token(b"\n\t"), display_token(b"\xe4\xbd"))
    ␣the \n\t \xe4\xbd
    """
    try:
        text = token.decode().replace("\\", "\\\\")
    except UnicodeDecodeError:
        text = token.decode(errors="backslashreplace")
    if text and unicodedata.category(text[0]).startswith("M"):  # it would join what is before it
        text = text[0].encode("unicode_escape").decode() + text[1:]
    for invisible in _INVISIBLE:
        text = text.replace(invisible, invisible.encode("unicode_escape").decode())
    return printable(text.replace(" ", _SPACE))
