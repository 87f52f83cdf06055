"""Tokenizers that make their library panic, fail or fill the memory: one line that names them."""

import json

import pytest
import tiny_tokenizers as tiny
from command_line import refused, run_process

from pm_mined import VocabularyError, build_map, load_encoder
from pm_mined.tokenizer.readers.growth import growth_of

# Of which a regular expression with nested repetitions tries every way to split it.
HARD = "x" * 60 + "z"


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def replace(pattern, content):
    kind = "String" if len(pattern) == 1 else "Regex"
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(*normalizers):
    return {"type": "Sequence", "normalizers": normalizers}


def document(**fields):
    return tiny.bpe_document({"a": 0, "x": 1, "z": 2}, **fields)


def word_level():
    return {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}}


def tekken_without_most_bytes():
    whole = tiny.tekken_document()
    whole["config"]["pattern"] = "."
    return whole


BROKEN = {
    "regex-that-backtracks": document(pre_tokenizer=split("(x+x+)+y")),
    "charsmap": document(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "CAAAAP////////8="}
    ),
    "unknown-token-missing": word_level(),
    "bytes-missing": tekken_without_most_bytes(),
    "normalizer-that-grows": document(normalizer=sequence(*[replace("x", "x" * 1000)] * 3)),
}


@pytest.fixture(params=BROKEN)
def broken(request, tmp_path):
    path = tmp_path / f"{request.param}.json"
    path.write_text(json.dumps(BROKEN[request.param]))
    return path


def test_a_library_that_fails_is_one_line_that_names_the_file(broken):
    with pytest.raises(VocabularyError) as failed:
        load_encoder(broken)([HARD])
    assert str(failed.value).startswith(f"{broken}: ")
    assert len(str(failed.value)) < len(str(broken)) + 400


def test_a_command_says_it_in_one_line_too(broken, tmp_path):
    build_map(broken, broken).save(tmp_path / "map.arrow")
    (tmp_path / "t.txt").write_text(HARD)
    audit = ["audit", "map.arrow", "--text", "t.txt", "--src", broken]
    assert refused(*audit, cwd=tmp_path).startswith(f"{broken}: ")


@pytest.mark.slow
def test_a_panic_is_not_told_twice(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(BROKEN["charsmap"]))
    vocabulary = tmp_path / "x.tiktoken"
    vocabulary.write_bytes(tiny.rank_file([b"abc"]))
    build = ["build", "--src", vocabulary, "--dst", path, "--strategy", "first-token", "-o", "m"]
    done = run_process(*build, cwd=tmp_path, RUST_BACKTRACE="1")
    assert (done.status, done.stderr.count("\n")) == (1, 1), done.stderr
    done = run_process("--debug", *build, cwd=tmp_path, RUST_BACKTRACE="1")
    assert "panicked at" in done.stderr


def test_a_file_that_is_not_utf8_is_not_json(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b'{"model": {"type": "BPE", "vocab": {"a": 0}}, "x": "\xed\xa0\x80"}')
    assert "not JSON, or cut off: 'utf-8' codec" in refused("vocab", "info", path)


@pytest.mark.parametrize(
    ("normalizers", "growth"),
    [
        ([], 1),
        ([{"type": "Lowercase"}], 3),
        ([replace(" ", "▁")], 3),
        ([replace("ab+", "▁")], 3),
        ([replace("a*", "▁")], 7),
        ([{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")], 12),
        ([sequence(replace("a", "b" * 10), sequence(replace("b", "c" * 10)))], 100),
    ],
)
def test_the_growth_of_a_text_is_known_before_it_grows(normalizers, growth):
    assert growth_of(normalizers) == growth
