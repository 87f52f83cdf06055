"""What `explain` says, against the maps themselves and against what happens without a token."""

import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from adversarial import vocabularies
from conftest import real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_mined import Kind, PmMinedError, Rule, Vocabulary, build_map
from pm_mined.explain import Explainer, ids_read, readers
from pm_mined.special_tokens import role_of
from pm_mined.token_map import TokenMap

EVERY = 10**6
RULES = st.tuples(st.sampled_from(["pm-mined", "exact"]), st.sampled_from(["char", "byte"]))
BARS = {
    "special tokens match by role or literal, never by spelling",
    "unused tokens never match",
    "in code points, byte tokens match the same bytes only",
    "in code points, fragment tokens match the same bytes only",
    "the bare space is a candidate only for tokens of spaces",
    "strategy exact takes the same bytes only",
    "a text token, not a special one",
    "a byte token, not a special one",
    "a fragment token, not a special one",
}

_literals = st.sampled_from(
    ["</s>", "<eos>", "<|eot_id|>", "<|im_end|>", "<|eom_id|>", "<s>", "<|odd|>", "<tool_call>"]
).map(str.encode)
_special_entries = st.tuples(_literals, st.sampled_from([Kind.SPECIAL] * 4 + [Kind.TEXT, 4]))
special_vocabularies = st.lists(_special_entries, max_size=10).map(
    lambda entries: Vocabulary.from_tokens(
        [literal for literal, _ in entries], [kind for _, kind in entries]
    )
)
pairs = st.one_of(
    st.tuples(vocabularies, vocabularies), st.tuples(special_vocabularies, special_vocabularies)
)


def texts(*tokens):
    return Vocabulary.from_tokens(list(tokens), [Kind.TEXT] * len(tokens))


def explained(src, dst, src_id=0, **options):
    return Explainer(build_map(src, dst, **options), dst).explain(src_id)


def reasons(explanation):
    return {one.dst_id: one.reason for one in explanation.runners_up}


# --- True ----------------------------------------------------------------------------------------


def without(dst, ids):
    """The vocabulary with these tokens switched off; every other keeps its id."""
    kinds = [Kind.UNUSED if i in ids else dst.kind(i) for i in range(len(dst))]
    return Vocabulary.from_tokens(dst.packed.tolist(), kinds)


def read_without(src, src_id, dst, ids, strategy, unit):
    return build_map(src, without(dst, ids), strategy=strategy, unit=unit).dst_id[src_id]


@settings(max_examples=150, deadline=None)
@given(pairs, RULES)
def test_each_runner_up_is_read_once_those_before_it_are_gone(pair, rules):
    (src, dst), (strategy, unit) = pair, rules
    explainer = Explainer(build_map(src, dst, strategy=strategy, unit=unit), dst)
    for src_id in range(len(src)):
        found = explainer.explain(src_id, EVERY)
        gone = [found.match.dst_id] if found.match else []
        for one in found.runners_up:
            if one.reason in BARS:
                others = set(range(len(dst))) - {one.dst_id}
                assert read_without(src, src_id, dst, others, strategy, unit) == -1
            else:
                assert read_without(src, src_id, dst, gone, strategy, unit) == one.dst_id
                gone.append(one.dst_id)


def true_of(src, kind, match, one, units):
    """Whether the reason of `one` is so, told from the tokens themselves."""
    as_far = abs(units(src) - units(one.token)) == match.distance
    same_bytes = one.token == src == match.token
    if one.reason == "same bytes, higher id":
        as_good = (one.kind == kind) == (match.kind == kind)
        return same_bytes and as_good and one.dst_id > match.dst_id
    if one.reason == "same bytes, but of another kind: the same kind goes first":
        return same_bytes and match.kind == kind != one.kind
    if one.reason == "same distance, higher id":
        return as_far and one.distance == match.distance and one.dst_id > match.dst_id
    if one.reason == f"farther: the match has {match.distance}":
        return one.distance == abs(units(src) - units(one.token)) > match.distance
    if one.reason == "the identical literal goes first":
        return match.token == src != one.token
    if one.reason.endswith("literal, higher id"):
        return one.token == match.token == src and one.dst_id > match.dst_id
    if higher := re.fullmatch(r"(same|fallback) role (\w+), higher id", one.reason):
        roles = {role_of(token.decode()) for token in (one.token, match.token)}
        return roles == {higher[2]} and one.dst_id > match.dst_id
    fallback = re.fullmatch(r"role (\w+) goes first", one.reason)
    return role_of(match.token.decode()) == fallback[1] != role_of(one.token.decode())


def bar_holds(src, kind, one, unit, strategy):
    names = {"text", "byte", "fragment"}
    return {
        "special tokens match by": one.kind == "special" != kind,
        "unused tokens never": one.kind == "unused",
        "in code points, byte": unit == "char" and "byte" in (kind, one.kind),
        "in code points, fragment": unit == "char" and "fragment" in (kind, one.kind),
        "the bare space": one.token == b" " and src.strip(b" ") != b"",
        "strategy exact": strategy == "exact" and one.token != src,
        f"a {one.kind} token, not": kind == "special" and one.kind in names,
    }


@settings(max_examples=300, deadline=None)
@given(pairs, RULES)
def test_every_reason_is_so(pair, rules):
    (src, dst), (strategy, unit) = pair, rules
    token_map = build_map(src, dst, strategy=strategy, unit=unit)
    explainer = Explainer(token_map, dst)

    def units(token):
        return len(token) if unit == "byte" else len(token.decode(errors="replace"))

    for src_id in range(len(src)):
        row, found = token_map.row(src_id), explainer.explain(src_id, EVERY)
        assert (found.match is None) == (row.dst_id == -1) == bool(found.why)
        for one in found.runners_up:
            if one.reason in BARS:
                held = bar_holds(row.src_token, row.src_kind, one, unit, strategy)
                assert [so for start, so in held.items() if one.reason.startswith(start)] == [True]
            else:
                assert true_of(row.src_token, row.src_kind, found.match, one, units), one


@settings(max_examples=200, deadline=None)
@given(vocabularies, vocabularies, st.sampled_from(["char", "byte"]))
def test_nobody_is_left_out(src, dst, unit):
    """Every token that is spelled like an ordinary one is the match or a runner-up."""
    token_map = build_map(src, dst, unit=unit)
    explainer = Explainer(token_map, dst)
    for src_id, token in enumerate(src.packed.tolist()):
        found = explainer.explain(src_id, EVERY)
        listed = [one.dst_id for one in found.runners_up]
        assert len(listed) == len(set(listed)) == found.runners_up_count
        if src.kind(src_id) in (Kind.SPECIAL, Kind.UNUSED):
            continue
        exact = found.match is not None and found.match.relation == "same bytes"
        alike = {
            i
            for i, other in enumerate(dst.packed.tolist())
            if other
            and (token == other or not exact)
            and (token.startswith(other) or other.startswith(token))
        }
        assert {*listed, *([found.match.dst_id] if found.match else [])} == alike


@pytest.mark.parametrize(
    ("strategy", "unit"), [("pm-mined", "char"), ("pm-mined", "byte"), ("exact", "char")]
)
@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("llama3", "qwen3"),
        ("mistral-v1", "llama3"),
        ("qwen3", "mistral-v7"),
        ("mistral-tekken", "deepseek"),
    ],
)
def test_real_maps_are_what_the_explanation_chooses(source, destination, strategy, unit):
    src, dst = real_vocabulary(source), real_vocabulary(destination)
    token_map = build_map(src, dst, strategy=strategy, unit=unit)
    explainer = Explainer(token_map, dst)
    relations = {
        "exact": "same bytes",
        "byte": "same bytes",
        "prefix": "prefix",
        "extension": "extension",
    }
    checked = Counter()
    for src_id in sample(token_map):
        row, found = token_map.row(src_id), explainer.explain(src_id, limit=0)
        checked[row.rule, row.src_kind] += 1
        assert found.by_rules == row.dst_id
        assert (found.match is None) == bool(found.why)
        assert "other rules" not in found.why
        if found.match is not None:
            assert found.match[:2] == (row.dst_id, row.dst_token)
            assert found.match.distance == row.distance
            assert row.rule == "special" or found.match.relation == relations[row.rule]
    assert checked.total() > 1000
    assert {"exact", "special"} <= {rule for rule, _ in checked}


def sample(token_map: TokenMap):
    """Some hundred tokens of every rule and kind, spread over the ids."""
    kinds = np.array(token_map.column("src_kind").indices)
    groups = [
        np.flatnonzero((token_map.rule == rule) & (kinds == kind)) for rule in Rule for kind in Kind
    ]
    return [int(i) for group in groups for i in group[:: max(1, len(group) // 700)]]


def test_real_runners_up_are_all_that_are_spelled_alike():
    src, dst = real_vocabulary("llama3"), real_vocabulary("qwen3")
    token_map = build_map(src, dst)
    explainer, tokens = Explainer(token_map, dst), dst.packed.tolist()
    inexact = np.flatnonzero(token_map.rule > Rule.BYTE)
    for src_id in islice((int(i) for i in inexact), 0, None, 600):
        if src.kind(src_id) == Kind.UNUSED:
            continue
        token, found = src[src_id], explainer.explain(src_id, EVERY)
        listed = {one.dst_id for one in found.runners_up} | {found.by_rules} - {-1}
        if src.kind(src_id) == Kind.TEXT:
            assert listed == {
                i
                for i, other in enumerate(tokens)
                if other and (token.startswith(other) or other.startswith(token))
            }


# --- In words ------------------------------------------------------------------------------------


def test_the_runners_up_come_in_the_order_in_which_they_would_win():
    found = explained(texts(b" Avrupa"), texts(b" ", b" A", b" Avr", b" Avrupa'daki", b" Av"))
    assert (found.match.dst_id, found.match.relation, found.match.distance) == (2, "prefix", 3)
    assert [(one.dst_id, one.relation, one.distance, one.reason) for one in found.runners_up] == [
        (4, "prefix", 4, "farther: the match has 3"),
        (1, "prefix", 5, "farther: the match has 3"),
        (3, "extension", 5, "farther: the match has 3"),
        (0, "prefix", 6, "the bare space is a candidate only for tokens of spaces"),
    ]


def test_a_tie_goes_to_the_lower_id():
    assert reasons(explained(texts(b"ab"), texts(b"abc", b"a"))) == {1: "same distance, higher id"}


def test_the_limit_keeps_the_count():
    dst = texts(b"a", b"ab", b"abc", b"abcd")
    found = Explainer(build_map(texts(b"abcde"), dst), dst).explain(0, limit=2)
    assert [one.token for one in found.runners_up] == [b"abc", b"ab"]
    assert found.runners_up_count == 3


def test_kinds_of_the_same_bytes():
    src = Vocabulary.from_tokens([b"\n", b"\n"], [Kind.TEXT, Kind.BYTE])
    kinds = [Kind.SPECIAL, Kind.BYTE, Kind.TEXT, Kind.TEXT, Kind.UNUSED]
    dst = Vocabulary.from_tokens([b"\n"] * 5, kinds)
    found = explained(src, dst)
    assert found.match.dst_id == 2
    assert reasons(found) == {
        0: "special tokens match by role or literal, never by spelling",
        1: "same bytes, but of another kind: the same kind goes first",
        3: "same bytes, higher id",
        4: "unused tokens never match",
    }


def test_fragments_in_code_points():
    src, dst = texts("中".encode()), texts(b"\xe4\xb8")
    found = explained(src, dst)
    assert found.match is None
    (lost,) = found.runners_up
    assert lost.reason == "in code points, fragment tokens match the same bytes only"
    assert lost.distance is None
    assert explained(src, dst, unit="byte").match.distance == 1
    turned = explained(dst, src)
    assert turned.why == (
        "no token has the same bytes, and in code points fragment tokens match no others"
    )
    assert turned.nearest == []


def test_strategy_exact():
    found = explained(texts(b"ab"), texts(b"a"), strategy="exact")
    assert found.why == "no token has the same bytes, and strategy exact takes no others"
    assert reasons(found) == {0: "strategy exact takes the same bytes only"}


def test_special_tokens():
    src = Vocabulary.from_tokens([b"<|eom_id|>", b"<|python_tag|>"], [Kind.SPECIAL] * 2)
    tokens = [b"</s>", b"<|im_end|>", b"<|eot_id|>", b"<tool_call>"]
    dst = Vocabulary.from_tokens(tokens, [Kind.SPECIAL] * 3 + [Kind.TEXT])
    found = explained(src, dst)
    assert (found.match.dst_id, found.match.relation) == (1, "fallback role end_of_turn")
    assert reasons(found) == {
        2: "fallback role end_of_turn, higher id",
        0: "role end_of_turn goes first",
    }
    found = explained(src, dst, src_id=1)
    assert found.why == "no special token has this literal or the role tool_call_start"
    assert reasons(found) == {3: "a text token, not a special one"}


def test_unmapped_text_has_a_hint_that_is_no_candidate():
    found = explained(texts(b"colour"), texts(b"xyz", b"olour"))
    assert found.why == "no candidate has the same bytes, is a prefix of it or begins with it"
    assert [one.dst_id for one in found.nearest] == [1, 0]
    assert {one.reason for one in found.nearest} == {"only a hint"}
    assert found.runners_up == []


def test_unused_tokens():
    src = Vocabulary.from_tokens([b"a", b""], [Kind.UNUSED, Kind.UNUSED])
    for src_id in (0, 1):
        found = explained(src, texts(b"a"), src_id)
        assert found[2:] == ("unused tokens never match", [], 0, [])


OVERRIDES = {
    "dst_id = 0": "an override decided; the rules alone choose ab (1): prefix, distance 1",
    "dst = false": "an override decided; the rules alone choose ab (1): prefix, distance 1",
    "dst_id = 1": "an override decided; the rules alone choose the same token",
}


@pytest.mark.parametrize("row", OVERRIDES)
def test_overrides_say_what_the_rules_would_do(row, tmp_path):
    (tmp_path / "table.toml").write_text(f"[[override]]\nsrc_id = 0\n{row}\n")
    dst = texts(b"x", b"ab", b"a")
    found = explained(texts(b"abc"), dst, overrides=tmp_path / "table.toml")
    assert (found.by_rules, found.why) == (1, OVERRIDES[row])
    assert found.match is None or (found.match.relation, found.match.distance) == ("override", 0)
    assert reasons(found)[2] == "an override decided"
    if row != "dst_id = 1":
        assert reasons(found)[1] == "an override decided; the rules alone choose it"


def test_an_override_of_what_the_rules_leave_unmapped(tmp_path):
    (tmp_path / "table.toml").write_text("[[override]]\nsrc_id = 0\ndst_id = 0\n")
    found = explained(texts(b"abc"), texts(b"x"), overrides=tmp_path / "table.toml")
    assert found.by_rules == -1
    assert found.why.startswith("an override decided; by the rules alone: no candidate has")


# --- What is not known is said -------------------------------------------------------------------


def remade(token_map, **info):
    """The map with other metadata."""
    fields = {**vars(token_map.info), **info}
    return TokenMap(type(token_map.info)(**fields), token_map.to_arrow())


@pytest.mark.parametrize(
    "strategy",
    [{"name": "nearest", "unit": "char"}, {"name": ["x"], "unit": "char"}, {"name": "exact"}, {}],
)
def test_an_unknown_strategy_is_not_guessed(strategy):
    dst = texts(b"a")
    made = remade(build_map(dst, dst), strategy=strategy, tool_version="9.9")
    with pytest.raises(PmMinedError, match=r"cannot explain strategy .* pm-mined 9\.9 made"):
        Explainer(made, dst)


def test_a_map_by_other_rules_says_so():
    """As if a map of strategy exact called itself pm-mined: the rules known here differ."""
    src, dst = texts(b"ab"), texts(b"a")
    made = build_map(src, dst, strategy="exact")
    made = remade(made, strategy={"name": "pm-mined", "unit": "char"}, tool_version="0.0.9")
    found = Explainer(made, dst).explain(0)
    assert found.match is None
    assert found.why == (
        "the map decided by other rules, those of pm-mined 0.0.9; the rules alone choose a (0): "
        "prefix, distance 1"
    )
    assert reasons(found)[0].endswith("; the rules alone choose it")


# --- The reverse ---------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(vocabularies, vocabularies)
def test_readers_are_those_that_read(src, dst):
    token_map = build_map(src, dst)
    rows = token_map.to_arrow().to_pylist()
    for dst_id in range(len(dst)):
        found = readers(token_map, dst_id)
        expected = [(row["distance"], row["src_id"]) for row in rows if row["dst_id"] == dst_id]
        assert [(token_map.distance[i], i) for i in found] == sorted(expected)
    for token in {b"", b"never", *dst.packed.tolist()}:
        expected = {row["dst_id"] for row in rows if row["dst_token"] == token} - {-1}
        assert ids_read(token_map, token) == sorted(expected)
