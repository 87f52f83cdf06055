"""Canonical bytes and kinds of every format, against each format's own library."""

import base64
import json
from functools import partial

import pytest
import tiny_tokenizers as tiny
from conftest import quick_first, real_vocabulary
from sentencepiece import SentencePieceProcessor
from tiny_tokenizers import entries, installed_file, read
from tokenizers import Tokenizer, decoders, models

from pm_mined import Kind, Vocabulary, load_vocabulary

ORDINARY = (Kind.TEXT, Kind.FRAGMENT)
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


@pytest.fixture
def read_json(tmp_path):
    return lambda document: read(tmp_path / "tokenizer.json", document)


# --- Hugging Face tokenizer.json ---


def assert_decodes_like(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Each ordinary token, written after another, as the library's own decoder writes it.

    A token of its own would lose a leading space. The library decodes pieces of characters to
    U+FFFD, by the same rule as Python's `replace`.
    """
    assert len(vocabulary) == tokenizer.get_vocab_size()
    first = tokenizer.token_to_id("x")
    prefix = tokenizer.decode([first], skip_special_tokens=False)
    pairs = [[first, token_id] for token_id in range(len(vocabulary))]
    decoded = tokenizer.decode_batch(pairs, skip_special_tokens=False)
    for token_id, text in enumerate(decoded):
        token, kind = vocabulary[token_id], vocabulary.kind(token_id)
        if kind in (Kind.SPECIAL, Kind.UNUSED):
            assert token.decode() == tokenizer.id_to_token(token_id)
        else:
            assert token.decode(errors="replace") == text.removeprefix(prefix), token_id


@pytest.mark.parametrize(
    "make",
    [
        tiny.byte_level_bpe,
        tiny.metaspace_bpe,
        tiny.unigram,
        tiny.word_piece,
        partial(tiny.word_piece, cleanup=False),
    ],
    ids=["byte-level", "metaspace", "unigram", "word-piece", "word-piece-no-cleanup"],
)
def test_trained_tokenizers_decode_like_their_library(read_json, make):
    tokenizer = make()
    assert_decodes_like(tokenizer, read_json(json.loads(tokenizer.to_str())))


def test_word_piece_punctuation_decodes_like_its_library(read_json):
    tokenizer = tiny.word_piece(more=(".", "...", ".com", "?!", "n't", "'s", "'ve", "##.", "'"))
    assert_decodes_like(tokenizer, read_json(json.loads(tokenizer.to_str())))


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Metaspace(replacement="_"),
        decoders.Metaspace(prepend_scheme="never"),
        decoders.Sequence([decoders.Sequence([decoders.Replace("_", " ")]), decoders.Fuse()]),
        decoders.Sequence([decoders.Sequence([decoders.Replace("_", " ")]), decoders.ByteLevel()]),
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
        decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
    ],
    ids=[
        "metaspace-of-another-letter",
        "metaspace-never-prepended",
        "nested-replace-and-fuse",
        "nested-replace-then-byte-level",
        "byte-fallback-then-metaspace",
        "strip-after-fuse",
    ],
)
def test_decoders_and_sequences_of_them_decode_like_their_library(read_json, decoder):
    tokens = ["x", "_a", "▁a", "a▁b_", "▁▁", "Ġ", "Ã©", "é", "<0x41>", "日本"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.decoder = decoder
    assert_decodes_like(tokenizer, read_json(json.loads(tokenizer.to_str())))


def test_byte_level_letters_stand_for_the_bytes_of_gpt2s_table(read_json):
    letters = {letter: byte for byte, letter in enumerate(tiny.gpt2_letters())}
    vocabulary = read_json(tiny.bpe_document(letters, decoder={"type": "ByteLevel"}))
    assert [vocabulary[byte] for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert vocabulary.ids_of_kind(Kind.TEXT) == list(range(128))
    assert vocabulary.ids_of_kind(Kind.FRAGMENT) == list(range(128, 256))


def test_byte_fallback_marks_exactly_the_256_byte_pieces(read_json):
    tokenizer = tiny.metaspace_bpe()
    vocabulary = read_json(json.loads(tokenizer.to_str()))
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    assert vocabulary.ids_of_kind(Kind.BYTE) == sorted(ids)
    assert [vocabulary[i] for i in ids] == [bytes([byte]) for byte in range(256)]


def test_byte_pieces_are_text_without_byte_fallback(read_json):
    assert entries(read_json(tiny.bpe_document({"<0x41>": 0}))) == [(b"<0x41>", "text")]


def test_word_level_tokens_stand_for_themselves(read_json):
    tokenizer = tiny.word_level()
    vocabulary = read_json(json.loads(tokenizer.to_str()))
    words = [tokenizer.id_to_token(i).encode() for i in range(len(vocabulary))]
    assert entries(vocabulary) == [(words[0], "special"), *((word, "text") for word in words[1:])]


def test_added_tokens_are_written_as_decoded_and_special_ones_are_their_literal(read_json):
    document = tiny.bpe_document(
        {"Ġa": 0, "Ġb": 1, "<s>": 2, "<unused3>": 3, "": 4, "Ġ日": 5},
        decoder={"type": "ByteLevel"},
        added_tokens=[
            tiny.added(1, "Ġb", special=False),  # in the model, too: decoded like the model's
            tiny.added(2, "<s>", special=True),
            tiny.added(3, "<unused3>", special=False),
            tiny.added(6, "Ġé", special=False),  # matched as it stands, but these are byte letters
            tiny.added(7, "<|reserved_special_token_4|>", special=True),
            tiny.added(8, "Ġ日é", special=False),
        ],
    )
    assert entries(read_json(document)) == [
        (b" a", "text"),
        (b" b", "text"),
        (b"<s>", "special"),
        (b"<unused3>", "unused"),
        (b"", "unused"),
        ("Ġ日".encode(), "text"),  # 日 is no byte letter: the decoder leaves the token alone
        (b" \xe9", "fragment"),
        (b"<|reserved_special_token_4|>", "unused"),
        ("Ġ日é".encode(), "text"),
    ]


def test_unigram_duplicates_keep_all_their_ids(read_json):
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["▁a", -1], ["▁a", -2]]}
    vocabulary = read_json({"model": model, "decoder": METASPACE})
    assert entries(vocabulary) == [(b"<unk>", "special"), (b" a", "text"), (b" a", "text")]
    assert vocabulary.find(b" a") == [1, 2]


@pytest.mark.parametrize("make", [tiny.byte_level_bpe, tiny.unigram, tiny.word_piece])
def test_models_of_old_files_without_a_type_are_recognised(read_json, make):
    document = json.loads(make().to_str())
    with_type = read_json(document)
    del document["model"]["type"]
    assert read_json(document).fingerprint == with_type.fingerprint


def test_every_deepseek_token_decodes_like_its_library():
    vocabulary = real_vocabulary("deepseek")
    tokenizer = Tokenizer.from_file(str(installed_file("deepseek")))
    assert_decodes_like(tokenizer, vocabulary)
    special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    marked = set(vocabulary.ids_of_kind(Kind.SPECIAL) + vocabulary.ids_of_kind(Kind.UNUSED))
    assert marked == special
    assert {vocabulary[i].decode()[:7] for i in vocabulary.ids_of_kind(Kind.UNUSED)} == {"<｜place"}


# --- SentencePiece ---


@pytest.mark.parametrize("name", ["mistral-v1", "mistral-v3", "mistral-v7"])
def test_mistral_sentencepiece_models_decode_like_their_library(name):
    vocabulary = real_vocabulary(name)
    assert_decodes_like_sentencepiece(str(installed_file(name)), vocabulary)


def test_a_tiny_sentencepiece_model_decodes_like_its_library(tmp_path):
    path = tmp_path / "tokenizer.model"
    # The library accepts byte pieces only where there are all 256.
    pieces = [(piece, kind) for piece, kind in tiny.PIECES if kind != tiny.BYTE]
    vocabulary = read(path, tiny.sentencepiece_model([*pieces, ("x", tiny.NORMAL)]))
    assert_decodes_like_sentencepiece(str(path), vocabulary)


def assert_decodes_like_sentencepiece(path: str, vocabulary: Vocabulary) -> None:
    processor = SentencePieceProcessor(model_file=path)
    assert len(vocabulary) == processor.get_piece_size()
    before = processor.piece_to_id("x")
    decoded = processor.decode([[before, i] for i in range(len(vocabulary))])
    for i, text in enumerate(decoded):
        piece, kind = processor.id_to_piece(i), vocabulary.kind(i)
        if processor.is_byte(i):
            assert (vocabulary[i], kind) == (bytes.fromhex(piece[3:5]), Kind.BYTE)
        elif processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i):
            reserved = piece.startswith("[control_") or processor.is_unused(i)
            assert kind == (Kind.UNUSED if reserved else Kind.SPECIAL)
            assert vocabulary[i].decode() == piece
        else:
            assert (vocabulary[i].decode(), kind) == (text[1:], Kind.TEXT), piece


# --- tiktoken rank files ---


@pytest.mark.parametrize(
    "name", quick_first(["llama3", "qwen1", "llama4", "qwen2.5", "qwen3", "qwen3.5"], 2)
)
def test_ranks_equal_a_line_by_line_parse(name):
    vocabulary = real_vocabulary(name)
    with installed_file(name).open() as lines:
        ranks = {int(rank): base64.b64decode(token) for token, rank in map(str.split, lines)}
    assert sorted(ranks) == list(range(len(ranks)))
    assert all(vocabulary[i] == token for i, token in ranks.items())
    assert {vocabulary.kind(i) for i in ranks} <= set(ORDINARY)


def test_holes_between_ranks_are_unused(tmp_path):
    assert entries(read(tmp_path / "x.tiktoken", b"wqk= 0\nw6k= 3\nYQ== 1\nYQ== 4\n")) == [
        (b"\xc2\xa9", "text"),
        (b"a", "text"),
        (b"", "unused"),
        ("é".encode(), "text"),
        (b"a", "text"),
    ]


# --- tekken.json ---


def test_tekken_lists_its_special_tokens_and_drops_ranks_beyond_its_size(read_json):
    assert entries(read_json(tiny.tekken_document())) == [
        (b"<unk>", "special"),
        (b"<s>", "special"),
        (b"<SPECIAL_2>", "unused"),
        (b"a", "text"),
        (b" b", "text"),
        (b"\xc3", "fragment"),
    ]


# --- GGUF ---


def test_gguf_pieces_read_like_the_sentencepiece_model(tmp_path):
    pieces, types = map(list, zip(*tiny.PIECES, strict=True))
    from_gguf = load_vocabulary(tiny.write_gguf(tmp_path / "x.gguf", "llama", pieces, types))
    from_model = read(tmp_path / "tokenizer.model", tiny.sentencepiece_model())
    assert entries(from_gguf) == entries(from_model)


def test_gguf_byte_level_tokens_read_like_the_tokenizer_json(tmp_path, read_json):
    tokenizer = tiny.byte_level_bpe()
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    types = [tiny.CONTROL, *[tiny.NORMAL] * (len(tokens) - 1)]
    from_gguf = load_vocabulary(tiny.write_gguf(tmp_path / "x.gguf", "gpt2", tokens, types))
    assert from_gguf.fingerprint == read_json(json.loads(tokenizer.to_str())).fingerprint


def test_gguf_token_types_of_byte_level_models(tmp_path):
    tokens = ["Ġa", "Ġé", "[PAD2]", "<|im_end|>", "<gone>"]
    types = [tiny.NORMAL, tiny.USER_DEFINED, tiny.UNUSED, tiny.CONTROL, tiny.UNUSED]
    vocabulary = load_vocabulary(tiny.write_gguf(tmp_path / "x.gguf", "gpt2", tokens, types))
    literals = [b" a", *(token.encode() for token in tokens[1:])]
    kinds = ["text", "text", "unused", "special", "unused"]
    assert entries(vocabulary) == list(zip(literals, kinds, strict=True))


def test_gguf_without_token_types_holds_ordinary_tokens(tmp_path):
    path = tiny.write_gguf(tmp_path / "x.gguf", "llama", ["▁a", "b"])
    assert entries(load_vocabulary(path)) == [(b" a", "text"), (b"b", "text")]


def test_whispers_rank_file_has_a_token_without_bytes(tmp_path):
    vocabulary = tiny.read(tmp_path / "multilingual.tiktoken", b"YQ== 0\n= 1\nYg== 2\n")
    assert entries(vocabulary) == [(b"a", "text"), (b"", "unused"), (b"b", "text")]


def test_gguf_keeps_the_literal_of_an_added_token(tmp_path):
    path = tiny.write_gguf(tmp_path / "x.gguf", "gpt2", ["Ġa", "<｜tool▁call｜>"], [1, 4])
    literal = "<｜tool▁call｜>".encode()
    assert entries(load_vocabulary(path)) == [(b" a", "text"), (literal, "text")]
