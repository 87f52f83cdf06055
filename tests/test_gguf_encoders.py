"""Text to ids by GGUF files: as the library that the tokenizer came from, and as llama.cpp."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tiny_tokenizers as tiny
from hypothesis import given
from hypothesis import strategies as st
from texts import ODDITIES, PROSE
from tiny_tokenizers import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, write_gguf
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from pm_mined import VocabularyError, load_encoder, load_vocabulary
from pm_mined.tokenizer.encoders.llama_cpp import byte_level_split
from pm_mined.tokenizer.encoders.serialized_pieces import serialize_bpe, serialize_pieces

SPLITS = json.loads(Path(__file__).with_name("data").joinpath("gguf_splits.json").read_text())


def written(path, ids):
    vocabulary = load_vocabulary(path)
    return b"".join(vocabulary[i] for i in ids).decode()


# --- byte-level BPE ---


@pytest.mark.parametrize("name", SPLITS["lengths"])
def test_text_is_split_as_llama_cpp_splits_it(name):
    """The lengths are those of `unicode_regex_split` of llama.cpp, of llama-cpp-python 0.3.36."""
    split = byte_level_split(name)
    for text, lengths in zip(SPLITS["texts"], SPLITS["lengths"][name], strict=True):
        ends = [end for _, (_, end) in split.pre_tokenize_str(text)]
        expected = [int(length) for length in lengths.split()]
        assert [end - start for start, end in zip([0, *ends], ends, strict=False)] == expected


def test_byte_level_bpe_in_gguf(tmp_path):
    tokenizer = tiny.byte_level_bpe()
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(pair) for pair in model["merges"]]
    types = [3, *[1] * (len(tokens) - 1)]
    path = tmp_path / "model.gguf"
    text = " ".join(tiny.TEXT) + ODDITIES
    write_gguf(path, "gpt2", tokens, types, merges=merges, pre="gpt-2")
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert list(load_encoder(path)([text])[0]) == expected
    write_gguf(path, "gpt2", tokens, types, merges=merges, pre="smollm")
    (ids,) = load_encoder(path)(["1234 <|endoftext|>"])
    assert [tokens[i] for i in ids[:4]] == list("1234")
    assert 0 not in ids
    write_gguf(path, "gpt2", tokens, types, merges=merges, pre="other")
    with pytest.raises(VocabularyError, match="splits text by 'other' is not known"):
        load_encoder(path)
    write_gguf(path, "gpt2", tokens, types, pre="gpt-2")
    with pytest.raises(VocabularyError, match=r"without a list tokenizer\.ggml\.merges"):
        load_encoder(path)
    write_gguf(path, "gpt2", tokens, types, merges=merges)
    with pytest.raises(VocabularyError, match=r"how text is split \(no tokenizer\.ggml\.pre\)"):
        load_encoder(path)


def byte_letters(folder, pre, tokens=(), types=None, merges=(), **fields):
    """A file of the 256 bytes, and of more tokens."""
    tokens = [*tiny.gpt2_letters(), *tokens]
    types = [NORMAL] * 256 + (types or [NORMAL] * (len(tokens) - 256))
    return write_gguf(
        folder / "x.gguf", "gpt2", tokens, types, merges=["a b", *merges], pre=pre, **fields
    )


def test_a_word_that_is_a_token_may_stay_whole(tmp_path):
    for pre, count in [("llama-bpe", 1), ("dbrx", 3)]:
        path = byte_letters(tmp_path, pre, ["ab", "xyz"])
        assert len(load_encoder(path)(["xyz"])[0]) == count
        assert load_encoder(path)(["ab"])[0].tolist() == [256]


def test_text_keeps_its_normal_form(tmp_path):
    path, text = byte_letters(tmp_path, "qwen2", ["ab"]), "e\u0301"
    assert written(path, load_encoder(path)([text])[0]) == text


def test_literals_of_control_tokens_are_letters_whatever_their_type(tmp_path):
    tokens, types = ["ab", "<|im_end|>", "<|fim_prefix|>", "<|q|>"], [USER_DEFINED] * 4
    text = "".join(tokens[1:])
    path = byte_letters(tmp_path, "gpt-2", tokens, types)
    assert [i for i in load_encoder(path)([text])[0] if i > 256] == [259]
    path = byte_letters(tmp_path, "gpt-2", tokens, types, fim_pre_token_id=258)
    assert [i for i in load_encoder(path)([text])[0] if i > 256] == [258, 259]
    pieces = ["<unk>", "</s>", "<q>", "▁"]
    types = [UNKNOWN, USER_DEFINED, USER_DEFINED, NORMAL]
    path = write_gguf(tmp_path / "y.gguf", "llama", pieces, types, scores=[0.0] * 4)
    assert load_encoder(path)(["<q></s>"])[0].tolist() == [2, 3, 0]


@pytest.mark.parametrize("merge", ["", "ab", "a"])
def test_a_merge_of_one_token_is_refused(tmp_path, merge):
    path = byte_letters(tmp_path, "gpt-2", ["ab"], merges=[merge])
    with pytest.raises(VocabularyError, match="is no merge of two tokens"):
        load_encoder(path)


def test_tokens_of_another_form_cannot_be_encoded(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", "rwkv", ["<s>", "a"])
    with pytest.raises(VocabularyError, match=r"of model 'rwkv' \(only by llama, bert"):
        load_encoder(path)


# --- BPE on text ---


def test_gemma_4_merges_lines_with_their_spaces(tmp_path):
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["▁", "a", "b", "\n", "▁a", "▁▁", "▁▁a", "b▁a", "\n\n", "<|q|>"]
    types = [BYTE] * 256 + [NORMAL] * 9 + [USER_DEFINED]
    merges = ["▁ ▁", "▁ a", "▁▁ a", "b ▁a", "\n \n"]
    path = write_gguf(tmp_path / "x.gguf", "gemma4", bytes_ + letters, types, merges=merges)
    tokens = bytes_ + letters
    texts = {
        "b a": ["b▁a"],
        "b  a\n\na": ["b", "▁▁a", "\n\n", "a"],
        "é<|q|>": ["<0xC3>", "<0xA9>", "<|q|>"],
    }
    encode = load_encoder(path)
    for text, expected in texts.items():
        (ids,) = encode([text])
        assert [tokens[i] for i in ids] == expected
        assert written(path, ids) == text


# --- pieces ---


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_bpe_in_gguf(tmp_path, prefix):
    trained = tiny.trained_sentencepiece(
        tmp_path,
        vocab_size=700,
        model_type="bpe",
        character_coverage=0.98,
        user_defined_symbols=["▁▁", "<more>"],
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(trained))
    proto = sentencepiece.sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(trained.read_bytes())
    pieces = [
        piece.piece.replace("▁", " ") if piece.type == 4 else piece.piece for piece in proto.pieces
    ]
    types = [piece.type for piece in proto.pieces]
    scores = [piece.score for piece in proto.pieces]
    path = tmp_path / "model.gguf"
    write_gguf(path, "llama", pieces, types, scores=scores, add_space_prefix=prefix)
    text = " ".join(PROSE.replace("▁", "-").split()) + "a <s>"
    assert list(load_encoder(path)([text])[0]) == processor.encode(text)
    assert written(path, processor.encode(text)) == " " * prefix + text
    (inside,) = load_encoder(path, inside=True)([text])
    assert written(path, inside) == text
    # After a user-defined token, llama.cpp begins anew.
    spaced = [written(path, ids) for ids in load_encoder(path)(["<more>", "a  b"])]
    assert spaced == ["<more>", " a   b" if prefix else "a  b"]


PIECES = st.tuples(
    st.text(max_size=300),
    st.floats(width=32, allow_nan=False),
    st.integers(1, 6),
)


@given(st.lists(PIECES))
def test_pieces_are_serialized_as_protobuf_does(rows):
    texts, scores, types = zip(*rows, strict=True) if rows else ((), (), ())
    proto = sentencepiece.sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(serialize_pieces([text.encode() for text in texts], scores, types))
    assert [(one.piece, one.score, one.type) for one in proto.pieces] == rows


@given(st.integers(0, 2**21), st.booleans(), st.booleans())
def test_the_rest_of_a_model_is_serialized_as_protobuf_does(unknown, fallback, prefix):
    proto = sentencepiece.sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.unk_id = unknown
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = fallback
    proto.normalizer_spec.add_dummy_prefix = prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    made = serialize_bpe(unknown_id=unknown, byte_fallback=fallback, add_dummy_prefix=prefix)
    assert made == proto.SerializeToString()


def test_several_unknown_tokens_are_padding(tmp_path):
    """A real vocabulary types 53 rows of padding so; that of others is empty."""
    tokens = ["<unk>", "<s>", "</s>", "▁a", "a", "▁", "", ""]
    types = [UNKNOWN, CONTROL, UNKNOWN, NORMAL, NORMAL, NORMAL, CONTROL, NORMAL]
    path = write_gguf(tmp_path / "x.gguf", "llama", tokens, types, scores=[0.0] * 8)
    assert load_encoder(path)(["a a"])[0].tolist() == [3, 3]


def test_a_token_of_a_type_that_there_is_not_is_refused(tmp_path):
    path = write_gguf(tmp_path / "x.gguf", "llama", ["<unk>", "a"], [UNKNOWN, 7], scores=[0.0] * 2)
    with pytest.raises(VocabularyError, match="tokens of unknown type 7"):
        load_encoder(path)


def test_the_unknown_token_may_be_named_by_its_id(tmp_path):
    tokens, types = ["<s>", "▁a", "▁", "<unk>"], [CONTROL, NORMAL, NORMAL, CONTROL]
    path = tmp_path / "x.gguf"
    write_gguf(path, "llama", tokens, types, scores=[0.0] * 4, unknown_token_id=3)
    assert load_encoder(path)(["a b"])[0].tolist() == [1, 2, 3]
    write_gguf(path, "llama", tokens, types, scores=[0.0] * 4)
    with pytest.raises(VocabularyError, match="without an unknown token"):
        load_encoder(path)
    write_gguf(path, "llama", tokens, types, scores=[0.0] * 3, unknown_token_id=3)
    with pytest.raises(VocabularyError, match="3 scores of 4 tokens"):
        load_encoder(path)


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_pieces_in_gguf(tmp_path, lowercase):
    tokenizer = tiny.word_piece()
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    vocab = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    specials = ("[UNK]", "[CLS]")
    tokens = [
        token if token in specials else token[2:] if token.startswith("##") else f"▁{token}"
        for token in vocab
    ]
    types = [CONTROL if token in specials else NORMAL for token in tokens]
    path = tmp_path / "x.gguf"
    named = {"unknown_token_id": vocab.index("[UNK]"), "normalizer.lowercase": lowercase}
    write_gguf(path, "bert", tokens, types, **named)
    texts = [*tiny.TEXT, "The Café! [CLS] ☃"]
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    expected = [plain.encode(text, add_special_tokens=False).ids for text in texts]
    assert [ids.tolist() for ids in load_encoder(path)(texts)] == expected
    assert written(path, load_encoder(path)(["the\u0085fox"])[0]) == " the fox"
    (inside,) = load_encoder(path, inside=True)(["he quick"])
    assert written(path, inside) == "he quick"
