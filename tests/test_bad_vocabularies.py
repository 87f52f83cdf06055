"""Damaged, foreign and hostile files: one clear line each, never another exception."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_tokenizers as tiny
from tiny_tokenizers import error_of

from pm_mined import VocabularyError, load_vocabulary

BPE = tiny.bpe_document({"a": 0, "Ġb": 1})
RANKS = tiny.rank_file([b"a", b" b", b"ab"])


def refusal(path: Path, content: object = None) -> str:
    """The message for a person, after the name of the file."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    text = error_of(path)
    assert text is not None, "not refused"
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return text.removeprefix(f"{path}: ")


# --- no tokenizer at all ---


@pytest.mark.parametrize("name", ["tokenizer.json", "deep/er/tokenizer.model", "x.gguf", "a/b/c"])
def test_a_path_that_does_not_exist(tmp_path, name):
    assert refusal(tmp_path / name) == "no such file or folder"


@pytest.mark.parametrize("path", ["./nothing", "../nothing", "folder/tokenizer.json"])
def test_a_relative_path_that_does_not_exist_is_no_hub_repository(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VocabularyError, match="no such file or folder"):
        load_vocabulary(path)


def test_a_name_longer_than_a_file_system_allows():
    with pytest.raises(VocabularyError):
        load_vocabulary("x" * 5000)


@pytest.mark.parametrize(
    ("name", "near"), [("lama", "llama"), ("qwen9", "qwen"), ("Mistral", "mistral")]
)
def test_an_unknown_name_is_told_the_nearest(name, near):
    with pytest.raises(VocabularyError, match=rf"^{name}: .*did you mean .*{near}.*vocab list"):
        load_vocabulary(name)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tekken.json", "x.gguf"])
def test_an_empty_file(tmp_path, name):
    assert "the file is empty" in refusal(tmp_path / name, b"")


@pytest.mark.parametrize("head", [b"", b"{", b"\n", b"YQ== 0\n"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_two_gigabytes_of_zeros_are_refused_at_once(tmp_path, name, head):
    path = tmp_path / name
    path.write_bytes(head)
    os.truncate(path, 2**31)
    start = time.process_time()
    assert "expected" in refusal(path)
    assert time.process_time() - start < 0.5


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    path = tmp_path / "pipe.json"
    os.mkfifo(path)
    code = "import sys, pm_mined; pm_mined.load_vocabulary(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=10
    )
    assert f"VocabularyError: {path}: " in done.stderr


def test_a_device_is_refused():
    refusal(Path(os.devnull))


# --- JSON ---


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(BPE).encode()[:-3],
        b"{not json}",
        b'{"model": "\xff"}',
        b"{" + b"\0" * 100,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": {"vocab": {"a": ' + b"9" * 5000 + b"}}}",
    ],
    ids=["truncated", "not-json", "not-utf8", "zeros", "deep-list", "deep-object", "long-number"],
)
def test_broken_json(tmp_path, content):
    assert "not JSON, or cut off" in refusal(tmp_path / "tokenizer.json", content)


@pytest.mark.parametrize(
    "document", [[], [1], {}, {"model": 1}, {"model": "a"}, {"vocab": []}, {"a\nb": 1}]
)
def test_json_of_something_else(tmp_path, document):
    assert "JSON, but not a tokenizer" in refusal(tmp_path / "tokenizer.json", document)


def test_unsupported_models_and_decoders_are_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    assert "'Char\\nModel' is not supported" in refusal(path, {"model": {"type": "Char\nModel"}})
    for decoder in ({"type": "Rot13"}, {"type": "Sequence", "decoders": [{"type": "Rot13"}]}):
        assert "'Rot13' is not supported" in refusal(path, {**BPE, "decoder": decoder})
    greedy = {"type": "Replace", "pattern": {"Regex": ".+"}, "content": "b"}
    late = {"type": "Sequence", "decoders": [{"type": "Fuse"}, greedy]}
    assert "changes what stands beside a token" in refusal(path, {**BPE, "decoder": late})


def test_tokens_whose_written_form_the_file_does_not_tell_are_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    clip = {"type": "BPE", "vocab": {"the</w>": 0}, "merges": [], "end_of_word_suffix": "</w>"}
    document = {**BPE, "model": clip, "decoder": {"type": "ByteLevel"}}
    assert "marks tokens by '</w>', which the decoder leaves" in refusal(path, document)
    bert = {"type": "BPE", "vocab": {"##s": 0}, "merges": [], "continuing_subword_prefix": "##"}
    assert "marks tokens by '##', which the decoder leaves" in refusal(path, {"model": bert})


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("pre_tokenizer", {"type": "ByteLevel"}),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "Metaspace"}]}),
        ("normalizer", {"type": "ByteLevel"}),
        ("normalizer", {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
    ],
)
def test_letters_that_only_a_decoder_undoes_need_a_decoder(tmp_path, name, step):
    said = refusal(tmp_path / "tokenizer.json", {**BPE, "decoder": None, name: step})
    assert f"no decoder, though the {name}" in said


def test_two_added_tokens_of_one_id_are_refused(tmp_path):
    added = [tiny.added(1, "<a>", special=True), tiny.added(1, "<b>", special=True)]
    said = refusal(tmp_path / "tokenizer.json", {**BPE, "added_tokens": added})
    assert "added tokens '<a>' and '<b>' share id 1" in said


WRONG_IDS = [1.0, 1.5, True, "1", -1, 10**12, 10**30, None, [1], float("inf"), float("nan")]


@pytest.mark.parametrize("token_id", WRONG_IDS, ids=str)
def test_ids_that_are_no_ids(tmp_path, token_id):
    path = tmp_path / "tokenizer.json"
    refusal(path, tiny.bpe_document({"a": 0, "b": token_id}))
    refusal(path, {**BPE, "added_tokens": [{"id": token_id, "content": "x", "special": True}]})


@pytest.mark.parametrize("decoder", [None, {"type": "ByteLevel"}])
def test_lone_surrogates_are_no_text(tmp_path, decoder):
    path, token = tmp_path / "tokenizer.json", "b\ud800"
    assert "lone surrogate" in refusal(path, tiny.bpe_document({token: 0}, decoder=decoder))
    added = [{"id": 5, "content": token, "special": True}]
    assert "lone surrogate" in refusal(path, {**BPE, "decoder": decoder, "added_tokens": added})


def test_two_tokens_with_one_id_are_both_named(tmp_path):
    text = refusal(tmp_path / "tokenizer.json", tiny.bpe_document({"a": 0, "b": 0}))
    assert "'a' and 'b' share id 0" in text


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"config": {}}, "default_vocab_size"),
        ({"config": {"default_vocab_size": 3}}, "default_num_special_tokens"),
        ({"vocab": []}, "rank 0 is missing"),
        ({"vocab": tiny.tekken_document()["vocab"][:2]}, "rank 2 is missing"),
        ({"vocab": tiny.tekken_document()["vocab"] * 2}, "rank 0 stands twice"),
        ({"vocab": [{"rank": 0}]}, "token_bytes"),
        ({"vocab": [{"rank": 0, "token_bytes": "Y"}]}, "base64"),
        ({"vocab": [{"rank": "0", "token_bytes": "YQ=="}]}, "rank '0' is no integer"),
        ({"vocab": [{"rank": True, "token_bytes": "YQ=="}]}, "rank True is no integer"),
        ({"special_tokens": [{"rank": True, "token_str": "x"}]}, "rank True is no integer"),
        ({"special_tokens": [{"rank": 0}]}, "token_str"),
        ({"special_tokens": [{"rank": 3, "token_str": "x"}]}, "rank 3"),
        ({"special_tokens": [{"rank": -1, "token_str": "x"}]}, "rank -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_tekken_files_say_what_is_wrong(tmp_path, change, found):
    text = refusal(tmp_path / "tekken.json", {**tiny.tekken_document(), **change})
    assert "damaged tekken.json" in text
    assert found in text


# --- rank files, SentencePiece, GGUF ---


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (RANKS + b"Y 3\n", "line 4: the token is not base64"),
        (RANKS + b"Y\xff== 3\n", "line 4: the token is not base64"),
        (RANKS + b"YQ== 1\n", "line 4: rank 1 is also on line 2"),
        (RANKS + b"YQ== -1\n", "line 4: "),
        (RANKS + b"YQ==\n", "line 4: "),
        (RANKS + b"YQ== 3 4\n", "line 4: "),
        (RANKS + b"YQ== x\n", "line 4: "),
        (b"YQ== 0 1\n" + RANKS, "line 1: "),
        (RANKS + b"YQ== 1000000000000\n", "1000000000000"),
        (RANKS + b"YQ== " + b"9" * 5000 + b"\n", "line 4: "),
        (RANKS + b"\nYQ== 3\n", "line 4: '': expected"),
    ],
)
def test_damaged_rank_files_say_which_line(tmp_path, content, found):
    assert found in refusal(tmp_path / "tokenizer.model", content)


def test_a_sentencepiece_model_cut_off_anywhere_is_refused(tmp_path):
    whole = tiny.sentencepiece_model()
    for length in range(1, len(whole)):
        refusal(tmp_path / "cut.model", whole[:length])


def test_a_gguf_file_cut_off_before_its_weights_is_refused(tmp_path):
    path, whole = tmp_path / "cut.gguf", tiny.gguf_bytes(tmp_path)
    weights = whole.index(b"weight") - 8
    for length in range(1, weights):
        assert length < 4 or "download it again" in refusal(path, whole[:length])
    cut, complete = (tiny.read(path, content) for content in (whole[:weights], whole))
    assert cut.fingerprint == complete.fingerprint


@pytest.mark.parametrize(
    "content",
    [b"\n\x03abc", b"\n\x00", b"\n" + bytes(range(256)), b"\x08\x96\x01", b"\x00" * 50],
)
def test_a_wrong_protobuf_is_refused(tmp_path, content):
    refusal(tmp_path / "tokenizer.model", content)


def test_pieces_that_are_not_utf8_are_refused(tmp_path):
    whole = tiny.sentencepiece_model()
    assert whole.count("▁the".encode()) == 1
    refusal(tmp_path / "x.model", whole.replace("▁the".encode(), b"\xff\xfe\xfdthe"))


def test_a_byte_piece_must_name_a_byte(tmp_path):
    for piece in ("<0xZZ>", "<0x1>", "0x0A", "", "<0x 1>"):
        model = tiny.sentencepiece_model([(piece, tiny.BYTE)])
        assert "marked as a byte" in refusal(tmp_path / "x.model", model)


def test_gguf_files_without_a_known_tokenizer_are_refused(tmp_path):
    path = tmp_path / "x.gguf"
    assert "without a tokenizer" in refusal(tiny.write_gguf(path, None))
    assert "'replit' is not supported" in refusal(tiny.write_gguf(path, "replit", ["a"]))
    assert "no tokenizer.ggml.tokens" in refusal(tiny.write_gguf(path, "none"))
    assert "not one token type for 2 tokens" in refusal(
        tiny.write_gguf(path, "llama", ["a", "b"], [1])
    )
    assert "type 9" in refusal(tiny.write_gguf(path, "llama", ["a"], [9]))
    assert "type 9" in refusal(tiny.write_gguf(path, "gpt2", ["a"], [9]))


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("tokens", "types"), [(3, None), ([1, 2], None), ("ab", None), (["a"], 1), (["a"], [1.5])]
)
def test_gguf_fields_of_the_wrong_type_are_refused(tmp_path, model, tokens, types):
    refusal(tiny.write_gguf(tmp_path / "x.gguf", model, tokens, types))


def test_a_gguf_list_too_long_to_be_read_is_refused(tmp_path):
    path = tiny.write_gguf(tmp_path / "x.gguf", "llama", ["a"])
    content = bytearray(path.read_bytes())
    key = b"tokenizer.ggml.tokens"
    count = content.index(key) + len(key) + 8  # after the types of the list and of its entries
    content[count : count + 8] = (2**22).to_bytes(8, "little")
    with path.open("wb") as file:
        file.write(content)
        file.truncate(2**31)  # room for all of them, empty
    with tiny.time_limit(5):
        assert "a list of more than 2097152 entries" in refusal(path)
