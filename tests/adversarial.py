"""Hypothesis strategies for vocabularies that try to break the matching."""

import numpy as np
from hypothesis import strategies as st

from pm_mined import Kind, Vocabulary
from pm_mined.kernels.tokens import PackedTokens, pack

# Few letters, so that prefixes, extensions, ties and duplicates are common.
_letters = st.sampled_from(["a", "b", " ", "\0", "é", "中", "🙂"])
_text = st.text(_letters, max_size=6).map(str.encode)
_spaces = st.integers(1, 5).map(lambda count: b" " * count)
_long = st.tuples(st.sampled_from([63, 64, 65, 130, 300, 301]), _text).map(
    lambda parts: b"a" * parts[0] + parts[1]
)
_raw = st.binary(max_size=4)
_one_byte = st.sampled_from([b"a", b" ", b"\0", b"\xc3"])
_pieces_of_characters = st.sampled_from(["é", "中", "🙂", "a🙂"]).flatmap(
    lambda text: st.integers(0, len(text.encode())).map(lambda stop: text.encode()[:stop])
)
_tokens = st.one_of(_text, _text, _one_byte, _spaces, _long, _raw, _pieces_of_characters)


def _kind_of(token: bytes, wanted: Kind) -> Kind:
    """`wanted`, if a token with these bytes can be of that kind."""
    if wanted == Kind.BYTE and len(token) != 1:
        wanted = Kind.TEXT
    if wanted == Kind.TEXT:
        try:
            token.decode()
        except UnicodeDecodeError:
            return Kind.FRAGMENT
    return wanted


_kinds = st.sampled_from([Kind.TEXT] * 4 + [Kind.BYTE] * 2 + [Kind.SPECIAL, Kind.UNUSED])
_entries = st.tuples(_tokens, _kinds).map(lambda entry: (entry[0], _kind_of(*entry)))


def _packed(entries: list[tuple[bytes, Kind]]) -> PackedTokens:
    tokens = [token for token, _ in entries]
    return pack(tokens, np.array([kind for _, kind in entries], np.uint8))


packed_tokens = st.lists(_entries, max_size=12).map(_packed)
"""What a kernel takes: any kind, empty tokens among them."""

vocabularies = st.lists(_entries, max_size=12).map(
    lambda entries: Vocabulary.from_tokens(
        [token for token, _ in entries], [kind for _, kind in entries]
    )
)
"""What a person builds maps from."""
