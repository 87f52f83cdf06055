"""`build_map`: the order of the rules, special tokens by role, the strategies."""

import numpy as np
import pytest
from adversarial import vocabularies
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_mined import Kind, PmMinedError, Vocabulary, VocabularyError, build_map
from pm_mined.kernels import prefix_match, reference
from pm_mined.maps.info import NAMES


def special(*literals):
    tokens = [literal.encode() for literal in literals]
    return Vocabulary.from_tokens(tokens, [Kind.SPECIAL] * len(tokens))


def test_special_tokens_match_by_role():
    src = special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>")
    dst = special("[PAD]", "<|im_end|>", "</s>", "<s>")
    assert build_map(src, dst).dst_id.tolist() == [3, 2, 1, 0]


def test_a_role_falls_back_to_the_next():
    src = special("<|eom_id|>", "<|eot_id|>")
    assert build_map(src, special("<s>", "</s>")).dst_id.tolist() == [1, 1]
    assert build_map(src, special("</s>", "<end_of_turn>")).dst_id.tolist() == [1, 1]
    assert build_map(src, special("<s>")).dst_id.tolist() == [-1, -1]


def test_an_identical_literal_comes_before_another_of_the_role():
    both = special("<|endoftext|>", "</s>")
    assert build_map(special("</s>", "<|endoftext|>"), both).dst_id.tolist() == [1, 0]


def test_a_literal_without_a_role_matches_itself_only():
    src, dst = special("<|box_start|>", "<|box_end|>"), special("<|quad_end|>", "<|box_start|>")
    assert build_map(src, dst).dst_id.tolist() == [1, -1]


def test_special_tokens_of_different_bytes_are_not_identical():
    broken = Vocabulary.from_tokens([b"\x80", b"\xc3"], [Kind.SPECIAL] * 2)
    assert build_map(Vocabulary.from_tokens([b"\xc3"], [Kind.SPECIAL]), broken).dst_id[0] == 1
    assert build_map(Vocabulary.from_tokens([b"\xff"], [Kind.SPECIAL]), broken).dst_id[0] == -1


def test_special_tokens_never_match_text():
    text = Vocabulary.from_tokens([b"<s>", b"<", b"<s>x"], [Kind.TEXT] * 3)
    assert build_map(special("<s>"), text).dst_id.tolist() == [-1]
    assert build_map(text, special("<s>")).dst_id.tolist() == [-1, -1, -1]


def test_special_tokens_never_match_by_id():
    """The reference copies the ids of special tokens; that is its best-known bug."""
    assert build_map(special("<a>", "<b>"), special("<b>", "<a>")).dst_id.tolist() == [1, 0]


def test_unused_tokens_never_match():
    unused = Vocabulary.from_tokens([b"<unused0>", b"a"], [Kind.UNUSED, Kind.UNUSED])
    text = Vocabulary.from_tokens([b"<unused0>", b"a"], [Kind.TEXT, Kind.TEXT])
    for src, dst in [(unused, unused), (unused, text), (text, unused)]:
        assert build_map(src, dst).dst_id.tolist() == [-1, -1]


@settings(max_examples=150, deadline=None)
@given(vocabularies, vocabularies, st.sampled_from(["char", "byte"]))
def test_a_built_map_is_what_the_definition_says(src, dst, unit):
    made = build_map(src, dst, unit=unit)
    expected = reference.brute_force(src.packed, dst.packed, unit)
    ordinary = src.packed.kinds != Kind.SPECIAL
    for name in ("dst_id", "rule", "distance"):
        np.testing.assert_array_equal(
            getattr(made, name)[ordinary], getattr(expected, name)[ordinary]
        )
    for i in range(len(made)):
        row = made.row(i)
        assert row.src_token == src[i]
        assert row.dst_token == (dst[row.dst_id] if row.dst_id >= 0 else b"")
        assert (row.distance >= 0) == (row.dst_id >= 0) == (row.rule != "none")


@settings(max_examples=100, deadline=None)
@given(vocabularies, vocabularies)
def test_exact_is_pm_mined_without_what_is_not_exact(src, dst):
    full, exact = build_map(src, dst), build_map(src, dst, strategy="exact")
    for row, whole in zip(exact.to_arrow().to_pylist(), full.to_arrow().to_pylist(), strict=True):
        if whole["rule"] in ("prefix", "extension"):
            assert (row["dst_id"], row["rule"], row["distance"]) == (-1, "none", -1)
        else:
            assert row == whole


def test_mean_distance_is_that_of_the_mapped():
    src = Vocabulary.from_tokens([b"a", b"abc", b"z"], [Kind.TEXT] * 3)
    dst = Vocabulary.from_tokens([b"a"], [Kind.TEXT])
    assert build_map(src, dst).mean_distance == 1.0
    assert build_map(src, Vocabulary.from_tokens([], [])).mean_distance == 0.0


def test_counts_are_those_of_the_rules():
    src = Vocabulary.from_tokens([b"a", b"abc", b"z", b"<s>"], [0, 0, 0, Kind.SPECIAL])
    dst = Vocabulary.from_tokens([b"a", b"<s>"], [0, Kind.SPECIAL])
    rules = build_map(src, dst).info.rules
    assert {rule: n for rule, n in rules.items() if n} == {
        "special": 1,
        "exact": 1,
        "prefix": 1,
        "none": 1,
    }
    assert list(rules) == NAMES[1]["rule"]


def test_wrong_parameters_are_named():
    one = special("<s>")
    with pytest.raises(PmMinedError, match="no strategy 'guess'; there are pm-mined, exact"):
        build_map(one, one, strategy="guess")
    with pytest.raises(PmMinedError, match=r"unit \(--unit\) is 'word': it must be char or byte"):
        build_map(one, one, unit="word")


# --- Vocabularies made by hand -------------------------------------------------------------------


def test_text_and_fragments_are_told_apart_by_their_bytes():
    made = Vocabulary.from_tokens(
        ["é".encode(), b"\xc3", b"\xed\xa0\x80", b"\xf5"], [Kind.TEXT, Kind.TEXT, Kind.TEXT, 2]
    )
    assert [made.kind(i).name for i in range(4)] == ["TEXT", "FRAGMENT", "FRAGMENT", "FRAGMENT"]


def test_a_token_without_bytes_is_unused():
    assert Vocabulary.from_tokens([b""], [Kind.TEXT]).kind(0) == Kind.UNUSED


def test_wrong_kinds_are_refused():
    with pytest.raises(VocabularyError, match="2 tokens, but 1 kinds"):
        Vocabulary.from_tokens([b"a", b"b"], [Kind.TEXT])
    with pytest.raises(VocabularyError, match=r"token 0 \(b'ab'\) cannot be of kind 1"):
        Vocabulary.from_tokens([b"ab"], [Kind.BYTE])
    with pytest.raises(VocabularyError, match="cannot be of kind 9"):
        Vocabulary.from_tokens([b"ab"], [9])


def test_the_fingerprint_is_of_ids_kinds_and_bytes():
    def fingerprint(tokens, kinds, name="x"):
        return Vocabulary.from_tokens(tokens, kinds, name=name).fingerprint

    base = fingerprint([b"a", b"bc"], [0, 0])
    assert fingerprint([b"a", b"bc"], [0, 0], name="y") == base
    assert fingerprint([b"ab", b"c"], [0, 0]) != base
    assert fingerprint([b"bc", b"a"], [0, 0]) != base
    assert fingerprint([b"a", b"bc"], [0, Kind.SPECIAL]) != base
    assert fingerprint([b"a", b"bc", b""], [0, 0, Kind.UNUSED]) != base
    # Pinned: a map made today must still belong to its tokenizers tomorrow.
    assert base == "547b31d9539650c300d84947fd723d7e17cd8543d0452f8bf25b655dc5810176"


def test_a_vocabulary_is_a_sequence_of_its_tokens():
    made = Vocabulary.from_tokens([b"a", b"bc"], [Kind.TEXT, Kind.TEXT], name="toy")
    assert list(made) == [b"a", b"bc"]
    for outside in (-1, 2):
        with pytest.raises(IndexError, match="toy has no id"):
            made[outside]


def test_a_destination_that_is_too_large_is_an_error_for_people(monkeypatch):
    monkeypatch.setattr(prefix_match, "MAX_DST_BYTES", 1)
    one = Vocabulary.from_tokens([b"ab"], [Kind.TEXT])
    with pytest.raises(VocabularyError, match="the destination vocabulary is too large"):
        build_map(one, one)
