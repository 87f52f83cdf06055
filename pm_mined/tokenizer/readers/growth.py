"""Bounds on how much longer the steps of a `tokenizer.json` make a text."""

import re
from base64 import b64decode
from collections.abc import Iterable
from math import prod
from typing import Any

# Parts of a regular expression without which each match is a byte long, at least.
_CAN_BE_EMPTY = re.compile(r"[*?|^$(]|\{0?,|\{0|\\[bBAzZGK]|^$")


def growth_of(steps: Iterable[dict[str, Any]]) -> int:
    """The most bytes that normalizers or decoders, one after the other, make of one byte.

    >>> growth_of([{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}])
    3
    """
    return prod(map(_growth_of_one, steps))


def _growth_of_one(step: dict[str, Any]) -> int:
    kind = step["type"]
    if kind == "Sequence":
        return growth_of(step.get("normalizers") or step.get("decoders") or ())
    if kind == "Replace":
        return _growth_of_replace(step["pattern"], _bytes_in(step["content"]))
    if kind == "Prepend":
        return 1 + _bytes_in(step["prepend"])
    if kind == "Precompiled":
        return growth_of_charsmap(b64decode(step["precompiled_charsmap"]))
    return _LETTERWISE.get(kind, 1)


def _growth_of_replace(pattern: dict[str, str], content: int) -> int:
    """An expression that can match nothing at all is found before and after each byte."""
    expression = pattern.get("Regex")
    if expression is not None:
        replaced = 0 if _CAN_BE_EMPTY.search(expression) else 1
    else:
        replaced = _bytes_in(pattern["String"])
    return max(1, -(-content // replaced)) if replaced else 1 + 2 * content


def _bytes_in(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def growth_of_charsmap(charsmap: bytes) -> int:
    """The longest of the strings that SentencePiece's map, after its trie, has for a letter."""
    trie = int.from_bytes(charsmap[:4], "little")
    return max(1, *map(len, charsmap[4 + trie :].split(b"\0")))


# One byte of a text as so many, at most, by a letter's longest normal form.
_LETTERWISE = {
    "BertNormalizer": 9,
    "ByteLevel": 2,
    "CTC": 3,
    "Lowercase": 3,
    "NFC": 3,
    "NFD": 4,
    "NFKC": 11,
    "NFKD": 11,
    "WordPiece": 2,
}
