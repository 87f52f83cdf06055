"""WordPiece `vocab.txt`, and `vocab.json` with `merges.txt`: as AutoTokenizer reads folders."""

import json

import pytest
import tiny_tokenizers as tiny
from command_line import refused
from test_model_folders import write_folder
from texts import ODDITIES, PROSE

from pm_mined import Kind, VocabularyError, load_encoder, load_vocabulary

transformers = pytest.importorskip("transformers")

TEXTS = [*tiny.TEXT, PROSE, ODDITIES, " a", "a ", "", "the [MASK] and <mask>, <tool> it"]


def check_ids(folder, texts=TEXTS):
    """Our encoder and AutoTokenizer agree, with special tokens as letters."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    how = {"add_special_tokens": False, "split_special_tokens": True}
    expected = [tokenizer(text, **how).input_ids for text in texts]
    assert [ids.tolist() for ids in load_encoder(folder)(texts)] == expected


def word_piece_lines(*more):
    vocab = tiny.word_piece(more=more).get_vocab()
    return "".join(f"{token}\n" for token in sorted(vocab, key=vocab.get)).encode()


def word_piece_folder(folder, lines, **config):
    config = {"tokenizer_class": "BertTokenizer", **config}
    return write_folder(folder, {"vocab.txt": lines, "tokenizer_config.json": config})


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"do_lower_case": False},
        {"strip_accents": False, "tokenize_chinese_chars": False},
        {"unk_token": "[CLS]", "pad_token": "<pad>"},
        {"added_tokens_decoder": {"150": {"content": "<tool>", "special": False}}},
        {"tokenizer_class": "DistilBertTokenizerFast", "additional_special_tokens": ["<x>"]},
    ],
)
def test_a_word_piece_folder(config, tmp_path):
    folder = word_piece_folder(tmp_path, word_piece_lines("[SEP]", "[PAD]", "[MASK]"), **config)
    check_ids(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    vocabulary = load_vocabulary(folder)
    assert load_vocabulary(tokenizer).fingerprint == vocabulary.fingerprint
    special = [vocabulary[i].decode() for i in vocabulary.ids_of_kind(Kind.SPECIAL)]
    assert sorted(special) == sorted(tokenizer.all_special_tokens)


def test_a_word_piece_file_alone_has_the_special_tokens_that_are_in_it(tmp_path):
    path = tmp_path / "words"
    path.write_bytes(b"[PAD]\n[UNK]\nthe\n##ing\n[unused7]\n")
    assert tiny.entries(load_vocabulary(path)) == [
        (b"[PAD]", "special"),
        (b"[UNK]", "special"),
        (b" the", "text"),
        (b"ing", "text"),
        (b" [unused7]", "text"),
    ]
    assert load_encoder(path)(["Theing"])[0].tolist() == [2, 3]
    path.write_bytes(b"[PAD]\r\n[UNK]\r\nthe\r\n##ing")
    assert len(load_vocabulary(path)) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"One line.\n[UNK]\n", "has a line [UNK], but no WordPiece token, which begins with ##"),
        (b"[UNK]\n##\xff\n", "a WordPiece vocabulary that is not UTF-8"),
        (b"the\n##ing\n", "not a tokenizer: the file begins with"),
        (b"# A page\n\n## Its part\n", "not a tokenizer: the file begins with"),
    ],
)
def test_other_text_files_are_refused(content, said, tmp_path):
    (tmp_path / "vocab.txt").write_bytes(content)
    message = refused("vocab", "info", "vocab.txt", cwd=tmp_path)
    assert message.startswith("vocab.txt: ")
    assert said in message


def test_a_word_piece_folder_of_another_class_is_refused(tmp_path):
    folder = word_piece_folder(tmp_path, word_piece_lines(), tokenizer_class="MPNetTokenizer")
    with pytest.raises(VocabularyError, match=r"vocab\.txt of a MPNetTokenizer, not of BERT's"):
        load_vocabulary(folder)


def byte_level_files():
    model = json.loads(tiny.byte_level_bpe().to_str())["model"]
    merges = "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in model["merges"])
    return {"vocab.json": model["vocab"], "merges.txt": merges.encode()}


@pytest.mark.parametrize(
    "config",
    [
        {"tokenizer_class": "GPT2Tokenizer"},
        {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True, "pad_token": "<pad>"},
        {"tokenizer_class": "RobertaTokenizer", "unk_token": "<|endoftext|>"},
        {"tokenizer_class": "BartTokenizer"},
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "added_tokens_decoder": {"400": {"content": "<tool>", "special": False}},
            "eos_token": "<|im_end|>",
        },
    ],
)
def test_a_folder_of_vocab_and_merges(config, tmp_path):
    folder = write_folder(tmp_path, {**byte_level_files(), "tokenizer_config.json": config})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert load_vocabulary(tokenizer).fingerprint == load_vocabulary(folder).fingerprint
    assert len(load_vocabulary(folder)) == len(tokenizer)
    check_ids(folder)


def test_the_class_is_told_by_the_model_too(tmp_path):
    config = {"model_type": "gpt2", "eos_token_id": 0}
    folder = write_folder(tmp_path, {**byte_level_files(), "config.json": config})
    assert load_vocabulary(folder).kind(0).name == "SPECIAL"
    check_ids(folder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer"}}, "of a CLIPTokenizer"),
        ({"tokenizer_config.json": {}}, "of no known class"),
        ({"merges.txt": b"a b c\n"}, "merges.txt: merge 1 is 'a b c'"),
        ({"merges.txt": b"\xff"}, "merges.txt: not UTF-8"),
        ({"vocab.json": {"a": "b"}}, "vocab.json: token 'a' has id 'b'"),
        ({"vocab.json": b"[]"}, "expected an object, found a list"),
        ({"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": 3}},
         "tokenizer_config.json: add_prefix_space is 3"),
    ],
)  # fmt: skip
def test_damaged_or_other_files_are_one_line(changed, said, tmp_path):
    config = {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}}
    write_folder(tmp_path, {**byte_level_files(), **config, **changed})
    message = refused("vocab", "info", ".", cwd=tmp_path)
    assert said in message


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"vocab.json": {"a": 0}}, "vocab.json, but without the merges.txt beside it"),
        ({"model.gguf": b"GGUF"}, "GGUF files; give the path of one, such as model.gguf"),
        (
            {"tokenization_x.py": b""},
            "a tokenizer in Python code of its own (tokenization_x.py), which is not run",
        ),
        ({"model.safetensors": b""}, "no tokenizer (looked for tokenizer.json, "),
    ],
)
def test_a_folder_that_cannot_be_read_says_what_it_has(files, said, tmp_path):
    message = refused("vocab", "info", str(write_folder(tmp_path, files)))
    assert message.startswith(f"{tmp_path}: a folder with {said}")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:9e55\nsize 499723\n"


@pytest.mark.parametrize("name", ["tokenizer.json", "x.gguf", "tokenizer.model", "vocab.txt"])
def test_a_git_lfs_pointer(name, tmp_path):
    (tmp_path / name).write_bytes(POINTER)
    message = refused("vocab", "info", name, cwd=tmp_path)
    assert message == f"{name}: a Git LFS pointer: run `git lfs pull` for the file itself"
