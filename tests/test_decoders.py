"""Decoders of `tokenizer.json`, and ids of added tokens, against the library itself."""

import json
import re

import pytest
import tiny_tokenizers as tiny
import tokenizers
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from tiny_tokenizers import entries, read
from tokenizers import Tokenizer

from pm_mined import VocabularyError, build_map
from pm_mined.tokenizer.checks.check import check_vocabulary
from pm_mined.tokenizer.readers.decoder import write

FIRST, LAST = "xy"  # the neighbours of a token; no step changes them
LETTERS = [*"abĠ▁Ã© \n_|", "##", "</w>", "<0x41>", "<0x0A>", "<0xC3>", "日", "n't", "<pad>"]

AS_THE_LIBRARY_IS_NOW = pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", tokenizers.__version__)[:3])) < (0, 23, 1),
    reason="older versions of tokenizers number and write such added tokens otherwise",
)


def step(kind, **fields):
    return {"type": kind, **fields}


BYTE_LEVEL = step("ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True)
literal = st.sampled_from(["▁", "_", "a", "ab", "##", " ", "Ġ", "</w>"])
contents = st.sampled_from(["", " ", "_", "bb", "▁", "Ġ"])
letter = st.sampled_from([*"▁_ a"])
flag = st.booleans()
STEPS = st.one_of(
    st.just(step("Fuse")),
    st.just(step("ByteFallback")),
    st.just(BYTE_LEVEL),
    st.builds(
        lambda mark, scheme: step("Metaspace", replacement=mark, prepend_scheme=scheme, split=True),
        letter,
        st.sampled_from(["always", "first", "never"]),
    ),
    st.builds(lambda p, c: step("Replace", pattern={"String": p}, content=c), literal, contents),
    st.builds(
        lambda p, c: step("Replace", pattern={"Regex": p}, content=c),
        st.sampled_from(["▁+", "[ab]", "^▁", "a$", r"(?<=a)b", r"\p{Han}"]),
        contents,
    ),
    st.builds(
        lambda c, a, b: step("Strip", content=c, start=a, stop=b),
        letter,
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    st.builds(lambda cleanup: step("WordPiece", prefix="##", cleanup=cleanup), flag),
    st.just(step("BPEDecoder", suffix="</w>")),
    st.builds(
        lambda cleanup: step("CTC", pad_token="<pad>", word_delimiter_token="|", cleanup=cleanup),
        flag,
    ),
)
DECODERS = st.recursive(
    STEPS, lambda inner: st.lists(inner, max_size=4).map(lambda d: step("Sequence", decoders=d))
)
TOKENS = st.lists(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=4).map("".join))


def library(decoder):
    """What the library writes for tokens, which need not be in any vocabulary."""
    tokenizer = Tokenizer.from_str(json.dumps(tiny.bpe_document({}, decoder=decoder)))
    if tokenizer.decoder is None:
        return "".join
    return tokenizer.decoder.decode


def between_neighbours(decode, token):
    """What the library writes for two probes and a token between them; None if it panics."""
    try:
        return decode([FIRST, token, LAST])
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # Strip of more than a token has
            return None
        raise


@settings(max_examples=150, deadline=None)
@given(DECODERS, TOKENS)
def test_any_decoder_writes_tokens_in_the_middle_of_a_text_like_the_library(decoder, tokens):
    decode = library(decoder)
    first, both = decode([FIRST]), decode([FIRST, LAST])
    last = both[len(first) :]
    # Fused before ByteLevel, one space makes a whole text stand for itself.
    assume(" " not in both or "ByteLevel" not in str(decoder))
    assume(both.startswith(first))
    try:
        written = write(decoder, tokens).tokens
    except VocabularyError as error:
        assume("more than a vocabulary has" not in str(error))
        raise
    for token, ours in zip(tokens, written, strict=True):
        comp = first.encode() + ours + last.encode()
        ref = between_neighbours(decode, token)
        assert ref is None or comp.decode(errors="replace") == ref, token


@pytest.mark.parametrize(
    ("steps", "token", "bytes_written"),
    [
        ([step("Fuse"), step("Replace", pattern={"String": "▁"}, content=" ")], "▁cat", b" cat"),
        ([step("Fuse"), step("ByteLevel")], "Ã©", "é".encode()),
        ([step("Fuse"), step("ByteFallback")], "<0x0A>", b"<0x0A>"),
        ([step("Strip", content=" ", start=1, stop=0), step("Fuse")], " a", b"a"),
        ([step("Fuse"), step("Strip", content=" ", start=1, stop=0)], " a", b" a"),
        ([step("ByteLevel"), step("Replace", pattern={"String": "é"}, content="e")], "Ã©", b"e"),
        ([step("ByteLevel"), step("BPEDecoder", suffix="a")], "aÃ", b"\xc3"),
    ],
)
def test_where_a_step_stands_decides_what_it_does(steps, token, bytes_written):
    assert write(step("Sequence", decoders=steps), [token]).tokens == [bytes_written]


def test_byte_pieces_are_text_where_the_decoder_leaves_them(tmp_path):
    document = tiny.bpe_document({"<0x0A>": 0}, decoder=step("Fuse"))
    document["model"]["byte_fallback"] = True
    assert entries(read(tmp_path / "x.json", document)) == [(b"<0x0A>", "text")]
    assert Tokenizer.from_str(json.dumps(document)).decode([0]) == "<0x0A>"


def test_a_word_piece_model_without_a_decoder_marks_continuations(tmp_path):
    vocab = {"[UNK]": 0, "play": 1, "##ing": 2}
    model = {"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]"}
    model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    read_entries = entries(read(tmp_path / "x.json", {"model": model, "decoder": None}))
    assert read_entries == [(b"[UNK]", "special"), (b" play", "text"), (b"ing", "text")]


# --- added tokens ---


def assert_numbered_like_the_library(document, path):
    tokenizer = Tokenizer.from_str(json.dumps(document))
    vocabulary = read(path, document)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    assert len(vocabulary) == 1 + max(ids.values())
    for token_id in ids.values():
        assert vocabulary[token_id].decode() == tokenizer.id_to_token(token_id)


WORDS = st.sampled_from([*"abcdef"])


@AS_THE_LIBRARY_IS_NOW
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(WORDS, st.integers(0, 8), min_size=1),
    st.lists(st.tuples(WORDS, flag, st.integers(0, 9))),
)
def test_added_tokens_are_numbered_like_the_library_numbers_them(tmp_path, vocab, added):
    unique = {token_id: token for token, token_id in vocab.items()}
    claimed = {token_id: (token, special) for token, special, token_id in added}
    document = tiny.bpe_document(
        {token: token_id for token_id, token in unique.items()},
        added_tokens=[tiny.added(i, token, special=s) for i, (token, s) in claimed.items()],
    )
    assert_numbered_like_the_library(document, tmp_path / "x.json")


def test_an_added_token_does_not_take_the_id_of_a_token_of_the_model(tmp_path):
    document = tiny.bpe_document({"a": 0, "b": 1}, added_tokens=[tiny.added(0, "z", special=False)])
    assert entries(read(tmp_path / "x.json", document))[::2] == [(b"a", "text"), (b"z", "text")]


METASPACE = step("Replace", pattern={"String": "▁"}, content=" ")
BYTES = step("Sequence", decoders=[METASPACE, step("ByteFallback"), step("Fuse")])


@pytest.mark.parametrize(
    ("decoder", "literal", "special", "expected"),
    [
        (BYTE_LEVEL, "\n", True, (b"\n", "text")),
        (BYTE_LEVEL, "Ċ", True, (b"\n", "text")),
        (BYTE_LEVEL, "  ", True, (b"  ", "text")),
        (BYTE_LEVEL, "<|Ġ|>", True, ("<|Ġ|>".encode(), "special")),
        (BYTES, "▁▁", True, (b"  ", "text")),
        (BYTES, "<0x0A>", True, (b"\n", "byte")),
        (BYTES, "<s>", True, (b"<s>", "special")),
        (BYTES, "▁word", False, (b" word", "text")),
        (BYTES, "two words", False, (b"two words", "text")),
    ],
)
def test_an_added_token_that_is_ordinary_text_is_text(
    tmp_path, decoder, literal, special, expected
):
    added = [tiny.added(1, literal, special=special)]
    document = tiny.bpe_document({"a": 0}, decoder=decoder, added_tokens=added)
    assert entries(read(tmp_path / "x.json", document))[1] == expected


@AS_THE_LIBRARY_IS_NOW
def test_an_added_text_token_is_written_as_the_library_has_normalised_it(tmp_path):
    prepend = {"type": "Prepend", "prepend": "▁"}
    added = [tiny.added(1, "two", special=False), tiny.added(2, "<s>", special=True)]
    document = tiny.bpe_document({"a": 0}, decoder=BYTES, normalizer=prepend, added_tokens=added)
    tokens = entries(read(tmp_path / "x.json", document))
    assert tokens[1:] == [(b" two", "text"), (b"<s>", "special")]
    document["normalizer"] = step("Replace", pattern={"String": "t"}, content="t" * 2**22)
    with pytest.raises(VocabularyError, match="normalizer can make"):
        read(tmp_path / "x.json", document)


def test_a_special_newline_maps_to_the_newline(tmp_path):
    document = tiny.bpe_document({"a": 0}, added_tokens=[tiny.added(1, "\n", special=True)])
    src = read(tmp_path / "x.json", document)
    dst = read(tmp_path / "x.tiktoken", tiny.rank_file([b"a", b"b", b"\n"]))
    for one, other, expected in ((src, dst, 2), (dst, src, 1)):
        row = build_map(one, other).row(one.find(b"\n")[0])
        assert (row.dst_id, row.rule) == (expected, "exact")


def test_a_decoder_that_could_fill_the_memory_is_refused(tmp_path):
    bomb = step("Replace", pattern={"String": "a"}, content="a" * 1000)
    document = tiny.bpe_document({"a" * 99: 0}, decoder=step("Sequence", decoders=[bomb] * 3))
    with pytest.raises(VocabularyError, match=r"up to 3\d\d\.\d GiB of its tokens"):
        read(tmp_path / "x.json", document)


# --- whole files ---

PIECES = st.sampled_from(
    ["x", "y", *"abĠ▁Ã© ", "##a", "▁a", "Ġa", "<0x41>", "<0xC3>", "日", "[UNK]"]
)


def bpe(pieces):
    return {"type": "BPE", "vocab": {one: i for i, one in enumerate(pieces)}, "merges": []}


def word_piece(pieces):
    more = {"continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "unk_token": "[UNK]"}
    return {**bpe(pieces), "type": "WordPiece", **more}


def unigram(pieces):
    return {"type": "Unigram", "unk_id": 0, "vocab": [[one, -1.0] for one in pieces]}


USUAL = st.sampled_from(
    [
        BYTES,
        BYTE_LEVEL,
        step("Metaspace", replacement="▁", prepend_scheme="always", split=True),
        step("WordPiece", prefix="##", cleanup=True),
        step("Sequence", decoders=[step("Fuse"), METASPACE]),
    ]
)


NORMALIZERS = [
    None,
    {"type": "Sequence", "normalizers": []},
    {"type": "Prepend", "prepend": "▁"},
    step("Replace", pattern={"String": " "}, content="▁"),
    step("Replace", pattern={"String": "a"}, content=""),
]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(PIECES, unique=True).map(lambda more: ["[UNK]", "x", "y", *more]),
    st.sampled_from([bpe, word_piece, unigram]),
    USUAL,
    st.lists(st.tuples(PIECES, flag, flag), max_size=3),
    st.sampled_from(NORMALIZERS),
)
def test_whole_files_are_what_their_library_writes(
    tmp_path, pieces, model, decoder, added, normalizer
):
    entries_added = [
        tiny.added(i, token, special=special) | {"normalized": normalized}
        for i, (token, special, normalized) in enumerate(added, 50)
    ]
    document = {"decoder": decoder, "added_tokens": entries_added, "normalizer": normalizer}
    document["model"] = model(list(dict.fromkeys(pieces)))
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document))
    try:
        Tokenizer.from_file(str(path))
    except Exception:  # older versions refuse an added token without letters
        reject()
    try:
        check = check_vocabulary(path)
    except VocabularyError as error:
        assume("marks tokens by" not in str(error))
        raise
    assert check.differences == []
