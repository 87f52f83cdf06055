"""Vocabularies and audits for the tests of the audit page: a small pair, and hostile tokens."""

from functools import cache

import numpy as np

from pm_mined import Kind, Vocabulary, build_map
from pm_mined.reports.audit import Audit
from pm_mined.reports.usage import Usage

HOSTILE = [
    b"<script>window.pwned=1</script>",
    b'"><img src=x onerror=window.pwned=1>',
    b"</script><script>window.pwned=1</script>",
    b"<!--",
    b"</textarea></style></title>",
    "\u202eabc\u2066".encode(),
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    "\u2028".encode(),
    b"javascript:window.pwned=1",
    b"=cmd|' /C calc'!A0",
    b"${title} {{x}} $policy",
    b"x" * 4_000,
    b'a\nb,"c"',
]


def vocabulary(tokens, name="toy", **kinds):
    table = [kinds.get(f"k{i}", Kind.TEXT) for i in range(len(tokens))]
    return Vocabulary.from_tokens(tokens, table, name=name)


def audit_of(src, dst, *, weighted=False):
    token_map = build_map(src, dst)
    if not weighted:
        return Audit(token_map)
    uses = (np.arange(len(src), dtype=np.int64) * 7919) % 1000
    return Audit(token_map, Usage(uses, ["news.txt", "code.py"], 2, 123_456, 0))


@cache
def small_pair():
    """A small pair of vocabularies in which every match and most rules occur."""
    words = "hello hell world worlds der die das ende Straße мир слово 你好 世界 שלום a b c ab abc"
    src = [word.encode() for word in words.split()] + [
        b" hello",
        b" Hello",
        b"\xe4\xbd",
        b"<s>",
        b"zz",
    ]
    dst = [b"hell", b"world", b"d", b"Stra", "мир".encode(), b"<s>"]
    dst += ["你".encode(), b"a", b"b", b" hello", b" H", b"abcde", "слова".encode()]
    return vocabulary(src, "some words", k22=Kind.SPECIAL), vocabulary(
        dst, "others", k5=Kind.SPECIAL
    )
