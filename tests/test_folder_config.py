"""Folders are as transformers' AutoTokenizer has them: which tokens, which special, and roles."""

from pathlib import Path

import pytest
import tiny_tokenizers as tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_model_folders import write_folder

from pm_mined import Kind, load_encoder, load_vocabulary

transformers = pytest.importorskip("transformers")

MODEL = {"a": 0, "b": 1, "Ġa": 2, "<s>": 3}
LITERALS = ["<s>", "<|im_end|>", "<|x|>", "<tool>", "word", "b"]


def byte_level(added: list[tuple[str, bool]] = ()) -> dict[str, object]:
    """A tokenizer.json whose added tokens are numbered as the library numbers them."""
    entries, ids = [], dict(MODEL)
    for literal, special in added:
        token_id = ids.setdefault(literal, len(ids))
        entries.append(tiny.added(token_id, literal, special=special))
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return tiny.bpe_document(MODEL, added_tokens=entries, pre_tokenizer=letters, decoder=letters)


def decoder_of(added: list[tuple[str, bool]], first_id: int) -> dict[str, object]:
    return {
        str(i): {"content": literal, "special": special, "normalized": False}
        for i, (literal, special) in enumerate(added, first_id)
    }


def as_autotokenizer(folder: Path) -> list[tuple[str, bool]]:
    """(token, special) of each id; the token as the library has it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    added = tokenizer.added_tokens_decoder
    named = set(tokenizer.all_special_tokens)
    by_id = {i: token for token, i in tokenizer.get_vocab().items()}
    return [
        (by_id[i], i in added and (added[i].special or by_id[i] in named))
        for i in range(max(by_id) + 1)
    ]


def as_read(folder: Path) -> list[tuple[str, bool]]:
    vocabulary = load_vocabulary(folder)
    return [
        (vocabulary[i].decode().replace(" ", "Ġ"), vocabulary.kind(i) is Kind.SPECIAL)
        for i in range(len(vocabulary))
    ]


def check(folder: Path) -> None:
    assert as_read(folder) == as_autotokenizer(folder)


CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
ENTRY = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
OBJECT = {"__type": "AddedToken", "content": "<|im_end|>", **ENTRY, "special": False}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": CLASS},
        {"tokenizer_config.json": {**CLASS, "eos_token": "<|im_end|>"}},
        {"tokenizer_config.json": {**CLASS, "eos_token": OBJECT, "bos_token": None}},
        {"tokenizer_config.json": {**CLASS, "unk_token": "<s>", "image_token": "<img>"}},
        {"tokenizer_config.json": {**CLASS, "additional_special_tokens": ["<1>", "<tool>"]}},
        {"tokenizer_config.json": {**CLASS, "extra_special_tokens": {"boi": "<1>"}}},
        {
            "tokenizer_config.json": {
                **CLASS,
                "additional_special_tokens": ["<1>"],
                "extra_special_tokens": ["<2>"],
            }
        },
        {
            "tokenizer_config.json": {
                **CLASS,
                "added_tokens_decoder": {
                    "99": {"content": "<late>", **ENTRY, "special": True},
                    "7": {"content": "<tool>", **ENTRY, "special": True},
                    "8": {"content": "<text>", **ENTRY, "special": False},
                },
                "pad_token": "<text>",
            },
            "special_tokens_map.json": {"eos_token": "<not read>"},
        },
        {
            "tokenizer_config.json": CLASS,
            "special_tokens_map.json": {"eos_token": {"content": "<tool>", **ENTRY}},
        },
        {
            "tokenizer_config.json": {**CLASS, "eos_token": "<1>"},
            "special_tokens_map.json": {"eos_token": "<2>", "extra_special_tokens": ["<3>"]},
            "added_tokens.json": {"<3>": 7, "<4>": 8},
        },
    ],
)
def test_a_folder_with_tokenizer_json(files, tmp_path):
    document = byte_level([("<|x|>", True), ("<tool>", False)])
    check(write_folder(tmp_path, {"tokenizer.json": document, **files}))


NAMED = st.sampled_from(["eos_token", "bos_token", "unk_token", "pad_token", "image_token"])
ADDED = st.lists(
    st.tuples(st.sampled_from(LITERALS), st.booleans()), max_size=4, unique_by=lambda one: one[0]
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    in_file=ADDED,
    in_decoder=st.none() | ADDED,
    first_id=st.integers(0, 9),
    named=st.dictionaries(NAMED, st.sampled_from(LITERALS), max_size=3),
    extra=st.lists(st.sampled_from(LITERALS), max_size=2, unique=True),
    in_map=st.dictionaries(NAMED, st.sampled_from(LITERALS), max_size=2),
)
def test_random_folders(in_file, in_decoder, first_id, named, extra, in_map, tmp_path_factory):
    config = {**CLASS, **named, "extra_special_tokens": extra}
    if in_decoder is not None:
        config["added_tokens_decoder"] = decoder_of(in_decoder, first_id)
    files = {"tokenizer.json": byte_level(in_file), "tokenizer_config.json": config}
    folder = write_folder(
        tmp_path_factory.mktemp("folder"), {**files, "special_tokens_map.json": in_map}
    )
    check(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert load_vocabulary(tokenizer).fingerprint == load_vocabulary(folder).fingerprint
    text = "a<|im_end|> word<tool>ab"
    ours = load_encoder(folder)([text])[0].tolist()
    assert ours == load_encoder(tokenizer)([text])[0].tolist()
    flagged = {one.content for one in tokenizer.added_tokens_decoder.values() if one.special}
    lowered = {one for one, special in in_file if special} - flagged  # special to the library once
    if flagged >= set(tokenizer.all_special_tokens) and not lowered:  # else it finds those, too
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ours == ids


LLAMA = {"tokenizer_class": "LlamaTokenizer", "legacy": False}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": LLAMA},
        {"tokenizer_config.json": {**LLAMA, "pad_token": "<pad>", "eos_token": "<|im_end|>"}},
        {
            "tokenizer_config.json": {
                **LLAMA,
                "added_tokens_decoder": {
                    "1": {"content": "<s>", "special": True},
                    "700": {"content": "<|im_end|>", "special": True},
                    "705": {"content": "<tool>", "special": False, "normalized": False},
                },
                "eos_token": "<|im_end|>",
            }
        },
        {
            "tokenizer_config.json": LLAMA,
            "added_tokens.json": {"<tool>": 600, "<pad>": 601},
            "special_tokens_map.json": {"pad_token": "<pad>"},
        },
    ],
)
def test_a_folder_with_a_sentencepiece_model(files, tmp_path):
    model = tiny.trained_sentencepiece(tmp_path, vocab_size=600, model_type="bpe")
    model.rename(tmp_path / "tokenizer.model")
    folder = write_folder(tmp_path, files)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    vocabulary = load_vocabulary(folder)
    assert load_vocabulary(tokenizer).fingerprint == vocabulary.fingerprint
    assert load_vocabulary(tokenizer).roles == vocabulary.roles
    text = "the quick<tool>brown fox"
    ids = load_encoder(folder)([text])[0].tolist()
    assert ids == tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_many_tokens_take_no_time(name, tmp_path):
    content = byte_level() if name == "tokenizer.json" else tiny.sentencepiece_model()
    literals = [f"<{i}>" for i in range(20_000)]
    decoder = {str(i): {"content": one, "special": False} for i, one in enumerate(literals, 10)}
    config = {"added_tokens_decoder": decoder, "extra_special_tokens": literals[::-1]}
    folder = write_folder(tmp_path, {name: content, "tokenizer_config.json": config})
    with tiny.time_limit(10):
        vocabulary = load_vocabulary(folder)
    assert {vocabulary[i] for i in vocabulary.ids_of_kind(3)} >= {b"<0>", b"<19999>"}
