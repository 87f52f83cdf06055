"""Tokens of GGUF files, as llama.cpp writes them, and the special ones, by type and by id."""

import pytest
from tiny_tokenizers import (
    BYTE,
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    entries,
    time_limit,
    write_gguf,
)

from pm_mined import Vocabulary, VocabularyError, load_vocabulary
from pm_mined.build import build_map
from pm_mined.kernels.tokens import Kind

TURNS = ["<pad>", "<eos>", "<bos>", "<unk>", "▁a", "a", "<start_of_turn>", "<end_of_turn>"]


def gguf_vocabulary(folder, model, tokens, types=None, **fields) -> Vocabulary:
    return load_vocabulary(write_gguf(folder / "x.gguf", model, tokens, types, **fields))


def specials(vocabulary) -> dict[int, str | None]:
    return {i: vocabulary.roles.get(i) for i in vocabulary.ids_of_kind(Kind.SPECIAL)}


def test_a_token_named_by_its_id_is_special(tmp_path):
    types = [CONTROL] * 3 + [NORMAL] * 5
    vocabulary = gguf_vocabulary(tmp_path, "llama", TURNS, types, eos_token_id=7, bos_token_id=2)
    assert specials(vocabulary) == {0: None, 1: None, 2: "bos", 7: "eos"}
    qwen = Vocabulary.from_tokens([b"<", b"<|im_end|>"], [Kind.TEXT, Kind.SPECIAL])
    assert build_map(vocabulary, qwen).dst_id[7] == 1


def test_the_first_of_several_names_is_the_role(tmp_path):
    named = {"bos_token_id": 0, "eos_token_id": 0, "unknown_token_id": 0, "eot_token_id": 1}
    vocabulary = gguf_vocabulary(tmp_path, "gpt2", ["<|o|>", "<|x|>", "b"], **named)
    assert specials(vocabulary) == {0: "eos", 1: "end_of_turn"}
    assert vocabulary.added == {0, 1}


@pytest.mark.parametrize("token_id", [2**32 - 1, 8, 300_000])
def test_an_id_that_no_token_has_names_none(tmp_path, token_id):
    vocabulary = gguf_vocabulary(tmp_path, "llama", TURNS, eos_token_id=token_id)
    assert vocabulary.roles == {}


@pytest.mark.parametrize("token_id", ["7", True, [7]])
def test_a_name_that_is_no_id_is_refused(tmp_path, token_id):
    with pytest.raises(VocabularyError, match=r"tokenizer\.ggml\.eos_token_id is "):
        gguf_vocabulary(tmp_path, "llama", TURNS, eos_token_id=token_id)


def test_ordinary_text_that_pads_stays_text(tmp_path):
    named = {"padding_token_id": 0, "unknown_token_id": 1}
    vocabulary = gguf_vocabulary(tmp_path, "gpt2", ["!", "<unk>", "Ġa"], **named)
    assert entries(vocabulary) == [(b"!", "text"), (b"<unk>", "special"), (b" a", "text")]
    assert vocabulary.roles == {1: "unk"}


def test_the_chat_template_shows_what_begins_and_ends_a_turn(tmp_path):
    tokens, types = ["<turn:", ":turn>", "<s>", "a"], [CONTROL, CONTROL, CONTROL, NORMAL]
    named = {"eos_token_id": 1, "bos_token_id": 2}
    assert gguf_vocabulary(tmp_path, "gpt2", tokens, types, **named).roles == {1: "eos", 2: "bos"}
    template = "{% for m in messages %}{{ '<turn:' + m['role'] + m['content'] + ':turn>' }}"
    vocabulary = gguf_vocabulary(tmp_path, "gpt2", tokens, types, chat_template=template, **named)
    assert vocabulary.roles == {0: "start_of_turn", 1: "end_of_turn", 2: "bos"}


@pytest.mark.parametrize("between", [" ", "a", "}}", "' + "])
def test_a_hostile_chat_template_is_searched_soon(tmp_path, between):
    template = "<q>" + between * 200_000 + "<q>"
    with time_limit(20):
        gguf_vocabulary(tmp_path, "gpt2", ["<q>", "a"], [CONTROL] * 2, chat_template=template)
    tokens = [f"<q{i}>" for i in range(10_000)]
    with time_limit(20):
        gguf_vocabulary(tmp_path, "gpt2", tokens, [CONTROL] * len(tokens), chat_template=template)


def test_a_token_that_is_not_used_has_no_role(tmp_path):
    types = [NORMAL, UNUSED, CONTROL]
    tokens = ["a", "[PAD1]", "<unused0>"]
    named = {"mask_token_id": 1, "bos_token_id": 2}
    vocabulary = gguf_vocabulary(tmp_path, "t5", tokens, types, **named)
    assert vocabulary.roles == {}
    assert vocabulary.kind_counts["unused"] == 2


def test_gemma_4_writes_as_sentencepiece_does(tmp_path):
    tokens = ["<bos>", "▁a", "a▁▁b", "<0x0A>", "<|turn>", '<|"|>']
    types = [CONTROL, NORMAL, NORMAL, BYTE, CONTROL, USER_DEFINED]
    expected = [(b"<bos>", "special"), (b" a", "text"), (b"a  b", "text"), (b"\n", "byte")]
    expected += [(b"<|turn>", "special"), (b'<|"|>', "text")]
    assert entries(gguf_vocabulary(tmp_path, "gemma4", tokens, types)) == expected
    by_name = gguf_vocabulary(tmp_path, "gpt2", tokens, types, pre="granite-embed-multi-311m")
    assert entries(by_name) == expected


def test_rwkv_writes_as_python_does(tmp_path):
    raw = [b"\x00", b"\xff", b"\n", b"\r\n\t", b"\\n", b"it's", "é▁".encode(), b"a b", b"\"'"]
    tokens = ["<s>", *(repr(token)[2:-1] for token in raw), "[PAD10]"]
    types = [CONTROL, *[NORMAL] * len(raw), UNUSED]
    vocabulary = gguf_vocabulary(tmp_path, "rwkv", tokens, types)
    assert [vocabulary[i] for i in range(11)] == [b"<s>", *raw, b"[PAD10]"]
    assert vocabulary.kind(2) == Kind.FRAGMENT


def test_plamo_2_writes_its_tokens_as_they_are(tmp_path):
    tokens, types = ["<|plamo:bos|>", "Ġ▁a", "<0xE3>", "▁"], [CONTROL, NORMAL, BYTE, USER_DEFINED]
    vocabulary = gguf_vocabulary(tmp_path, "plamo2", tokens, types)
    assert [vocabulary[i] for i in range(4)] == [
        b"<|plamo:bos|>",
        "Ġ▁a".encode(),
        b"\xe3",
        "▁".encode(),
    ]


def test_a_file_is_read_once_for_its_vocabulary_and_its_encoder(tmp_path, monkeypatch):
    from pm_mined.tokenizer.encoders.load import load_encoder
    from pm_mined.tokenizer.readers import gguf

    path = write_gguf(
        tmp_path / "x.gguf", "llama", TURNS, [3, 3, 3, 2, 1, 1, 1, 1], scores=[0.0] * 8
    )
    read = []
    real = gguf.read_header
    monkeypatch.setattr(gguf, "read_header", lambda *given: read.append(given) or real(*given))
    load_vocabulary(path)
    load_encoder(path)
    assert len(read) == 1
    write_gguf(path, "llama", ["a"], [1])
    assert len(load_vocabulary(path)) == 1
