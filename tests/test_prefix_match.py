"""The compiled kernel against its plain twin, the definition, and RapidFuzz."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from adversarial import packed_tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from pm_mined.kernels import prefix_match as compiled
from pm_mined.kernels import reference
from pm_mined.kernels.tokens import Kind, Rule, pack

UNITS = st.sampled_from(["char", "byte"])


def texts(*tokens):
    return pack(tokens, np.zeros(len(tokens), np.uint8))


def rows(matches):
    return list(zip(*(column.tolist() for column in matches), strict=True))


@settings(max_examples=600, deadline=None)
@given(packed_tokens, packed_tokens, UNITS)
def test_compiled_equals_twin_equals_definition(src, dst, unit):
    comp = rows(compiled.prefix_match(src, dst, unit))
    assert comp == rows(reference.prefix_match(src, dst, unit))
    assert comp == rows(reference.brute_force(src, dst, unit))


def rapidfuzz_match(src, dst):
    """Nearest by RapidFuzz among all text tokens of which one is a prefix of the other."""
    found = [
        (Levenshtein.distance(src, token), i)
        for i, token in enumerate(dst)
        if (src.startswith(token) or token.startswith(src)) and (token != " " or not src.strip(" "))
    ]
    distance, dst_id = min(found, default=(-1, -1))
    return dst_id, distance


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab é🙂", max_size=5), max_size=10), st.data())
def test_compiled_equals_rapidfuzz(dst, data):
    src = data.draw(st.lists(st.text("ab é🙂", max_size=7), max_size=10))
    comp = compiled.prefix_match(texts(*map(str.encode, src)), texts(*map(str.encode, dst)), "char")
    found = zip(comp.dst_id.tolist(), comp.distance.tolist(), strict=True)
    assert list(found) == [rapidfuzz_match(token, dst) for token in src]


def test_ties_go_to_the_lowest_id():
    # "ab" is one away from its prefix "a" and from its extensions "abc" and "abd".
    dst = texts(b"abd", b"abc", b"a")
    assert rows(compiled.prefix_match(texts(b"ab"), dst)) == [(0, Rule.EXTENSION, 1)]
    dst = texts(b"a", b"abd", b"abc")
    assert rows(compiled.prefix_match(texts(b"ab"), dst)) == [(0, Rule.PREFIX, 1)]


def test_the_bare_space_is_for_spaces_only():
    dst = texts(b" ", b"x")
    found = rows(compiled.prefix_match(texts(b" cat", b"   ", b" "), dst))
    assert found == [(-1, Rule.NONE, -1), (0, Rule.PREFIX, 2), (0, Rule.EXACT, 0)]


def test_distances_are_in_the_unit():
    src, dst = texts("né中🙂".encode()), texts(b"n")
    assert compiled.prefix_match(src, dst, "char").distance.tolist() == [3]
    assert compiled.prefix_match(src, dst, "byte").distance.tolist() == [9]


def test_the_same_kind_comes_before_a_lower_id():
    src = pack([b"\n", b"\n"], np.array([Kind.TEXT, Kind.BYTE], np.uint8))
    dst = pack([b"\n", b"\n"], np.array([Kind.BYTE, Kind.TEXT], np.uint8))
    assert rows(compiled.prefix_match(src, dst)) == [(1, Rule.EXACT, 0), (0, Rule.EXACT, 0)]
    only_byte = pack([b"\n"], np.array([Kind.BYTE], np.uint8))
    assert rows(compiled.prefix_match(src, only_byte)) == [(0, Rule.BYTE, 0), (0, Rule.EXACT, 0)]


def test_fragments_take_part_in_bytes_only():
    src = pack([b"\xe4\xb8"], np.array([Kind.FRAGMENT], np.uint8))
    dst = pack([b"\xe4"], np.array([Kind.FRAGMENT], np.uint8))
    assert rows(compiled.prefix_match(src, dst, "char")) == [(-1, Rule.NONE, -1)]
    assert rows(compiled.prefix_match(src, dst, "byte")) == [(0, Rule.PREFIX, 1)]


def test_in_bytes_the_lowest_id_of_any_kind_is_the_candidate():
    dst = pack([b"a", b"a"], np.array([Kind.BYTE, Kind.TEXT], np.uint8))
    assert rows(compiled.prefix_match(texts(b"ab"), dst, "byte")) == [(0, Rule.PREFIX, 1)]
    assert rows(compiled.prefix_match(texts(b"ab"), dst, "char")) == [(1, Rule.PREFIX, 1)]


@pytest.mark.parametrize("unit", ["char", "byte"])
def test_nothing_to_match(unit):
    nothing, one = texts(), texts(b"a")
    assert rows(compiled.prefix_match(nothing, one, unit)) == []
    assert rows(compiled.prefix_match(one, nothing, unit)) == [(-1, Rule.NONE, -1)]


def random_texts(seed, count):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 9, count)
    return texts(*(bytes(generator.choice(list(b"abc d"), length)) for length in lengths))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_nothing(monkeypatch, threads):
    src, dst = random_texts(1, 5000), random_texts(2, 3000)
    expected = rows(reference.prefix_match(src, dst))
    monkeypatch.setattr(compiled, "TOKENS_PER_TASK", 37)
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
    assert rows(compiled.prefix_match(src, dst)) == expected


def test_tokens_that_share_nothing_make_the_table_grow():
    tokens = [bytes([i, j]) * 40 for i in range(65, 91) for j in range(97, 123)]
    trie = compiled.build_trie(texts(*tokens), "char")
    assert len(trie.edges) >= 2 * len(trie.depth) > len(b"".join(tokens))
    assert compiled.prefix_match(texts(*tokens), texts(*tokens)).dst_id.tolist() == list(
        range(len(tokens))
    )


def test_too_many_bytes_are_refused(monkeypatch):
    monkeypatch.setattr(compiled, "MAX_DST_BYTES", 2)
    with pytest.raises(ValueError, match="hold 3 bytes; a trie takes at most 2"):
        compiled.build_trie(texts(b"ab", b"c"), "char")


DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_prefix_match import compiled, random_texts
found = compiled.prefix_match(random_texts(1, 20_000), random_texts(2, 300), "byte")
print(hashlib.sha256(b"".join(column.tobytes() for column in found)).hexdigest())
"""


def digest_in_new_process(tests, **settings):
    command = [sys.executable, "-W", "error", "-c", DIGEST, str(tests)]

    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_same_answer_without_numba_and_with_cold_and_warm_cache(request, tmp_path):
    here = request.path.parent
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    answers = {
        digest_in_new_process(here, NUMBA_DISABLE_JIT="1"),
        digest_in_new_process(here, **cache),
        digest_in_new_process(here, **cache),
        digest_in_new_process(here, NUMBA_NUM_THREADS="1"),
    }
    assert list(tmp_path.rglob("*.nbi")), "the first run was to fill the cache"
    assert len(answers) == 1


def test_the_cache_is_the_users_and_not_the_packages(request, tmp_path):
    here = request.path.parent
    digest_in_new_process(here, XDG_CACHE_HOME=str(tmp_path), NUMBA_CACHE_DIR="")
    assert list((tmp_path / "pm-mined").rglob("*.nbi"))
