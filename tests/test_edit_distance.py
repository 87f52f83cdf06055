"""The bit-parallel edit distance against its plain twin and RapidFuzz."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from pm_mined.kernels import edit_distance as compiled
from pm_mined.kernels import reference
from pm_mined.kernels.tokens import pack

UNITS = st.sampled_from(["char", "byte"])
CUTOFFS = st.one_of(st.none(), st.integers(0, 12), st.just(10**30))

# Around the 62 bits of a word and its multiples, of few letters, so that much is shared.
_lengths = st.one_of(st.integers(0, 9), st.sampled_from([60, 61, 62, 63, 64, 123, 124, 125, 187]))
_letters = st.sampled_from(
    [b"a", b"b", "é".encode(), "中".encode(), "🙂".encode(), b"\xff", b"\xe4"]
)
_tokens = _lengths.flatmap(
    lambda length: st.one_of(
        st.lists(_letters, min_size=length, max_size=length).map(b"".join),
        _letters.map(lambda letter: letter * length),
    )
)
_near = st.tuples(_tokens, st.integers(0, 200), st.integers(0, 3), _letters).map(
    lambda of: (of[0], of[0][: of[1]] + of[3] * of[2] + of[0][of[1] + 1 :])
)
_pairs = st.lists(st.one_of(st.tuples(_tokens, _tokens), _near), max_size=8)


def packed(pairs):
    kinds = np.zeros(len(pairs), np.uint8)
    return tuple(pack([pair[side] for pair in pairs], kinds) for side in (0, 1))


def rapidfuzz_distances(pairs, unit, cutoff):
    def symbols(token):
        return list(token) if unit == "byte" else token.decode(errors="surrogateescape")

    most = None if cutoff is None else min(cutoff, 2**31)
    return [Levenshtein.distance(symbols(a), symbols(b), score_cutoff=most) for a, b in pairs]


@settings(max_examples=400, deadline=None)
@given(_pairs, UNITS, CUTOFFS)
def test_compiled_equals_twin_equals_rapidfuzz(pairs, unit, cutoff):
    a, b = packed(pairs)
    found = compiled.edit_distances(a, b, unit, cutoff).tolist()
    assert found == rapidfuzz_distances(pairs, unit, cutoff)
    assert found == reference.edit_distances(a, b, unit, cutoff).tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=5)), max_size=20))
def test_any_bytes_are_symbols(pairs):
    a, b = packed(pairs)
    for unit in ("char", "byte"):
        found = compiled.edit_distances(a, b, unit).tolist()
        assert found == rapidfuzz_distances(pairs, unit, None)


@pytest.mark.parametrize(
    "broken",
    [
        b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"\xe0\x80\x80", b"\xe0\x9f\xbf",
        b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xef\xbf\xbf",
        b"\xf0\x80\x80\x80", b"\xf0\x9f\x99", b"\xf4\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xe4\xbd", b"\xe4\xbda", b"\xe4a\xa0",
    ],
)  # fmt: skip
def test_broken_utf8_is_escaped_as_python_does(broken):
    text = broken.decode(errors="surrogateescape")
    a, b = packed([(broken, b""), (b"x" + broken, b"x"), (broken * 2, broken)])
    assert compiled.edit_distances(a, b).tolist() == [len(text)] * 3


def test_long_tokens():
    pairs = [(b"ab" * 5000, b"ba" * 5000), (b"a" * 70_000, b"b"), ("é".encode() * 999, b"e" * 999)]
    a, b = packed(pairs)
    for unit in ("char", "byte"):
        for cutoff in (None, 1, 5000):
            found = compiled.edit_distances(a, b, unit, cutoff).tolist()
            assert found == rapidfuzz_distances(pairs, unit, cutoff)


def test_what_does_not_go_together():
    a, b = packed([(b"a", b"b")])
    with pytest.raises(ValueError, match="1 tokens on one side, 0 on the other"):
        compiled.edit_distances(a, b.take(np.array([], int)))
    with pytest.raises(ValueError, match="the cutoff is -1"):
        compiled.edit_distances(a, b, cutoff=-1)
    nothing = a.take(np.array([], int))
    assert compiled.edit_distances(nothing, nothing).tolist() == []
