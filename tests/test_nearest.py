"""The exact nearest token against its plain twin and against RapidFuzz on whole vocabularies."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from adversarial import packed_tokens
from conftest import quick_first, real_vocabulary, shared_file
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from pm_mined import load_vocabulary
from pm_mined.kernels import nearest as compiled
from pm_mined.kernels import reference
from pm_mined.kernels.tokens import Kind, pack
from pm_mined.strategies.base import Options
from pm_mined.strategies.spelling import exact

UNITS = st.sampled_from(["char", "byte"])


def texts(*tokens):
    return pack(tokens, np.zeros(len(tokens), np.uint8))


def rows(found):
    return [column.tolist() for column in found]


@settings(max_examples=500, deadline=None)
@given(packed_tokens, packed_tokens, UNITS, st.one_of(st.none(), st.integers(0, 6)))
def test_compiled_equals_twin(src, dst, unit, max_distance):
    found = compiled.nearest(src, dst, unit, max_distance)
    assert rows(found) == rows(reference.nearest(src, dst, unit, max_distance))


def rapidfuzz_nearest(src, dst, unit="char"):
    """The lowest id at the least distance, from the whole matrix."""

    def symbols(tokens):
        # Latin-1 has a letter for each byte.
        return [t.decode("latin-1" if unit == "byte" else "utf-8") for t in tokens]

    queries, candidates = symbols(src), symbols(dst)
    ids, distances = [], []
    for start in range(0, len(queries), 256):
        matrix = process.cdist(
            queries[start : start + 256],
            candidates,
            scorer=Levenshtein.distance,
            dtype=np.uint16,
            workers=os.cpu_count(),
        )
        ids += matrix.argmin(1).tolist()
        distances += matrix.min(1).tolist()
    return [ids, distances]


# A few letters, drawn for each vocabulary: one letter alone, ASCII, and beyond the BMP.
_alphabets = st.sampled_from(["a", "ab", "abcdefgh ", "é中🙂𝄞𐍈a"])
_lengths = st.sampled_from([1, 2, 3, 4, 6, 9, 14, 30, 61, 62, 63, 64, 125])


@st.composite
def _vocabularies(draw):
    """Some hundred tokens: of random letters, with long common prefixes, and with few edits."""
    seed, alphabet = draw(st.integers(0, 2**32 - 1)), draw(_alphabets)
    random = np.random.default_rng(seed)
    prefix = "".join(random.choice(list(alphabet), draw(_lengths)))

    def token():
        text = "".join(random.choice(list(alphabet), random.integers(1, 12)))
        return (
            prefix[random.integers(0, len(prefix) + 1) :] + text if random.random() < 0.5 else text
        )

    src, dst = ([token().encode() for _ in range(count)] for count in (40, 300))
    return src, dst


@settings(max_examples=60, deadline=None)
@given(_vocabularies(), UNITS)
def test_compiled_equals_rapidfuzz_on_adversarial_vocabularies(vocabularies, unit):
    src, dst = vocabularies
    found = compiled.nearest(texts(*src), texts(*dst), unit)
    assert rows(found) == rapidfuzz_nearest(src, dst, unit)


def without_same_bytes(src, dst, unit):
    """The source tokens that no destination token has the bytes of, and all destination texts."""
    last = Kind.FRAGMENT if unit == "byte" else Kind.TEXT
    unmapped = exact(src, dst, Options(unit)).matches.dst_id < 0
    queries = np.flatnonzero(unmapped & (src.packed.kinds <= last))
    return queries, np.flatnonzero(dst.packed.kinds <= last)


PAIRS = [
    ("llama3", "qwen3"),
    ("qwen3", "llama3"),
    ("mistral-v1", "qwen3"),
    ("deepseek", "llama3"),
    ("qwen3.5", "mistral-v1"),
    ("llama3", "mistral-v7"),
]


@pytest.mark.parametrize("unit", ["char", "byte"])
@pytest.mark.parametrize(("src", "dst"), quick_first(PAIRS))
def test_compiled_equals_rapidfuzz_on_real_vocabularies(src, dst, unit):
    src, dst = real_vocabulary(src), real_vocabulary(dst)
    queries, ids = without_same_bytes(src, dst, unit)
    sample = np.sort(
        np.random.default_rng(0).permutation(queries)[: 2000 if unit == "char" else 300]
    )
    found, distances = compiled.nearest(src.packed.take(sample), dst.packed, unit)
    expected, least = rapidfuzz_nearest(
        src.packed.take(sample).tolist(), dst.packed.take(ids).tolist(), unit
    )
    assert found.tolist() == ids[expected].tolist()
    assert distances.tolist() == least


def check_every_token(src, dst):
    queries, ids = without_same_bytes(src, dst, "char")
    assert len(queries) > 2000
    found, distances = compiled.nearest(src.packed.take(queries), dst.packed)
    expected, least = rapidfuzz_nearest(
        src.packed.take(queries).tolist(), dst.packed.take(ids).tolist()
    )
    assert found.tolist() == ids[expected].tolist()
    assert distances.tolist() == least


@pytest.mark.slow
def test_every_token_of_two_vocabularies_of_32k():
    llama2 = load_vocabulary(shared_file("cmc/llama2-tokenizer.model"))
    check_every_token(real_vocabulary("mistral-v1"), llama2)
    check_every_token(llama2, real_vocabulary("mistral-v1"))


@pytest.mark.slow
def test_every_token_of_a_vocabulary_of_32k():
    check_every_token(real_vocabulary("mistral-v1"), real_vocabulary("llama3"))


def test_ties_go_to_the_lowest_id():
    dst = texts(b"abx", b"abc", b"ab", b"axbc", b"bc")
    assert rows(compiled.nearest(texts(b"abd", b"b", b"abc"), dst)) == [[0, 2, 1], [1, 1, 0]]


def test_a_token_that_shares_nothing_goes_to_the_lowest_that_is_no_longer():
    dst = texts(b"longer", b"xyz", b"uv", b"uvw")
    assert rows(compiled.nearest(texts(b"abc", b"a", b""), dst)) == [[1, 2, 2], [3, 2, 2]]


def test_nothing_is_within_a_bound_or_no_token_takes_part():
    one = texts(b"abc")
    assert rows(compiled.nearest(one, texts(b"xyz"), max_distance=2)) == [[-1], [-1]]
    assert rows(compiled.nearest(one, texts(b"abd"), max_distance=0)) == [[-1], [-1]]
    special = pack([b"abc"], np.array([Kind.SPECIAL], np.uint8))
    assert rows(compiled.nearest(one, special)) == [[-1], [-1]]
    assert rows(compiled.nearest(special, one)) == [[-1], [-1]]
    assert rows(compiled.nearest(texts(), one)) == [[], []]


def test_a_negative_bound_is_an_error():
    with pytest.raises(ValueError, match="the maximum distance is -1"):
        compiled.nearest(texts(b"a"), texts(b"b"), max_distance=-1)


def test_tokens_of_any_length():
    dst = [b"ab" * 20_000, b"b" * 50_000, b"ab" * 300 + b"c", b"x"]
    src = [b"ab" * 20_001, b"a" * 49_999, b"ab" * 299 + b"cc"]
    assert rows(compiled.nearest(texts(*src), texts(*dst))) == rapidfuzz_nearest(src, dst)


def test_the_number_of_threads_changes_nothing(monkeypatch):
    src, dst = real_vocabulary("mistral-v1").packed, real_vocabulary("mistral-v3").packed
    answers = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        answers.append(rows(compiled.nearest(src.take(np.arange(3000, 9000)), dst)))
    assert answers[0] == answers[1] == answers[2]


SCRIPT = """
import numpy as np
from pm_mined.kernels.edit_distance import edit_distances
from pm_mined.kernels.nearest import nearest
from pm_mined.kernels.tokens import pack
random = np.random.default_rng(3)
def tokens(count, longest):
    letters = list("ab é🙂中")
    some = ["".join(random.choice(letters, random.integers(0, longest))) for _ in range(count)]
    return pack([one.encode() for one in some], np.zeros(count, np.uint8))
src, dst = tokens(30, 9), tokens(60, 9)
long = tokens(6, 150)
print([found.tolist() for found in nearest(src, dst)], nearest(long, dst)[1].tolist())
print(edit_distances(long, long.take(np.arange(6)[::-1])).tolist())
"""


@pytest.mark.slow
def test_the_same_without_compilation_cold_and_warm(tmp_path):
    settings = [
        {"NUMBA_DISABLE_JIT": "1"},
        {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "1"},
        {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "3"},
    ]
    done = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        for more in settings
    ]
    assert [one.stderr for one in done] == [""] * 3
    assert len({one.stdout for one in done}) == 1
    assert done[0].stdout
