"""Every format with values and bytes changed: read, or refused in one line, and soon."""

import json
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pytest
import tiny_tokenizers as tiny
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import error_of

from pm_mined import VocabularyError, load_encoder

BPE = tiny.bpe_document({"a": 0, "Ġb": 1})
UNIGRAM = {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}}
RANKS = tiny.rank_file([b"a", b" b", b"ab"])


def assert_read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    error = error_of(path)
    assert error is None or error.startswith(f"{path}: ")
    assert error is None or len(error.splitlines()) == 1


NASTY = [
    None,
    True,
    -1,
    10**12,
    1.5,
    float("inf"),
    "",
    "a\nb",
    "\ud800",
    [],
    [[]],
    [0],
    {},
    {"": 0},
]


def _every_change(document: object):
    """The document with one node replaced or removed, for each node and each nasty value."""
    nodes = [(document, key) for key in _keys(document)]
    while nodes:
        parent, key = nodes.pop()
        kept = parent[key]
        for value in NASTY:
            parent[key] = value
            yield document
        if isinstance(parent, dict):
            del parent[key]
            yield document
        parent[key] = kept
        nodes += [(kept, inner) for inner in _keys(kept)]


def _keys(node: object) -> list:
    if isinstance(node, dict):
        return list(node)
    return list(range(len(node))) if isinstance(node, list) else []


@pytest.mark.parametrize(
    "document",
    [
        json.loads(tiny.metaspace_bpe().to_str()) | {"model": {**BPE["model"], "unk_token": "a"}},
        {**BPE, "decoder": {"type": "ByteLevel"}},
        {**BPE, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}},
        {**BPE, "decoder": {"type": "BPEDecoder", "suffix": "</w>"}},
        {**UNIGRAM, "decoder": {"type": "Metaspace", "replacement": "▁"}},
        tiny.tekken_document(),
    ],
    ids=["metaspace", "byte-level", "word-piece", "bpe-decoder", "unigram", "tekken"],
)
def test_every_wrong_value_in_a_json_file_is_read_or_refused(tmp_path, document):
    for changed in _every_change(deepcopy(document)):
        assert_read_or_refused(tmp_path / "x.json", json.dumps(changed).encode())


NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "ab"},
        {"type": "Prepend", "prepend": "x"},
    ],
}
SPLIT = {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": False}
WORD_PIECE = {
    "type": "WordPiece",
    "vocab": {"a": 0, "##b": 1, "[UNK]": 2},
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}


@pytest.mark.parametrize(
    "document",
    [
        {**BPE, "normalizer": NORMALIZER, "pre_tokenizer": SPLIT},
        {"model": WORD_PIECE, "pre_tokenizer": {"type": "BertPreTokenizer"}},
        pytest.param({**UNIGRAM, "normalizer": {"type": "NFC"}}, marks=pytest.mark.slow),
    ],
    ids=["bpe", "word-piece", "unigram"],
)
def test_every_wrong_value_in_a_tokenizer_encodes_or_is_refused(tmp_path, document):
    path = tmp_path / "x.json"
    for changed in _every_change(deepcopy(document)):
        path.write_text(json.dumps(changed))
        for inside in (False, True):
            with suppress(VocabularyError):
                load_encoder(path, inside=inside)(["ab a x日本", ""])


@pytest.mark.parametrize("depth", [300, 1200, 5000, 100_000])
def test_a_decoder_nested_however_deep_is_read_or_refused(tmp_path, depth):
    opening, closing = '{"type": "Sequence", "decoders": [', "]}"
    decoder = (opening * depth + closing * depth).encode()
    document = json.dumps({**BPE, "decoder": "here"}).encode().replace(b'"here"', decoder)
    assert_read_or_refused(tmp_path / "tokenizer.json", document)


def test_gguf_counts_that_are_too_large_are_refused(tmp_path):
    whole = tiny.gguf_bytes(tmp_path)
    for start in range(4, len(whole) - 8):
        damaged = whole[:start] + b"\xff" * 7 + whole[start + 7 :]
        assert_read_or_refused(tmp_path / "x.gguf", damaged)


changes = st.lists(
    st.tuples(
        st.integers(0, 2**20),
        st.sampled_from(["overwrite", "insert", "delete", "cut"]),
        st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def changed(content: bytes, changes_to_make) -> bytes:
    for position, what, new in changes_to_make:
        at = position % (len(content) + 1)
        if what == "cut":
            content = content[:at]
        else:
            skipped = 0 if what == "insert" else len(new)
            content = content[:at] + (b"" if what == "delete" else new) + content[at + skipped :]
    return content


@settings(
    max_examples=300,
    deadline=None,
    report_multiple_bugs=False,
    phases=[Phase.reuse, Phase.generate],  # the changes are small, and shrinking a hang takes long
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.parametrize("kind", ["json", "tekken", "ranks", "sentencepiece", "gguf"])
@given(changes_to_make=changes)
def test_changed_bytes_are_read_or_refused(tmp_path, kind, changes_to_make):
    make = {
        "json": lambda: json.dumps(BPE).encode(),
        "tekken": lambda: json.dumps(tiny.tekken_document()).encode(),
        "ranks": lambda: RANKS,
        "sentencepiece": tiny.sentencepiece_model,
        "gguf": lambda: tiny.gguf_bytes(tmp_path),
    }[kind]
    assert_read_or_refused(tmp_path / "changed", changed(make(), changes_to_make))
