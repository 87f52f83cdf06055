"""Changes to inputs: of a document's values, of lines, of bytes."""

import json
import struct
from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31 - 1, 2**31, 2**63, 10**40, 1.5, float("nan"), 1e308),
    *("", "a\nb", "\ud800", "\0", "=1+1", "../../outside", "/etc/passwd", "\x1b[2J", "\u202e", "ß"),
    *("a" * 70_000, [], {}, [[]], [0], {"": 0}, {"type": "Fuse"}, {"type": "Sequence"}),
]
_DEEP = "this stands for lists in lists"  # Python itself could not copy them
WIDE = [0, 1, 2**7, 2**15, 2**16, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]


def _nodes(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: what holds it, and its key there."""
    found = [document]
    while found:
        node = found.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            yield node, key
            if isinstance(node[key], dict | list):
                found.append(node[key])


def change_document(random: Random, document: Any) -> Any:
    """A document with one to three of its values changed, removed, doubled or nested."""
    document = deepcopy(document)
    for _ in range(random.randint(1, 3)):
        places = list(_nodes(document))
        if not places:
            return random.choice(NASTY)
        holder, key = random.choice(places)
        _change_value(random, holder, key, places)
    return document


def _change_value(random: Random, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    what = random.choice(["nasty", "nasty", "remove", "swap", "repeat", "nest", "edit"])
    if what == "remove":
        del holder[key]
    elif what == "swap":
        other, at = random.choice(places)
        holder[key] = deepcopy(other[at])
    elif what == "repeat" and isinstance(holder, list):
        holder[key:key] = [deepcopy(holder[key]) for _ in range(random.choice([1, 3, 300]))]
    elif what == "nest":
        holder[key] = random.choice([[holder[key]], {"": holder[key]}, _DEEP])
    elif what == "edit" and isinstance(holder[key], str):
        holder[key] = change_text(random, holder[key])
    elif what == "edit" and type(holder[key]) is int:
        holder[key] += random.choice([-1, 1, 2**20, 2**31])
    else:
        holder[key] = deepcopy(random.choice(NASTY))


def change_text(random: Random, text: str) -> str:
    """A text with letters changed, doubled or left out."""
    at, length = random.randint(0, len(text)), random.randint(0, 3)
    new = random.choice(["", "▁", "Ġ", "##", "é", "<0x0A>", "{", "\\", '"', "\n", text])
    return text[:at] + new + text[at + length :]


def as_json(random: Random, document: Any) -> bytes:
    """A document as text, now and then with something before or after it."""
    text = json.dumps(document, ensure_ascii=random.random() < 0.7)
    text = text.replace(json.dumps(_DEEP), "[" * 5000 + "]" * 5000)
    around = random.choice([("", "")] * 8 + [("\ufeff", ""), (" \n", "}"), ("", "\0")])
    return (around[0] + text + around[1]).encode("utf-8", "surrogatepass")


def change_lines(random: Random, content: bytes) -> bytes:
    """Lines doubled, exchanged, removed, many times over, or changed within."""
    lines = content.split(b"\n")
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(lines))
        what = random.choice(["repeat", "remove", "swap", "bytes", "bytes", "value"])
        if what == "repeat":
            lines[at:at] = [lines[at]] * random.choice([1, 2, 2000])
        elif what == "remove" and len(lines) > 1:
            del lines[at]
        elif what == "swap":
            other = random.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif what == "value" and b"=" in lines[at]:
            nasty = json.dumps(random.choice(NASTY)).encode()
            lines[at] = lines[at].partition(b"=")[0] + b"= " + nasty
        else:
            lines[at] = change_bytes(random, lines[at])
    return b"\n".join(lines)


def change_bytes(random: Random, content: bytes) -> bytes:
    """Bytes flipped, cut, repeated, put in or replaced by a number of two, four or eight bytes."""
    for _ in range(random.randint(1, 4)):
        at = random.randint(0, len(content))
        length = random.choice([1, 2, 4, 8, 64, 1000])
        what = random.choice(["flip", "number", "number", "cut", "remove", "repeat", "insert"])
        if what == "flip" and at < len(content):
            flipped = bytes([content[at] ^ 1 << random.randrange(8)])
            content = content[:at] + flipped + content[at + 1 :]
        elif what == "number":
            form, size = random.choice([("<H", 2), ("<I", 4), ("<Q", 8)])
            number = struct.pack(form, random.choice(WIDE) % 256**size)
            content = content[:at] + number + content[at + size :]
        elif what == "cut":
            content = content[:at]
        elif what == "remove":
            content = content[:at] + content[at + length :]
        elif what == "repeat":
            piece = content[at : at + length]
            content = content[:at] + piece * random.choice([2, 100]) + content[at:]
        else:
            content = content[:at] + random.randbytes(length) + content[at:]
    return content
