"""The Unicode script of each token: Latin, Han, Devanagari, ..."""

import sys

import numpy as np
from numpy.typing import NDArray

from pm_mined.kernels.tokens import Kind, PackedTokens

NO_SCRIPT = ("Common", "Bytes", "No text")
"""Names for tokens without a letter of any script: digits, signs and spaces are common, pieces of
characters are bytes, special and unused tokens write no text."""

_OF_NO_SCRIPT = ("Zyyy", "Zinh", "Zzzz")  # common, inherited, unknown (ISO 15924)


def scripts_of(tokens: PackedTokens) -> tuple[NDArray[np.int16], list[str]]:
    """Find each token's script: int16 [tokens] codes, and the names that they index.

    A token's script is that of its first character that has one, by the property Script of the
    Unicode Character Database (UAX 24), as fontTools has it.
    """
    script_of, names = _script_of_code_points()
    kinds = tokens.kinds
    script = np.zeros(len(kinds), np.int16)
    script[(kinds == Kind.BYTE) | (kinds == Kind.FRAGMENT)] = NO_SCRIPT.index("Bytes")
    script[(kinds == Kind.SPECIAL) | (kinds == Kind.UNUSED)] = NO_SCRIPT.index("No text")
    code_points, token_of = _code_points(tokens)
    scripts = script_of[code_points]
    has_one = scripts > 0
    # Backwards: of several assignments to one token, the last counts.
    script[token_of[has_one][::-1]] = scripts[has_one][::-1]
    return script, names


def _script_of_code_points() -> tuple[NDArray[np.int16], list[str]]:
    """int16 [code points]: the code of each one's script, 0 for none; and the names by code."""
    from fontTools.unicodedata import Scripts

    codes = sorted(set(Scripts.NAMES) - set(_OF_NO_SCRIPT))
    names = [*NO_SCRIPT, *(Scripts.NAMES[code].replace("_", " ") for code in codes)]
    number = {code: i for i, code in enumerate(codes, len(NO_SCRIPT))}
    of_range = [number.get(code, 0) for code in Scripts.VALUES]
    lengths = np.diff([*Scripts.RANGES, sys.maxunicode + 1])
    return np.repeat(np.array(of_range, np.int16), lengths), names


def _code_points(tokens: PackedTokens) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The code points of all text tokens, and the token that each belongs to."""
    is_text = tokens.kinds == Kind.TEXT
    text_bytes = np.repeat(is_text, np.diff(tokens.offsets))
    utf32 = tokens.data[text_bytes].tobytes().decode().encode("utf-32-le")
    text_ids = np.flatnonzero(is_text)
    return np.frombuffer(utf32, np.uint32), np.repeat(text_ids, character_counts(tokens)[is_text])


def character_counts(tokens: PackedTokens) -> NDArray[np.int64]:
    """Count the characters that begin in each token's bytes: int64 [tokens].

    The pieces of one character count as one together, so that the counts of a text's tokens add up
    to its length.
    """
    begins = np.zeros(len(tokens.data) + 1, np.int64)
    np.cumsum(tokens.data & 0xC0 != 0x80, out=begins[1:])
    return np.diff(begins[tokens.offsets])
