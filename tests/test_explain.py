"""What `explain` says, against the maps themselves and against what happens without a token."""

import re
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import tiny_tokenizers as tiny
from adversarial import vocabularies
from conftest import quick_first, real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_mined import Kind, PmMinedError, Rule, Vocabulary, build_map, load_vocabulary
from pm_mined.kernels.reference import edit_distance
from pm_mined.maps.lookup import choices_of, first_choices, sources_of
from pm_mined.maps.token_map import TokenMap
from pm_mined.reports.explain import Explainer
from pm_mined.tokenizer.special_tokens import role_of

EVERY = 10**6
UNITS = st.sampled_from(["char", "byte"])
HOW = st.builds(
    lambda how, unit: {**how, "unit": unit},
    st.sampled_from(
        [
            {"strategy": "pm-mined"},
            {"strategy": "exact"},
            {"strategy": "mined"},
            {"strategy": "pm-mined", "fallback": "edit", "max_distance": 1},
            {"strategy": "pm-mined", "fallback": "edit", "max_distance": 3},
        ]
    ),
    UNITS,
)
SPACE = "the bare space is a candidate only for tokens of spaces"
BARS = {
    "special tokens match by role or literal, never by spelling",
    "unused tokens never match",
    "in code points, byte tokens match the same bytes only",
    "in code points, fragment tokens match the same bytes only",
    SPACE,
    "farther than 1",
    "farther than 3",
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


def read_without(src, src_id, dst, ids, how):
    return build_map(src, without(dst, ids), **how).dst_id[src_id]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(pairs, HOW)
def test_each_runner_up_is_read_once_those_before_it_are_gone(pair, how):
    src, dst = pair
    explainer = Explainer(build_map(src, dst, **how), dst)
    for src_id in range(len(src)):
        found = explainer.explain(src_id, EVERY)
        gone = [found.match.dst_id] if found.match else []
        for one in found.runners_up:
            if one.reason == SPACE and "fallback" in how:  # on its own it is the nearest
                continue
            if one.reason in BARS:
                others = set(range(len(dst))) - {one.dst_id}
                assert read_without(src, src_id, dst, others, how) == -1
            else:
                assert read_without(src, src_id, dst, gone, how) == one.dst_id
                gone.append(one.dst_id)


def true_of(src, kind, match, one, unit):
    """Whether the reason of `one` is so, told from the tokens themselves."""
    apart = edit_distance(src, one.token, unit)
    as_far = apart == match.distance == edit_distance(src, match.token, unit)
    same_bytes = one.token == src == match.token
    if one.reason == "same bytes, higher id":
        as_good = (one.kind == kind) == (match.kind == kind)
        return same_bytes and as_good and one.dst_id > match.dst_id
    if one.reason == "same bytes, but of another kind: the same kind goes first":
        return same_bytes and match.kind == kind != one.kind
    if one.reason == "same distance, higher id":
        return as_far and one.distance == match.distance and one.dst_id > match.dst_id
    if one.reason == f"farther: the match has {match.distance}":
        return one.distance == apart > match.distance
    if one.reason == "special tokens go before text":
        return (one.kind, match.kind) == ("text", "special")
    if one.reason == "the identical literal goes first":
        return match.token == src != one.token
    if one.reason.endswith("literal, higher id"):
        literals = {token.decode(errors="replace") for token in (src, one.token, match.token)}
        return len(literals) == 1 and one.dst_id > match.dst_id
    if higher := re.fullmatch(r"(same|fallback) role (\w+), higher id", one.reason):
        roles = {role_of(token.decode()) for token in (one.token, match.token)}
        return roles == {higher[2]} and one.dst_id > match.dst_id
    fallback = re.fullmatch(r"role (\w+) goes first", one.reason)
    return role_of(match.token.decode()) == fallback[1] != role_of(one.token.decode())


def bar_holds(src, kind, one, how):
    names, unit = {"text", "byte", "fragment"}, how["unit"]
    bound = how.get("max_distance", 10**6)
    return {
        "special tokens match by": one.kind == "special" != kind,
        "unused tokens never": one.kind == "unused",
        "in code points, byte": unit == "char" and "byte" in (kind, one.kind),
        "in code points, fragment": unit == "char" and "fragment" in (kind, one.kind),
        "the bare space": one.token == b" " and src.strip(b" ") != b"",
        f"farther than {bound}": one.distance == edit_distance(src, one.token, unit) > bound,
        "strategy exact": how["strategy"] == "exact" and one.token != src,
        f"a {one.kind} token, not": kind == "special" and one.kind in names,
    }


@settings(max_examples=200, deadline=None)
@given(pairs, HOW)
def test_every_reason_is_so(pair, how):
    src, dst = pair
    token_map = build_map(src, dst, **how)
    explainer = Explainer(token_map, dst)
    for src_id in range(len(src)):
        row, found = token_map.row(src_id), explainer.explain(src_id, EVERY)
        assert found.by_rules == row.dst_id
        assert (found.match is None) == (row.dst_id == -1) == bool(found.why)
        assert found.choices == ([found.match] if found.match else [])
        for one in found.runners_up:
            if one.reason in BARS:
                held = bar_holds(row.src_token, row.src_kind, one, how)
                assert [so for start, so in held.items() if one.reason.startswith(start)] == [True]
            else:
                assert true_of(row.src_token, row.src_kind, found.match, one, how["unit"]), one


@settings(max_examples=100, deadline=None)
@given(vocabularies, vocabularies, UNITS)
def test_of_edit_distance_every_token_is_a_runner_up(src, dst, unit):
    token_map = build_map(src, dst, strategy="mined", unit=unit)
    explainer = Explainer(token_map, dst)
    for src_id in np.flatnonzero(token_map.rule == Rule.EDIT).tolist():
        every, few = explainer.explain(src_id, EVERY), explainer.explain(src_id, 2)
        by_edits = [one for one in every.runners_up if one.relation == "edit"]
        assert by_edits == sorted(by_edits, key=lambda one: (one.distance, one.dst_id))
        candidates = [i for i in range(len(dst)) if dst.kind(i) <= (0 if unit == "char" else 2)]
        assert sorted([every.match.dst_id, *(one.dst_id for one in by_edits)]) == candidates
        assert few.runners_up == every.runners_up[:2]
        assert few.runners_up_count == every.runners_up_count == len(every.runners_up)


@settings(max_examples=150, deadline=None)
@given(vocabularies, vocabularies, UNITS, st.integers(1, 3), st.sampled_from([1, 0.5, 0.01, 1e-30]))
def test_choices_are_the_first_candidates(src, dst, unit, top_k, decay):
    """Of strategy prefixes: its choices and its runners-up are the candidates of pm-mined."""
    made = build_map(src, dst, strategy="prefixes", unit=unit, top_k=top_k, decay=decay)
    soft, plain = Explainer(made, dst), Explainer(build_map(src, dst, unit=unit), dst)
    for src_id in range(len(src)):
        found, one = soft.explain(src_id, EVERY), plain.explain(src_id, EVERY)
        assert (found.match, found.by_rules, found.why) == (one.match, one.by_rules, one.why)
        assert [choice.dst_id for choice in found.choices] == [
            i for i, _ in choices_of(made, src_id)
        ]
        if found.match is None or found.match.relation not in ("prefix", "extension"):
            assert found.runners_up == one.runners_up
            continue
        able = [one.match, *(lost for lost in one.runners_up if lost.reason not in BARS)]
        read = len(found.choices)
        assert [choice[:5] for choice in found.choices] == [each[:5] for each in able[:read]]
        reasons = [lost.reason for lost in found.runners_up if lost.reason not in BARS]
        too_light = min(top_k, len(able)) - read
        assert reasons == ["its weight is too small to count"] * too_light + [
            f"not among the first {top_k}"
        ] * (len(able) - read - too_light)


@pytest.mark.slow
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


REAL = [
    ("mistral-v1", "llama3", {}),
    ("llama3", "qwen3", {"unit": "byte"}),
    ("llama3", "qwen3", {"fallback": "edit", "max_distance": 2}),
    ("mistral-tekken", "deepseek", {"strategy": "exact"}),
    ("llama3", "qwen3", {"strategy": "mined"}),
    ("mistral-v1", "llama3", {"strategy": "first-token"}),
    ("llama3", "mistral-v3", {"strategy": "distribute", "top_k": 3}),
    ("llama3", "qwen3", {"strategy": "decay"}),
    ("mistral-v1", "llama3", {"strategy": "prefixes"}),
    ("mistral-v1", "qwen3", {"strategy": "both-ways"}),
]


@pytest.mark.parametrize(("source", "destination", "how"), quick_first(REAL, 2))
def test_real_maps_are_what_the_explanation_chooses(source, destination, how):
    src, dst = real_vocabulary(source), real_vocabulary(destination)
    token_map = build_map(src, dst, **how)
    explainer = Explainer(token_map, dst)
    checked = Counter()
    for src_id in sample(token_map):
        row, found = token_map.row(src_id), explainer.explain(src_id, limit=0)
        checked[row.rule, row.src_kind] += 1
        assert found.by_rules == row.dst_id
        assert (found.match is None) == bool(found.why)
        assert "other rules" not in found.why
        assert [one.dst_id for one in found.choices] == [
            i for i, _ in choices_of(token_map, src_id)
        ]
        if found.match is not None:
            assert found.match[:2] == (row.dst_id, row.dst_token)
            assert found.match.distance == row.distance
            assert found.match.relation in relations_of(row)
    assert checked.total() > 40
    assert {"exact", "special"} <= {rule for rule, _ in checked}


def relations_of(row):
    if row.rule == "special":
        roles = {role_of(token.decode()) for token in (row.src_token, row.dst_token)} - {None}
        same, fallback = ({f"{how} role {role}" for role in roles} for how in ("same", "fallback"))
        return {"identical literal"} | same | fallback
    said = {"exact": "same bytes", "byte": "same bytes"}
    begins = {"its own encoding begins with it"} if row.rule == "extension" else set()
    return {said.get(row.rule, row.rule)} | begins


def sample(token_map: TokenMap):
    """Some tokens of every rule and kind, spread over the ids."""
    kinds = np.array(token_map.column("src_kind").indices)
    groups = [
        np.flatnonzero((token_map.rule == rule) & (kinds == kind)) for rule in Rule for kind in Kind
    ]
    return [int(i) for group in groups for i in group[:: max(1, len(group) // 30)]]


@pytest.mark.slow
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
        assert found[2:] == ("unused tokens never match", [], 0, [], [], None)


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


def test_the_nearest_by_edit_distance():
    src, dst = texts(b"colour"), texts(b"color", b"colors", b"xyz", b"colours!", b"col-our")
    found = explained(src, dst, strategy="mined")
    assert (found.match.dst_id, found.match.relation, found.match.distance) == (0, "edit", 1)
    assert reasons(found) == {
        4: "same distance, higher id",
        1: "farther: the match has 1",
        3: "farther: the match has 1",
        2: "farther: the match has 1",
    }


def test_the_fallback_decides_what_no_prefix_does():
    src = texts(b"colour", b"hue")
    dst = texts(b"kolor", b"co", b"hye", b"hut")
    how = {"fallback": "edit", "max_distance": 1}
    assert explained(src, dst, **how).match.relation == "prefix"
    found = explained(src, dst, 1, **how)
    assert (found.match.dst_id, found.match.relation) == (2, "edit")
    assert reasons(found)[3] == "same distance, higher id"
    assert reasons(found)[0] == "farther than 1"
    found = explained(texts(b"hue"), texts(b"kolor", b"hype!"), **how)
    assert found.why == (
        "no candidate has the same bytes, is a prefix of it, begins with it or is within distance 1"
    )
    assert (found.nearest, reasons(found)) == ([], {1: "farther than 1", 0: "farther than 1"})


# --- Strategies that ask a tokenizer -------------------------------------------------------------

TOKENIZERS = {"metaspace": tiny.metaspace_bpe, "unigram": tiny.unigram, "words": tiny.word_piece}
ENCODED = ["first-token", "distribute", "decay", "both-ways"]


@pytest.fixture(scope="module")
def tinies(tmp_path_factory):
    made = {}
    for name, make in TOKENIZERS.items():
        path = tmp_path_factory.mktemp("tiny") / "tokenizer.json"
        make().save(str(path))
        made[name] = load_vocabulary(path)
    return made


@pytest.mark.parametrize("strategy", ENCODED)
@pytest.mark.parametrize(
    ("source", "destination"), [("metaspace", "unigram"), ("words", "metaspace")]
)
def test_the_encoding_explains_the_map(tinies, strategy, source, destination):
    src, dst = tinies[source], tinies[destination]
    made = build_map(src, dst, strategy=strategy)
    explainer, rules = Explainer(made, dst), Counter()
    for src_id in range(len(src)):
        row, found = made.row(src_id), explainer.explain(src_id, EVERY)
        rules[row.rule] += 1
        read = [i for i, _ in choices_of(made, src_id)]
        assert found.by_rules == row.dst_id
        assert (found.match is None) == bool(found.why)
        assert [one.dst_id for one in found.choices] == read
        assert not {one.dst_id for one in found.runners_up} & set(read)
        if row.rule == "encoding":
            ids = [i for i, _ in found.encoding]
            assert all(dst[i] == token for i, token in found.encoding)
            assert found.match.distance == edit_distance(src[src_id], dst[ids[0]])
            if strategy in ("distribute", "decay"):
                assert read == list(dict.fromkeys(ids[:8]))
            else:
                assert read[0] == ids[0]
        else:
            assert not found.encoding
    assert rules["encoding"] > 10


def test_what_the_tokenizer_does_not_write(tinies):
    src, dst = texts(b" thex"), tinies["metaspace"]
    first = dst.find(b" the")
    for strategy, reason in {
        "first-token": "the tokenizer does not write it first",
        "decay": "not among the first 8 that the tokenizer writes",
        "distribute": "not among the first 8 that the tokenizer writes",
    }.items():
        found = explained(src, dst, strategy=strategy)
        assert [found.match.dst_id] == first
        assert b"".join(token for _, token in found.encoding) == b" thex"
        lost = reasons(found)
        assert lost
        assert set(lost.values()) == {reason}
        assert set(lost).isdisjoint(one.dst_id for one in found.choices)


def test_an_encoding_ends_before_an_unknown_token(tinies):
    src = texts("the龘".encode(), "龘".encode())
    for name in ("unigram", "words"):
        dst = tinies[name]
        made = build_map(src, dst, strategy="first-token")
        explainer = Explainer(made, dst)
        for src_id in (0, 1):
            found = explainer.explain(src_id)
            assert found.by_rules == made.dst_id[src_id]
            written = b"".join(token for _, token in found.encoding)
            assert src[src_id].startswith(written)
            assert "龘".encode() not in written
        assert made.dst_id[1] == -1
        assert found.why == (
            "no token has the same bytes, and its encoding begins with none that has bytes"
        )


def test_a_group_says_whose_encoding_begins_with_it(tinies):
    src, dst = tinies["metaspace"], tinies["words"]
    made = build_map(src, dst, strategy="both-ways")
    explainer = Explainer(made, dst)
    several = np.flatnonzero(made.choice_counts > 1).tolist()
    assert several
    for src_id in several:
        first, *others = explainer.explain(src_id).choices
        assert first.relation in ("same bytes", "encoding", "its own encoding begins with it")
        for one in others:
            assert one.relation in ("same bytes", "its own encoding begins with it")
            assert one.token.startswith(src[src_id])


@pytest.mark.parametrize("strategy", ENCODED)
def test_without_the_tokenizer_the_map_is_the_witness(tinies, strategy, tmp_path):
    src, dst = tinies["metaspace"], tinies["unigram"]
    made = build_map(src, dst, strategy=strategy)
    (tmp_path / "ranks.tiktoken").write_bytes(tiny.rank_file([b"a"]))
    whys = {None: "vocabulary without its tokenizer", tmp_path / "ranks.tiktoken": "a rank file"}
    for tokenizer, why in whys.items():
        explainer = Explainer(made, replace(dst, tokenizer=tokenizer))
        for src_id in np.flatnonzero(made.rule == Rule.ENCODING).tolist()[:20]:
            found = explainer.explain(src_id)
            assert found.match[:2] == (made.dst_id[src_id], dst[made.dst_id[src_id]])
            assert found.by_rules == made.dst_id[src_id]
            assert found.why.startswith("its encoding cannot be shown: ")
            assert why in found.why
            assert "\n" not in found.why
            assert found.encoding is None
        exact = int(np.flatnonzero(made.rule == Rule.EXACT)[0])
        assert explainer.explain(exact).why == ""


def test_an_override_that_no_tokenizer_can_be_compared_with(tinies, tmp_path):
    (tmp_path / "table.toml").write_text("[[override]]\nsrc_id = 0\ndst_id = 3\n")
    src, dst = texts(b"quickest"), tinies["unigram"]
    made = build_map(src, dst, strategy="first-token", overrides=tmp_path / "table.toml")
    assert Explainer(made, dst).explain(0).by_rules not in (-1, 3, None)
    found = Explainer(made, replace(dst, tokenizer=None)).explain(0)
    assert found.by_rules is None
    assert found.why.startswith(
        "an override decided; by the rules alone: its encoding cannot be shown"
    )


# --- What is not known is said -------------------------------------------------------------------


def remade(token_map, **info):
    """The map with other metadata."""
    fields = {**vars(token_map.info), **info}
    return TokenMap(type(token_map.info)(**fields), token_map.to_arrow())


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "nearest", "unit": "char"},
        {"name": ["x"], "unit": "char"},
        {"name": "exact"},
        {"name": "exact", "unit": "char", "top_k": 8},
        {"name": "decay", "unit": "char", "top_k": "many", "decay": 0.1},
        {"name": "decay", "unit": "char", "top_k": 8},
        {"name": "pm-mined", "unit": "char", "fallback": "role", "max_distance": 2},
        {},
    ],
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
@given(vocabularies, vocabularies, st.sampled_from(["pm-mined", "prefixes"]))
def test_sources_are_all_that_map_to_a_token(src, dst, strategy):
    token_map = build_map(src, dst, strategy=strategy)
    rows = token_map.to_arrow().to_pylist()
    for dst_id in range(len(dst)):
        expected = []
        for row in rows:
            ids = row.get("dst_ids", [row["dst_id"]])
            weights = row.get("weights", [None] * len(ids))
            for place, (i, weight) in enumerate(zip(ids, weights, strict=True), 1):
                nearness = row["distance"] if place == 1 else 0
                if i == dst_id:
                    expected.append((-(weight or 0), place, nearness, row["src_id"], weight))
        expected = [(src_id, place, weight) for _, place, _, src_id, weight in sorted(expected)]
        assert sources_of(token_map, dst_id) == expected
    for token in {b"", b"never", *dst.packed.tolist()}:
        expected = {row["dst_id"] for row in rows if row["dst_token"] == token} - {-1}
        assert first_choices(token_map, token) == sorted(expected)


def test_sources_in_a_group(tinies):
    made = build_map(tinies["metaspace"], tinies["words"], strategy="both-ways")
    rows = made.to_arrow().to_pylist()
    for dst_id in range(len(tinies["words"])):
        found = sources_of(made, dst_id)
        assert sorted(one.src_id for one in found) == [
            row["src_id"] for row in rows if dst_id in row["dst_ids"]
        ]
        for one in found:
            assert rows[one.src_id]["dst_ids"][one.place - 1] == dst_id
            assert one.weight is None
        assert [one.place for one in found] == sorted(one.place for one in found)
