"""Tokenizers that are given as objects: each is what its file would be."""

import subprocess
import sys

import pytest
import sentencepiece
import tiny_tokenizers as tiny
from conftest import real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import ODDITIES, PROSE
from tiny_tokenizers import installed_file
from tokenizers import AddedToken, Tokenizer, decoders, models

from pm_mined import Kind, Vocabulary, VocabularyError, build_map, load_encoder, load_vocabulary

MAKES = [
    tiny.byte_level_bpe,
    tiny.metaspace_bpe,
    tiny.unigram,
    tiny.word_piece,
    tiny.word_level,
]
TEXTS = [*tiny.TEXT, PROSE, ODDITIES, " a", "a ", ""]


def fast(tokenizer):
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def ids_of(spec, texts, *, inside):
    return [ids.tolist() for ids in load_encoder(spec, inside=inside)(texts)]


def assert_is(tokenizer, file, texts=TEXTS):
    """The object has the vocabulary of the file, and encodes as it does."""
    vocabulary = load_vocabulary(tokenizer)
    assert vocabulary.fingerprint == load_vocabulary(file).fingerprint
    assert vocabulary.source == "memory"
    for inside in (False, True):
        expected = ids_of(file, texts, inside=inside)
        assert ids_of(tokenizer, texts, inside=inside) == expected
        assert ids_of(vocabulary.tokenizer, texts, inside=inside) == expected


@pytest.mark.parametrize("make", MAKES)
def test_a_tokenizer_is_that_of_its_file(make, tmp_path):
    tokenizer = make()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert_is(tokenizer, tmp_path / "tokenizer.json")
    assert load_vocabulary(tokenizer).name == "Tokenizer"


@pytest.mark.parametrize("make", MAKES)
def test_a_fast_tokenizer_of_transformers_is_that_of_its_folder(make, tmp_path):
    tokenizer = fast(make())
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(tmp_path)
    assert_is(tokenizer, tmp_path)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_sentencepiece_processor_is_that_of_its_file(model_type, tmp_path):
    path = tiny.trained_sentencepiece(tmp_path, vocab_size=600, model_type=model_type)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert_is(processor, path)
    assert load_vocabulary(processor).name == "SentencePieceProcessor"


BYTE_LEVEL = tiny.byte_level_bpe()


@settings(deadline=None)
@given(
    added=st.dictionaries(st.text(min_size=1, max_size=8), st.booleans(), max_size=4),
    text=st.text(max_size=30),
)
def test_added_tokens_are_those_of_the_file(added, text, tmp_path_factory):
    tokenizer = Tokenizer.from_str(BYTE_LEVEL.to_str())
    tokenizer.add_tokens([AddedToken(one, special=special) for one, special in added.items()])
    path = tmp_path_factory.mktemp("saved") / "tokenizer.json"
    tokenizer.save(str(path))
    assert_is(tokenizer, path, [text, *added])


def test_real_ranks_as_a_tokenizer(tmp_path):
    """Llama 3's, without the merges: bytes and kinds are asked for, and not how text is split."""
    llama3 = real_vocabulary("llama3")
    ranks = [llama3[i] for i in range(128_000)]
    letters = tiny.gpt2_letters()
    vocab = {"".join(letters[byte] for byte in rank): i for i, rank in enumerate(ranks)}
    tokenizer = Tokenizer(models.BPE(vocab, [], ignore_merges=True))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([llama3[i].decode() for i in range(128_000, len(llama3))])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for spec in (tokenizer, fast(tokenizer), tmp_path):
        assert load_vocabulary(spec).fingerprint == llama3.fingerprint


def test_a_real_sentencepiece_model():
    path = installed_file("mistral-v1")
    assert_is(sentencepiece.SentencePieceProcessor(model_file=str(path)), "mistral-v1")


@pytest.mark.slow
def test_a_real_tokenizer_json():
    tokenizer = Tokenizer.from_file(str(installed_file("deepseek")))
    assert load_vocabulary(tokenizer).fingerprint == real_vocabulary("deepseek").fingerprint
    expected = ids_of("deepseek", TEXTS, inside=False)
    assert ids_of(fast(tokenizer), TEXTS, inside=False) == expected


def test_its_name_is_where_it_is_from(tmp_path):
    transformers = pytest.importorskip("transformers")
    fast(tiny.byte_level_bpe()).save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert load_vocabulary(tokenizer).name == str(tmp_path)
    tokenizer.name_or_path = "acme/tiny"
    assert load_vocabulary(tokenizer).name == "acme/tiny"
    nameless = fast(tiny.byte_level_bpe())
    assert load_vocabulary(nameless).name == type(nameless).__name__


def test_a_loaded_vocabulary_does_not_change_with_its_tokenizer():
    tokenizer = tiny.byte_level_bpe()
    vocabulary = load_vocabulary(tokenizer)
    before = ids_of(vocabulary.tokenizer, ["<more>"], inside=True)
    tokenizer.add_tokens(["<more>"])
    assert ids_of(vocabulary.tokenizer, ["<more>"], inside=True) == before
    assert len(load_vocabulary(tokenizer)) == len(vocabulary) + 1


@pytest.mark.parametrize("strategy", ["pm-mined", "first-token", "both-ways"])
def test_a_map_is_built_of_tokenizers(strategy, tmp_path):
    src, dst = tiny.byte_level_bpe(), tiny.metaspace_bpe()
    paths = [tmp_path / "src.json", tmp_path / "dst.json"]
    for tokenizer, path in zip((src, dst), paths, strict=True):
        tokenizer.save(str(path))
    expected = build_map(*paths, strategy=strategy)
    built = build_map(fast(src), dst, strategy=strategy)
    assert built.dst_id.tolist() == expected.dst_id.tolist()
    assert built.info.src.source == "memory"


def test_a_vocabulary_is_returned_as_it_is():
    toy = Vocabulary.from_tokens([b"a"], [Kind.TEXT])
    assert load_vocabulary(toy) is toy


def refusal(tokenizer):
    with pytest.raises(VocabularyError) as caught:
        load_vocabulary(tokenizer)
    with pytest.raises(VocabularyError):
        load_encoder(tokenizer)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_slow_tokenizer():
    transformers = pytest.importorskip("transformers")
    said = refusal(transformers.ByT5Tokenizer())
    assert said.startswith("a ByT5Tokenizer is not a fast tokenizer of transformers")
    assert said.endswith("give the path of its file or folder instead")


@pytest.mark.parametrize("thing", [None, 3, b"llama3", ["llama3"], object()])
def test_an_object_that_is_no_tokenizer(thing):
    assert refusal(thing).startswith(f"a {type(thing).__name__} is not a tokenizer; expected")


def test_a_processor_without_a_model():
    assert "no model has been loaded" in refusal(sentencepiece.SentencePieceProcessor())


def test_a_tokenizer_that_cannot_be_read():
    tokenizer = tiny.byte_level_bpe()
    tokenizer.decoder = None
    with pytest.raises(VocabularyError, match=r"^Tokenizer: no decoder, though the pre_tokenizer"):
        load_vocabulary(tokenizer)


def test_no_library_is_imported_to_tell_what_an_object_is():
    code = """
import sys
from pm_mined import VocabularyError, load_vocabulary
try:
    load_vocabulary(object())
except VocabularyError:
    print([name for name in ("transformers", "tokenizers", "sentencepiece") if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
