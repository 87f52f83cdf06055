"""Hugging Face model folders: which file is read, and the added tokens beside it."""

import json
import os
from pathlib import Path

import pytest
import tiny_tokenizers as tiny
from command_line import refused
from tiny_tokenizers import entries

from pm_mined import Kind, Vocabulary, VocabularyError, build_map, load_map, load_vocabulary


def write_folder(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(data)
    return folder


def test_tokenizer_json_comes_first(tmp_path):
    document = tiny.bpe_document({"only": 0})
    model = tiny.sentencepiece_model()
    write_folder(tmp_path, {"tokenizer.json": document, "tokenizer.model": model})
    assert entries(load_vocabulary(tmp_path)) == [(b"only", "text")]


def test_a_folders_vocabulary_has_its_name_and_no_folder_of_the_machine(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    write_folder(folder, {"tokenizer.json": tiny.bpe_document({"a": 0})})
    vocabulary = load_vocabulary(f"{folder}/")
    assert (vocabulary.name, vocabulary.source) == ("my-model", "folder:my-model")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.model", tiny.sentencepiece_model()),
        ("tokenizer.model", tiny.rank_file([b"a", b"b"])),
        ("spiece.model", tiny.sentencepiece_model()),
        ("qwen.tiktoken", tiny.rank_file([b"a", b"b"])),
        ("tekken.json", tiny.tekken_document()),
    ],
)
def test_a_folder_with_only_one_tokenizer_file_reads_like_that_file(tmp_path, name, content):
    write_folder(tmp_path, {name: content})
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.fingerprint == load_vocabulary(tmp_path / name).fingerprint


def test_tokenizer_config_adds_its_tokens_and_leaves_the_models_as_they_are(tmp_path):
    added = {
        "1": {"content": "<s>", "special": True},
        "5": {"content": "▁▁", "special": False},  # the model's own, a double space
        "10": {"content": "▁word", "special": False},
        "12": {"content": "<|im_end|>", "special": True},
        "13": {"content": "<unused7>", "special": False},
    }
    config = {"added_tokens_decoder": added}
    model = tiny.sentencepiece_model()
    write_folder(tmp_path, {"tokenizer.model": model, "tokenizer_config.json": config})
    assert entries(load_vocabulary(tmp_path)) == [
        *entries(load_vocabulary(tmp_path / "tokenizer.model")),
        ("▁word".encode(), "text"),
        (b"<|im_end|>", "special"),  # the library counts on, though the folder says 12
        (b"<unused7>", "unused"),
    ]


def test_added_tokens_json_adds_its_tokens(tmp_path):
    special_tokens_map = {
        "eos_token": {"content": "<|end|>"},
        "additional_special_tokens": ["<more>"],
    }
    files = {
        "tokenizer.model": tiny.rank_file([b"a"]),
        "added_tokens.json": {"<|end|>": 1, "<tool>": 2, "<more>": 3},
        "special_tokens_map.json": special_tokens_map,
    }
    assert entries(load_vocabulary(write_folder(tmp_path, files))) == [
        (b"a", "text"),
        (b"<|end|>", "special"),
        (b"<tool>", "text"),
        (b"<more>", "special"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"\xff"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer_config.json", []),
        ("tokenizer_config.json", {"added_tokens_decoder": 5}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": 5}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {"special": True}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"²": {"content": "a"}}}),
        ("tokenizer_config.json", {"eos_token": 5}),
        ("tokenizer_config.json", {"extra_special_tokens": "<x>"}),
        ("tokenizer_config.json", {"additional_special_tokens": [5]}),
        ("tokenizer_config.json", {"chat_template": 5}),
        ("generation_config.json", {"eos_token_id": "x"}),
        ("generation_config.json", {"eos_token_id": [1, True]}),
        ("config.json", b"null"),
        ("chat_template.jinja", b"\xff"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a", "special": 1}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"-1": {"content": "", "special": 0}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": 5, "special": 0}}}),
        ("added_tokens.json", {"a": "x"}),
        ("added_tokens.json", {"a": None}),
        ("added_tokens.json", {"a": -1}),
        ("added_tokens.json", {"a": 10**12}),
        ("added_tokens.json", {"a": 1.5}),
        ("added_tokens.json", {"a": float("inf")}),
        ("added_tokens.json", {"\ud800": 20}),
        ("added_tokens.json", [1]),
        ("special_tokens_map.json", {"eos_token": {"content": ["</s>"]}}),
        ("special_tokens_map.json", {"eos_token": {}}),
    ],
)
def test_damaged_added_tokens_are_refused_naming_the_folder(tmp_path, name, content):
    write_folder(tmp_path, {"tokenizer.model": tiny.sentencepiece_model(), name: content})
    with pytest.raises(VocabularyError) as refused:
        load_vocabulary(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path}: {name}: ")
    assert len(str(refused.value).splitlines()) == 1


def test_a_folder_without_a_tokenizer_is_refused_naming_what_was_looked_for(tmp_path):
    write_folder(tmp_path, {"model.safetensors": b"x"})
    with pytest.raises(VocabularyError, match=r"with no tokenizer.*tokenizer\.json") as refused:
        load_vocabulary(tmp_path)
    assert str(refused.value).startswith(str(tmp_path))


def test_a_model_whose_ids_are_shifted_is_refused(tmp_path):
    """XLM-R, mBART and NLLB put four tokens in front of those of this file."""
    write_folder(tmp_path, {"sentencepiece.bpe.model": tiny.sentencepiece_model()})
    with pytest.raises(VocabularyError, match="whose ids its models shift"):
        load_vocabulary(tmp_path)


def test_a_pipe_beside_the_tokenizer_is_not_waited_for(tmp_path):
    write_folder(tmp_path, {"tokenizer.model": tiny.sentencepiece_model()})
    os.mkfifo(tmp_path / "tokenizer_config.json")
    with pytest.raises(VocabularyError, match=r"tokenizer_config\.json: not a regular file"):
        load_vocabulary(tmp_path)


def test_a_file_that_every_model_has_is_called_after_its_folder(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    write_folder(folder, {"tokenizer.json": tiny.bpe_document({"a": 0})})
    vocabulary = load_vocabulary(folder / "tokenizer.json")
    assert (vocabulary.name, vocabulary.source) == ("my-model", "file:tokenizer.json")


def test_added_tokens_are_known_and_no_part_of_the_fingerprint(tmp_path):
    document = tiny.bpe_document({"a": 0}, added_tokens=[tiny.added(1, "<|x|>", special=False)])
    folder = write_folder(tmp_path, {"tokenizer.json": document})
    vocabulary = load_vocabulary(folder)
    assert vocabulary.added == {1}
    bare = Vocabulary.from_tokens([b"a", b"<|x|>"], [Kind.TEXT] * 2, roles={1: "eos"})
    assert (bare.added, bare.roles) == (frozenset(), {1: "eos"})
    assert bare.fingerprint == vocabulary.fingerprint


def test_names_that_are_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    write_folder(folder, {"tokenizer.json": tiny.bpe_document({"a": 0})})
    (folder / os.fsdecode(b"x\xfe.tiktoken")).write_bytes(b"")
    vocabulary = load_vocabulary(folder)
    assert (vocabulary.name, vocabulary.source) == (r"m\udcff", r"folder:m\udcff")
    build_map(folder, folder).save(tmp_path / "map.arrow")
    assert load_map(tmp_path / "map.arrow").info.src.name == r"m\udcff"
    file = folder / os.fsdecode(b"t\xff.json")
    file.write_bytes((folder / "tokenizer.json").read_bytes())
    assert load_vocabulary(file).source == r"file:t\udcff.json"
    assert refused("vocab", "info", str(tmp_path / os.fsdecode(b"no\xff"))).isprintable()
