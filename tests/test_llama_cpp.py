"""llama.cpp's own test vocabularies: its texts, and the ids that must come out.

They are in the source distribution of llama-cpp-python, under its MIT licence, in
`vendor/llama.cpp/models`. `.ci/llama_cpp` downloads them; `PM_MINED_LLAMA_CPP` names the folder.
"""

import os
from functools import cache
from pathlib import Path

import pytest

from pm_mined import Vocabulary, VocabularyError, load_encoder, load_vocabulary

FOLDER = Path(os.environ.get("PM_MINED_LLAMA_CPP", ""))
SEPARATOR = "\n__ggml_vocab_test__\n"

WITH_TEXTS = [
    *("bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2"),
    *("llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
]
OTHERS = ["aquila", "baichuan", "gpt-neox", "nomic-bert-moe"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "PM_MINED_LLAMA_CPP" not in os.environ,
        reason="llama.cpp's test vocabularies are not here; see .ci/llama_cpp",
    ),
]


def file_of(name: str) -> Path:
    return FOLDER / f"ggml-vocab-{name}.gguf"


@cache
def vocabulary_of(name: str) -> Vocabulary:
    return load_vocabulary(file_of(name))


def texts_and_ids(name: str) -> list[tuple[str, list[int]]]:
    texts = file_of(name).with_suffix(".gguf.inp").read_bytes().decode().removesuffix(SEPARATOR)
    lines = file_of(name).with_suffix(".gguf.out").read_text().splitlines()
    ids = [[int(number) for number in line.split()] for line in lines]
    return list(zip(texts.split(SEPARATOR), ids, strict=True))


def test_there_are_no_other_vocabularies():
    found = {path.name.split(".")[0] for path in FOLDER.glob("ggml-vocab-*.gguf")}
    assert found == {f"ggml-vocab-{name}" for name in [*WITH_TEXTS, *OTHERS]}


@pytest.mark.parametrize("name", WITH_TEXTS)
def test_every_text_has_llama_cpp_s_ids(name):
    encode = load_encoder(file_of(name))
    for text, ids in texts_and_ids(name):
        assert encode([text])[0].tolist() == ids, text


@pytest.mark.parametrize("name", WITH_TEXTS[1:])
def test_the_tokens_of_every_text_spell_it(name):
    vocabulary = vocabulary_of(name)
    for text, ids in texts_and_ids(name):
        written = b"".join(vocabulary[i] for i in ids).decode()
        assert written in (text, " " + text)


def test_the_tokens_of_bert_spell_words_in_lower_case():
    vocabulary = vocabulary_of("bert-bge")
    for text, ids in texts_and_ids("bert-bge"):
        if text.isascii():
            written = b"".join(vocabulary[i] for i in ids).decode()
            assert written.replace(" ", "") == "".join(text.lower().split())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("aquila", r"no tokenizer\.ggml\.pre"),
        ("gpt-neox", r"no tokenizer\.ggml\.pre"),
        ("nomic-bert-moe", "of model 't5'"),
    ],
)
def test_what_cannot_be_encoded_is_refused_and_read(name, reason):
    with pytest.raises(VocabularyError, match=reason):
        load_encoder(file_of(name))
    assert vocabulary_of(name).kind_counts["text"] > 40_000


def test_a_text_comes_back_from_baichuan():
    (ids,) = load_encoder(file_of("baichuan"))(["Hello, world! Привет, мир 3 33 333"])
    written = b"".join(vocabulary_of("baichuan")[i] for i in ids).decode()
    assert written == " Hello, world! Привет, мир 3 33 333"
