"""`pm-mined vocab check`: canonical bytes against what each tokenizer's own library writes."""

import json
import random
from dataclasses import replace

import pytest
import tiny_tokenizers as tiny
from command_line import run
from conftest import quick_first, real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_mined import load_vocabulary
from pm_mined.kernels.tokens import Kind
from pm_mined.tokenizer.checks.check import check_vocabulary
from pm_mined.tokenizer.checks.compare import Comparison, Difference
from pm_mined.tokenizer.checks.libraries import of_tokenizer_json
from pm_mined.tokenizer.checks.pieces import completion
from pm_mined.tokenizer.registry import named_vocabularies
from pm_mined.vocabulary import Vocabulary

QUICK = ("mistral-v1", "llama3", "mistral-tekken", "deepseek")
UNPAIRED = 13  # bytes that UTF-8 never has


def installed():
    return [entry.name for entry in named_vocabularies().values() if entry.package]


@pytest.mark.slow
@pytest.mark.parametrize("name", installed())
def test_every_token_of_a_real_vocabulary_is_what_its_library_writes(name):
    size = len(real_vocabulary(name))
    check = check_vocabulary(name)
    assert check.differences == []
    assert check.checked + sum(map(len, check.unchecked.values())) == size
    assert len(check.unchecked["bytes that are in no text"]) == UNPAIRED


@pytest.mark.parametrize("name", quick_first(QUICK, 2))
def test_a_sample_of_a_real_vocabulary_is_what_its_library_writes(name):
    vocabulary = real_vocabulary(name)
    special = vocabulary.ids_of_kind(Kind.SPECIAL)[:50]
    sample = random.Random(name).sample(range(len(vocabulary)), 1000)
    check = check_vocabulary(name, ids=sorted({*sample, *special}))
    assert check.differences == []
    assert check.checked > 950


MAKERS = [tiny.byte_level_bpe, tiny.metaspace_bpe, tiny.unigram, tiny.word_piece]


@pytest.mark.parametrize("make", MAKERS)
def test_every_kind_of_tokenizer_json_can_be_checked(tmp_path, make):
    (tmp_path / "x.json").write_text(make().to_str())
    for spec in (tmp_path / "x.json", make()):
        check = check_vocabulary(spec)
        assert check.differences == []
        assert set(check.unchecked) <= {"bytes that are in no text"}


def comparison(make, change):
    """A comparison after `change` of the table of tokens and of kinds."""
    tokenizer = make()
    read = load_vocabulary(tokenizer)
    tokens, kinds = read.packed.tolist(), read.packed.kinds.tolist()
    change(tokens, kinds, tokenizer)
    made = Comparison(Vocabulary.from_tokens(tokens, kinds), of_tokenizer_json(tokenizer.to_str()))
    made.compare(range(len(read)))
    return made


def test_a_wrong_text_is_a_difference():
    def change(tokens, _, tokenizer):
        tokens[tokenizer.token_to_id("Ġthe")] = b"the"

    (found,) = comparison(tiny.byte_level_bpe, change).differences
    assert found.ours.replace("the", " the") == found.theirs


def test_two_pieces_of_characters_in_each_other_s_place_are_differences():
    """Alone, the library writes U+FFFD for both."""

    def change(tokens, _, tokenizer):
        one, other = (tokenizer.token_to_id(letter) for letter in "Ãâ")
        tokens[one], tokens[other] = tokens[other], tokens[one]

    assert len(comparison(tiny.byte_level_bpe, change).differences) >= 2


def test_a_special_token_called_text_and_a_wrong_literal_are_differences():
    def text(tokens, kinds, _):
        kinds[0] = int(Kind.TEXT)

    assert [one.token_id for one in comparison(tiny.byte_level_bpe, text).differences] == [0]

    def literal(tokens, kinds, _):
        tokens[0] = b"<s>"

    found = comparison(tiny.byte_level_bpe, literal).differences
    assert found == [Difference(0, "<s>", "<|endoftext|>")]


def test_ids_that_only_one_of_both_has_are_differences():
    library = of_tokenizer_json(tiny.byte_level_bpe().to_str())
    empty = Vocabulary.from_tokens([b"a"], [Kind.TEXT])
    made = Comparison(empty, replace(library, size=1))
    made.compare([1])
    assert made.differences == []  # neither has it
    made = Comparison(empty, library)
    made.compare([1])
    assert [(one.token_id, one.ours) for one in made.differences] == [(1, "")]


@settings(max_examples=200)
@given(st.characters(codec="utf-8").map(str.encode), st.integers(0, 3), st.integers(1, 4))
def test_every_piece_of_a_character_can_be_completed(character, start, stop):
    piece = character[start:stop]
    before, after = completion(piece)
    assert (before + piece + after).decode()[:1] or not piece


def test_the_command_prints_a_line_and_exits_with_0(tmp_path):
    (tmp_path / "x.json").write_text(tiny.byte_level_bpe().to_str())
    done = run("vocab", "check", "x.json", cwd=tmp_path)
    first, unpaired = done.stdout.splitlines()
    assert first.startswith("x.json: 387 of 400 ids checked against tokenizers ")
    assert first.endswith(": 0 differences")
    assert unpaired.startswith("13 not checked: bytes that are in no text (")
    done = run("vocab", "check", "x.json", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert (document["size"], document["checked"], document["differences"]) == (400, 387, [])
    assert [len(one["ids"]) for one in document["unchecked"]] == [13]


def test_the_command_shows_differences_and_exits_with_1(tmp_path, monkeypatch):
    from pm_mined.tokenizer.checks import check

    (tmp_path / "x.json").write_text(tiny.byte_level_bpe().to_str())
    wrong = Vocabulary.from_tokens([b"x"] * 30, [Kind.TEXT] * 30)
    monkeypatch.setattr(check, "load_vocabulary", lambda _: wrong)
    done = run("vocab", "check", "x.json", cwd=tmp_path)
    assert done.status == 1
    assert "differences" in done.stdout
    assert "--json lists all" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", ["no-decoder.json", "x.gguf"])
def test_it_says_why_something_cannot_be_checked(tmp_path, name):
    document = tiny.bpe_document({"a": 0, "b": 1}, added_tokens=[tiny.added(2, "c", special=True)])
    (tmp_path / "no-decoder.json").write_text(json.dumps(document))
    tiny.write_gguf(tmp_path / "x.gguf", "llama", ["a"], [1])
    done = run("vocab", "check", name, cwd=tmp_path)
    said = "the file has no decoder" if name.endswith("json") else "no library here writes"
    assert said in done.stdout + done.stderr
    assert done.status == (name == "x.gguf")


def test_a_folder_is_held_against_auto_tokenizer(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(tiny.byte_level_bpe().to_str())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    check = check_vocabulary(tmp_path)
    assert check.differences == []
    assert check.libraries[1].startswith("AutoTokenizer of transformers ")


def test_special_tokens_that_auto_tokenizer_has_otherwise_are_differences(tmp_path, monkeypatch):
    from pm_mined.tokenizer.checks import auto_tokenizer

    def compare(**theirs):
        found = {int(token_id[1:]): literal for token_id, literal in theirs.items()}
        monkeypatch.setattr(auto_tokenizer, "_special_tokens", lambda _: (found, {"<mask>"}))
        return auto_tokenizer.compare_with_auto_tokenizer(vocabulary, tmp_path)

    pytest.importorskip("transformers")
    tokens, kinds = [b"<s>", b"\n", b"<mask>", b"a"], [3, 0, 0, 0]
    vocabulary = Vocabulary.from_tokens(tokens, kinds)
    assert compare(_0="<s>", _1="\n").differences == []
    assert compare(_0="<s>", _2="<mask>").differences == []
    assert compare(_0="<s>", _2="<mask>").notes == (
        "<mask> (2) is special by AutoTokenizer's class, by no file",
    )
    assert compare(_0="<bos>").differences == [Difference(0, "<s>", "<bos>")]
    assert compare().differences == [Difference(0, "<s>", "no special token")]
    assert compare(_0="<s>", _3="a", _9="b").differences == [
        Difference(3, "no special token", "a"),
        Difference(9, "no special token", "b"),
    ]


def test_a_folder_that_auto_tokenizer_cannot_load_says_so(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(tiny.byte_level_bpe().to_str())
    (tmp_path / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["x.X", null]}}'
    )
    (note,) = check_vocabulary(tmp_path).notes
    assert note.startswith("not held against AutoTokenizer: ")
