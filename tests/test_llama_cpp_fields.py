"""A tokenizer.json for llama.cpp: the name of its way to split text, its scores, its types."""

import json

import pytest
import tiny_tokenizers as tiny
from tiny_tokenizers import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pm_mined import VocabularyError
from pm_mined.tokenizer.encoders.llama_cpp import byte_level_split, split_names
from pm_mined.tokenizer.llama_cpp_fields import PROBES, llama_cpp_fields

NAMES = [*split_names(whole_words=False), *split_names(whole_words=True)]
TWINS = {"bailingmoe": "qwen2"}  # `\s*[\r\n]` and `\s*[\r\n]+` match the same


def document(split, *, ignore_merges=False, normalizer=None):
    """Byte-level BPE of the 256 letters and a few words, and two added tokens."""
    tokens = ["<s>", *tiny.gpt2_letters(), "th", "the", "Ġthe"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    tokenizer.add_tokens([AddedToken("<|q|>", normalized=False)])
    return json.loads(tokenizer.to_str())


@pytest.mark.parametrize("whole_words", [False, True])
def test_the_probes_tell_all_ways_apart(whole_words):
    names = [one for one in split_names(whole_words=whole_words) if one not in TWINS]
    pieces = [
        str([byte_level_split(name).pre_tokenize_str(text) for text in PROBES]) for name in names
    ]
    assert len(set(pieces)) == len(names) > 3


@pytest.mark.parametrize("name", NAMES)
def test_each_way_to_split_is_found(name):
    whole = name in split_names(whole_words=True)
    made = llama_cpp_fields(document(byte_level_split(name), ignore_merges=whole), 270)
    assert made.more["pre"] == TWINS.get(name, name)
    assert made.model == "gpt2"
    assert made.more["merges"] == ["t h", "th e", "Ġ the"]


def test_the_types_of_tokens():
    made = llama_cpp_fields(document(byte_level_split("gpt-2")), 263)
    assert made.tokens[-3:] == ["<|q|>", "[PAD261]", "[PAD262]"]
    assert made.types == [CONTROL, *[NORMAL] * 259, USER_DEFINED, UNUSED, UNUSED]
    with pytest.raises(VocabularyError, match="token 260 of a model with 260 logits"):
        llama_cpp_fields(document(byte_level_split("gpt-2")), 260)


def test_a_way_that_llama_cpp_has_not():
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("isolated"), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    with pytest.raises(VocabularyError, match="no name for the way"):
        llama_cpp_fields(document(split), 270)


def test_normal_forms():
    notes = []
    nfc = document(byte_level_split("qwen2"), normalizer=normalizers.NFC())
    assert llama_cpp_fields(nfc, 270, note=notes.append).more["pre"] == "qwen2"
    assert notes == [
        "llama.cpp does not bring texts into the normal form NFC, as this tokenizer does"
    ]
    lower = document(byte_level_split("qwen2"), normalizer=normalizers.Lowercase())
    with pytest.raises(VocabularyError, match=r"would not encode .Hello, y'all"):
        llama_cpp_fields(lower, 270)


def pieces(merges, more=()):
    """BPE of pieces with the 256 bytes; its words begin with `▁`."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "c", *more]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return json.loads(tokenizer.to_str())


def test_scores_have_the_order_of_the_merges():
    made = llama_cpp_fields(
        pieces([("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")], ["ab", "bc", "abc"]), 264
    )
    scores = dict(zip(made.tokens, made.more["scores"], strict=True))
    assert scores["bc"] > scores["ab"] > scores["abc"]
    assert (made.model, made.more["add_space_prefix"]) == ("llama", False)
    assert made.types[0] == UNKNOWN


@pytest.mark.parametrize(
    "merges",
    [
        [("a", "b"), ("b", "c"), ("ab", "c")],  # a and bc would be merged, too
        [("a", "bc"), ("a", "b"), ("b", "c"), ("ab", "c")],  # abc before and after ab
    ],
)
def test_merges_that_no_scores_order(merges):
    with pytest.raises(VocabularyError, match="not those of a SentencePiece model"):
        llama_cpp_fields(pieces(merges, ["ab", "bc", "abc"]), 264)


def test_bytes_that_are_missing():
    lacking = pieces([])
    del lacking["model"]["vocab"]["<0x41>"]
    with pytest.raises(VocabularyError, match="needs the 256 tokens <0x00> to <0xFF>"):
        llama_cpp_fields(lacking, 264)


def test_another_model():
    with pytest.raises(VocabularyError, match="of type 'Unigram', only BPE"):
        llama_cpp_fields(json.loads(tiny.unigram().to_str()), 200)
