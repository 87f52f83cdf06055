"""The delta model's context: after every token what encoding everything from scratch gives."""

import random
import re
import tempfile
from codecs import getincrementaldecoder
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizers as tiny
from conftest import SHARED, quick_first, real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import ODDITIES, PROSE
from tokenizers import normalizers

from cmc_runtime.contexts import reencoded as context
from cmc_runtime.contexts.reencoded import ContextTables, ReencodedContext
from pm_mined import Kind, Vocabulary, load_vocabulary
from pm_mined.tokenizer.encoders.load import load_encoder
from pm_mined.tokenizer.registry import named_vocabularies

PROMPT = [5, 6, 7]
NAMES = ["mistral-v1", "llama3", "qwen3", "deepseek", "mistral-tekken", "smollm2"]

RUNS = ["\n", " ", "=", "a", "A", "7", "\t", "é", "🙂", " \n", "e\u0301", "中文", "क्षि", "1,", "'s"]
ALPHABET = "ab \n\t.,'éд你🙂0e\u0301\u0300_(){}=ÅΣß\u200d日本1234AB▁한"


def by_hand(src, dst, dst_id, encode, generated):
    """The context of `generated` by its definition, from scratch."""
    ids, data = [], b""
    for token_id in generated:
        kind = src.kind(token_id) if token_id < len(src) else Kind.UNUSED
        if kind == Kind.SPECIAL:
            ids += segment(data, dst, encode, final=True)
            ids += [int(dst_id[token_id])] if dst_id[token_id] >= 0 else []
            data = b""
        elif kind != Kind.UNUSED:
            data += src[token_id]
    return ids + segment(data, dst, encode, final=False)


def segment(data, dst, encode, *, final):
    """Python's own decoder says which bytes are no text, and which are not complete."""
    escaped = getincrementaldecoder("utf-8")("surrogateescape").decode(data, final)
    ids = []
    for part in re.findall("[\udc80-\udcff]|[^\udc80-\udcff]+", escaped):
        stray = "\udc80" <= part <= "\udcff"
        ids += byte_ids(ord(part) - 0xDC00, dst, encode) if stray else encode([part])[0].tolist()
    return ids


def byte_ids(byte, dst, encode):
    found = dst.find(bytes([byte]))
    for kind in (Kind.BYTE, Kind.FRAGMENT):
        for token_id in found:
            if dst.kind(token_id) == kind:
                return [token_id]
    return encode(["\ufffd"])[0].tolist()


def check(src, dst, dst_id, tables, generated):
    """After every token; and what `append` returns must be the smallest change."""
    row = ReencodedContext(tables, PROMPT)
    for count, token_id in enumerate(generated, 1):
        before = row.ids.copy()
        keep, new_ids = row.append(token_id)
        expected = PROMPT + by_hand(src, dst, dst_id, tables.encode, generated[:count])
        assert row.ids == expected, (count, generated[:count])
        assert before[:keep] + new_ids == expected
        assert keep == len(before) or before[keep : keep + 1] != new_ids[:1]


# Real tokenizers.


@cache
def real(name):
    return real_vocabulary(name), load_encoder(name, inside=True)


def installed():
    return [name for name in NAMES if named_vocabularies()[name].installed_file() is not None]


@cache
def sources():
    """Real text: of the published data what is there."""
    files = [SHARED / "tofu/full.json", SHARED / "cmc/alpaca_eval.json"]
    published = [file.read_text("utf-8")[:200_000] for file in files if file.exists()]
    return [PROSE, PROSE, ODDITIES, Path(__file__).read_text("utf-8"), *published]


def text(rng):
    """Prose, code and oddities; runs of one thing; noise."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(RUNS) * rng.choice([10, 30, 60]) + "end"
    if kind == 1:
        return "".join(rng.choices(ALPHABET, k=80))
    source = rng.choice(sources())
    start = rng.randrange(len(source))
    return source[start : start + rng.choice([30, 50, 160])]


def generated(rng, src, encode):
    """A text's tokens, disturbed: special ones, cut characters, padding; or any tokens at all."""
    if rng.randrange(8) == 0:
        return rng.choices(range(len(src) + 5), k=40)
    ids = encode([text(rng)])[0].tolist()
    odd = src.ids_of_kind(Kind.SPECIAL) + src.ids_of_kind(Kind.BYTE) + [len(src)]
    for _ in range(rng.choice([0, 0, 1, 2])):
        position = rng.randrange(len(ids) + 1)
        ids[position : position + rng.randrange(2)] = [rng.choice(odd)] * rng.randrange(2)
    return ids


def half_mapped(rng, src, dst):
    """Every other special token is mapped; there are more logits than tokens."""
    dst_id = np.full(len(src) + 7, -1, np.int32)
    for token_id in src.ids_of_kind(Kind.SPECIAL)[::2]:
        dst_id[token_id] = rng.randrange(len(dst))
    return dst_id


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_after_every_token_the_ids_are_those_of_the_whole_text(name):
    """More than 2,000 continuations in all."""
    rng = random.Random(name)
    dst, encode = real(name)
    for other in installed():
        src, src_encode = real(other)
        dst_id = half_mapped(rng, src, dst)
        tables = ContextTables.of(src, dst, dst_id, encode)
        for _ in range(81):
            check(src, dst, dst_id, tables, generated(rng, src, src_encode))


@pytest.mark.parametrize("name", quick_first(NAMES, 2))
def test_a_long_text_costs_no_more_per_token(name):
    dst, encode = real(name)
    asked = 0

    def counting(texts):
        nonlocal asked
        asked += sum(map(len, texts))
        return encode(texts)

    row = ReencodedContext(ContextTables.of(dst, dst, np.full(len(dst), -1), counting), PROMPT)
    (ids,) = encode([PROSE * 8])
    for token_id in ids.tolist():
        row.append(token_id)
    assert row.ids == [*PROMPT, *ids]
    assert len(ids) > 6000
    assert asked < 160 * len(ids)


# Tiny tokenizers.

LETTERS = Vocabulary.from_tokens(
    [*[bytes([byte]) for byte in range(256)], b"<eos>", b"<end>", b"gone"],
    [Kind.TEXT] * 256 + [Kind.SPECIAL] * 2 + [Kind.UNUSED],
)
DST_ID = np.array([-1] * 256 + [1000, -1, -1])


def with_nfc():
    tokenizer = tiny.byte_level_bpe()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


@cache
def tiny_side(make):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        make().save(str(path))
        return load_vocabulary(path), load_encoder(path, inside=True)


MAKERS = [tiny.byte_level_bpe, tiny.metaspace_bpe, tiny.unigram, tiny.word_piece, with_nfc]


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(MAKERS), st.sampled_from(MAKERS))
def test_any_tokens_of_any_tokenizers(data, src_maker, dst_maker):
    src, (dst, encode) = tiny_side(src_maker)[0], tiny_side(dst_maker)
    token = st.integers(0, len(src) + 1) | st.sampled_from(src.find(b" ") + src.find(b"a"))
    ids = data.draw(st.lists(token, max_size=30)) * data.draw(st.integers(1, 4))
    dst_id = half_mapped(random.Random(0), src, dst)
    check(src, dst, dst_id, ContextTables.of(src, dst, dst_id, encode), ids)


LONG = ["fox" * 120, "☃" * 300, f"a{' ' * 150}\n b", "é." * 150, "日本語" * 100, "e\u0301" * 150]


@pytest.mark.parametrize("text", LONG)
@pytest.mark.parametrize("make", MAKERS)
def test_long_words_and_runs_letter_by_letter(make, text):
    """WordPiece knows no word of more than 100 letters; unknown letters are one token together."""
    dst, encode = tiny_side(make)
    row = ReencodedContext(ContextTables.of(LETTERS, dst, DST_ID, encode), PROMPT)
    for end in range(1, len(text) + 1):
        for byte in text[end - 1].encode():
            row.append(byte)
        assert row.ids == [*PROMPT, *encode([text[:end]])[0]]


# By hand.


def by_letter(texts):
    return [np.array([ord(letter) for letter in text], np.int64) for text in texts]


def row_of(data, encode=by_letter, dst=LETTERS):
    row = ReencodedContext(ContextTables.of(LETTERS, dst, DST_ID, encode), [])
    changes = [row.append(token_id) for token_id in data]
    return row, changes


def test_a_character_is_held_back_until_it_is_complete():
    row, changes = row_of("🙂".encode())
    assert [change.new_ids for change in changes] == [[], [], [], [ord("🙂")]]
    assert row.append(ord("a")) == (1, [ord("a")])


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        (b"\xe4\xb8a", [0xE4, 0xB8, 97]),
        (b"a\x80\xff", [97, 0x80, 0xFF]),
        (b"\xe4\xe4\xb8\xad", [0xE4, ord("中")]),
        (b"\xed\xa0\x80", [0xED, 0xA0, 0x80]),  # a surrogate
        (b"a\xe4", [97]),
        ([97, 256, 98, 257, 99, 258, 259, 999], [97, 1000, 98, 99]),
        ([0xE4, 256, 0xB8], [0xE4, 1000, 0xB8]),
        ([0xC3, 258, 0xA9], [0xE9]),
        ([0xC3, 257], [0xC3]),
    ],
)
def test_what_is_no_text(data, ids):
    assert row_of(data)[0].ids == ids


def test_a_byte_that_the_delta_cannot_write_is_a_replacement_character():
    dst = Vocabulary.from_tokens([b"a"], [Kind.TEXT])
    assert row_of(b"a\xe4\xb8a", dst=dst)[0].ids == [97, 0xFFFD, 0xFFFD, 97]


def test_byte_tokens_come_before_fragments():
    dst = Vocabulary.from_tokens([b"\xff", b"\xff", b"\xff"], [Kind.FRAGMENT, Kind.BYTE, Kind.BYTE])
    assert row_of(b"\xff", dst=dst)[0].ids == [1]


def test_where_a_cut_no_longer_holds_the_encoding_starts_further_back():
    """A sign at the end changes the 200 letters before it."""

    def reaching_back(texts):
        encoded = by_letter(texts)
        for ids in encoded:
            if ids[-1:] == [ord("!")]:
                ids[-200:] += 1000
        return encoded

    text = "one word " * 60
    row, _ = row_of(f"{text}!".encode(), reaching_back)
    assert row.ids == reaching_back([text + "!"])[0].tolist()
    row.append(ord("a"))
    assert row.ids == by_letter([text + "!a"])[0].tolist()


@pytest.mark.parametrize("text", ["=" * 3000, "word" * 800, "日本語" * 1000, "e\u0301" * 1500])
def test_a_run_without_end_is_cut_all_the_same(text):
    asked = []

    def counting(texts):
        asked.extend(map(len, texts))
        return by_letter(texts)

    row, changes = row_of(text.encode(), counting)
    assert row.ids == [ord(letter) for letter in text]
    assert sum(asked) / len(changes) < 2 * context._LONG


def test_copies_go_on_alone():
    row, _ = row_of(b"some words, and then \xe4\xb8" * 9)
    other = row.copy()
    before = row.ids.copy()
    other.append(0xAD)
    assert row.ids == before
    assert other.ids == [*before, ord("中")]
    row.append(ord("x"))
    assert row.ids == [*before, 0xE4, 0xB8, ord("x")]
    assert other.ids == [*before, ord("中")]


def test_what_cannot_be_is_refused():
    with pytest.raises(IndexError, match="token id -1 is negative"):
        row_of([-1])
    with pytest.raises(ValueError, match="custom has 259 tokens, but the map 258"):
        ContextTables.of(LETTERS, LETTERS, DST_ID[:-1], by_letter)
