"""Tokens and messages as a person reads them; nothing in them that a terminal obeys."""

import re
import unicodedata

_SPACE = "␣"
_LONGEST = 500  # characters of a message
_INVISIBLE = re.compile("[\u115f\u1160\u2800\u3164\uffa0]")  # letters and signs that show nothing


def printable(text: str) -> str:
    r"""`text` with control characters and the like escaped.

    >>> print(printable("a\x1b[31mb\nc"))
    a\x1b[31mb\nc
    """
    if text.isprintable():  # nearly every text is
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """A message for a person, printable, and of about 500 characters at most.

    What was wrong stands at its start, and what to do next at its end.

    >>> one_line("a: " + "x" * 10_000 + "; give another").partition("... ")[2][-15:]
    'x; give another'
    """
    shown = printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:300]} ... {shown[-195:]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def token_json(key: str, token: bytes) -> dict[str, str]:
    r"""A token for JSON: as text, where it is text, and as hexadecimal digits.

    >>> token_json("token", b" caf\xc3")["token"], token_json("token", b" a")["token_hex"]
    (' caf\\xc3', '2061')
    """
    return {key: token.decode(errors="backslashreplace"), f"{key}_hex": token.hex()}


def display_token(token: bytes) -> str:
    r"""`token` in one line of printable text; bytes that are not UTF-8 as `\xNN`.

    >>> print(display_token(b" the"), display_token(b"\n\t"), display_token(b"\xe4\xbd"))
    ␣the \n\t \xe4\xbd
    """
    try:
        text = token.decode().replace("\\", "\\\\")
    except UnicodeDecodeError:
        text = token.decode(errors="backslashreplace")
    if not text.isascii():
        if unicodedata.category(text[0]).startswith("M"):  # it would join what is before it
            text = _escaped(text[0]) + text[1:]
        text = _INVISIBLE.sub(lambda found: _escaped(found[0]), text)
    return printable(text.replace(" ", _SPACE))


def name_token(token: bytes, token_id: int, more: str | None = None) -> str:
    """`token` as a person refers to it: its text, its id, and what else is to be known.

    >>> name_token(b" the", 262), name_token(b"<s>", 1, "special")
    ('␣the (262)', '<s> (1, special)')
    """
    return f"{display_token(token)} ({token_id}{f', {more}' if more else ''})"
