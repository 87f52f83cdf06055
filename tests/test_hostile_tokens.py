"""Tokens that no tokenizer has: very long ones, and many that begin alike."""

import time

import pytest

from pm_mined import Kind, Vocabulary, VocabularyError, build_map
from pm_mined.reports.explain import Explainer
from pm_mined.vocabulary import MAX_TOKEN_BYTES

COUNT = 20_000


def vocabulary(tokens):
    return Vocabulary.from_tokens(tokens, [Kind.TEXT] * len(tokens), name="toy.json")


def test_the_longest_token_is_bounded():
    longest = b"a" * MAX_TOKEN_BYTES
    assert len(vocabulary([b"b", longest])) == 2
    with pytest.raises(VocabularyError, match=r"^toy\.json: not a vocabulary: token 1 has 4,097"):
        vocabulary([b"b", longest + b"a"])


def test_the_number_of_tokens_is_bounded(monkeypatch):
    monkeypatch.setattr("pm_mined.vocabulary.MAX_SIZE", 3)
    with pytest.raises(VocabularyError, match=r"^toy\.json: 4 tokens \(at most 3\)"):
        vocabulary([b"a"] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["pm-mined", "prefixes", "mined"])
def test_long_tokens_are_matched_and_explained(strategy):
    src = vocabulary([bytes([letter]) * MAX_TOKEN_BYTES for letter in b"abc"])
    dst = vocabulary([bytes([letter]) * (MAX_TOKEN_BYTES - 1 - letter) for letter in b"bcd"])
    start = time.process_time()
    token_map = build_map(src, dst, strategy=strategy)
    assert token_map.dst_id.tolist()[1:] == [0, 1]
    explainer = Explainer(token_map, dst)
    assert [explainer.explain(i).by_rules for i in (1, 2)] == [0, 1]
    assert time.process_time() - start < 10


MANY = {
    "one token": [b"a"] * COUNT,
    "extensions": [b"a%d" % i for i in range(COUNT)],
    "one in another": [b"a" * (i + 1) for i in range(MAX_TOKEN_BYTES - 1)],
}


@pytest.mark.slow
@pytest.mark.parametrize("src", MANY)
@pytest.mark.parametrize("dst", MANY)
def test_many_tokens_that_begin_alike_take_linear_time(src, dst):
    build_map(vocabulary([b"a"]), vocabulary([b"b"]))  # compiled
    sides = vocabulary([token + b"." for token in MANY[src]]), vocabulary(MANY[dst])
    start = time.process_time()
    made = build_map(*sides, strategy="prefixes")
    assert time.process_time() - start < 10
    assert made.dst_id.tolist() == build_map(*sides).dst_id.tolist()
