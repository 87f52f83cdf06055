"""Strategies under one interface: what each maps, and which options it takes."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from adversarial import vocabularies
from command_line import run
from conftest import real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_mined import Kind, OptionError, Rule, Vocabulary, build_map
from pm_mined.kernels import reference
from pm_mined.kernels.tokens import Choices, is_candidate, length
from pm_mined.reports.compare import Comparison
from pm_mined.strategies.base import Options
from pm_mined.strategies.registry import STRATEGIES, describe_strategy, options_of

UNITS = st.sampled_from(["char", "byte"])
WITHOUT_TOKENIZER = [name for name, one in STRATEGIES.items() if not one.asks_tokenizer]


def texts(*tokens, **about):
    return Vocabulary.from_tokens([t.encode() for t in tokens], [Kind.TEXT] * len(tokens), **about)


def rows_of(choices):
    """What each source token maps to: destination id -> weight, in order."""
    weights = np.ones(len(choices.dst_id)) if choices.weight is None else choices.weight
    pairs = list(zip(choices.dst_id.tolist(), weights.tolist(), strict=True))
    ends = choices.offsets.tolist()
    return [dict(pairs[start:stop]) for start, stop in pairwise(ends)]


# --- mined, and the fallback ---------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(vocabularies, vocabularies, UNITS)
def test_mined_is_exact_and_then_the_nearest(src, dst, unit):
    exact, mined = (build_map(src, dst, strategy=name, unit=unit) for name in ("exact", "mined"))
    dst_id, distance = reference.nearest(src.packed, dst.packed, unit)
    undecided = exact.rule == Rule.NONE
    assert np.array_equal(mined.dst_id, np.where(undecided, dst_id, exact.dst_id))
    assert np.array_equal(mined.distance, np.where(undecided, distance, exact.distance))
    assert set(mined.rule[undecided].tolist()) <= {Rule.EDIT, Rule.NONE}


@settings(max_examples=80, deadline=None)
@given(vocabularies, vocabularies, UNITS, st.integers(1, 5))
def test_the_fallback_maps_what_pm_mined_does_not(src, dst, unit, most):
    alone = build_map(src, dst, unit=unit)
    made = build_map(src, dst, unit=unit, fallback="edit", max_distance=most)
    dst_id, distance = reference.nearest(src.packed, dst.packed, unit, most)
    left = alone.rule == Rule.NONE
    assert np.array_equal(made.dst_id, np.where(left, dst_id, alone.dst_id))
    assert np.array_equal(made.distance, np.where(left, distance, alone.distance))
    assert np.array_equal(made.rule == Rule.EDIT, left & (dst_id >= 0))


@pytest.mark.slow
def test_mined_is_never_farther_than_pm_mined_on_real_vocabularies():
    pair = real_vocabulary("llama3"), real_vocabulary("mistral-v1")
    near, mined = build_map(*pair), build_map(*pair, strategy="mined")
    mapped = near.dst_id >= 0
    assert (mined.distance[mapped] <= near.distance[mapped]).all()
    within = build_map(*pair, fallback="edit", max_distance=2)
    assert (within.rule == Rule.EDIT).any()
    assert within.distance[within.rule == Rule.EDIT].max() == 2


# --- prefixes ------------------------------------------------------------------------------------


def prefixes_by_definition(src, dst, unit, top_k, decay):
    """Every pair of tokens is compared; weights are fractions."""
    matches = reference.brute_force(src.packed, dst.packed, unit)
    others = [
        (i, token, length(token, unit))
        for i, token in enumerate(dst.packed.tolist())
        if is_candidate(dst.kind(i), unit)
    ]
    for i, token in enumerate(src.packed.tolist()):
        if matches.rule[i] in (Rule.EXACT, Rule.BYTE):
            yield {int(matches.dst_id[i]): 1.0}
            continue
        related = sorted(
            (abs(length(token, unit) - size), j)
            for j, other, size in others
            if other and (token.startswith(other) or other.startswith(token))
            if other != b" " or not token.strip(b" ")
        )
        kept = related[:top_k] if matches.rule[i] != Rule.NONE else []
        weights = [Fraction(decay) ** distance for distance, _ in kept]
        shares = {j: float(w / sum(weights)) for (_, j), w in zip(kept, weights, strict=True)}
        yield {j: share for j, share in shares.items() if np.float32(share) > 0}


@settings(max_examples=120, deadline=None)
@given(vocabularies, vocabularies, UNITS, st.integers(1, 9), st.sampled_from([0.1, 0.5, 1.0]))
def test_prefixes_by_their_definition(src, dst, unit, top_k, decay):
    options = Options(unit, top_k=top_k, decay=decay)
    matches, choices = STRATEGIES["prefixes"].match(src, dst, options)
    found, expected = rows_of(choices), list(prefixes_by_definition(src, dst, unit, top_k, decay))
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, exact in zip(found, expected, strict=True):
        assert list(row.values()) == pytest.approx(list(exact.values()), rel=1e-6)
    assert [next(iter(row), -1) for row in found] == matches.dst_id.tolist()
    near = STRATEGIES["pm-mined"].match(src, dst, Options(unit)).matches
    assert all(np.array_equal(*pair) for pair in zip(matches, near, strict=True))


@pytest.mark.slow
def test_prefixes_of_real_vocabularies():
    src, dst = real_vocabulary("llama3"), real_vocabulary("qwen3")
    made = build_map(src, dst, strategy="prefixes")
    rows = rows_of(made.choices)
    texts_of = {}
    for i, token in enumerate(dst.packed.tolist()):
        if dst.kind(i) == Kind.TEXT and token != b" ":
            texts_of.setdefault(token.decode(), i)
    inexact = np.flatnonzero((made.rule == Rule.PREFIX) | (made.rule == Rule.EXTENSION))
    for src_id in np.random.default_rng(0).choice(inexact, 60, replace=False).tolist():
        text = src[src_id].decode()
        related = sorted(
            (abs(len(other) - len(text)), i)
            for other, i in texts_of.items()
            if text.startswith(other) or other.startswith(text)
        )
        assert list(rows[src_id]) == [i for _, i in related[:8]]


def test_weights_of_the_farthest_tokens():
    src, dst = texts("a" * 4000), texts("b", "aa", "aaa")
    assert rows_of(build_map(src, dst, strategy="prefixes", decay=0.1).choices) == [
        {2: pytest.approx(10 / 11), 1: pytest.approx(1 / 11)}
    ]


def test_a_weight_that_is_nothing_is_left_out():
    src, dst = texts("abcdefgh"), texts("a", "abcdefg", "abcd")
    made = build_map(src, dst, strategy="prefixes", decay=1e-30)
    assert rows_of(made.choices) == [{1: 1.0}]
    assert list(rows_of(build_map(src, dst, strategy="prefixes", decay=1e-10).choices)[0]) == [1, 2]


# --- What no strategy decides --------------------------------------------------------------------


def test_special_and_overridden_tokens_have_one_choice_or_none(tmp_path):
    kinds = [Kind.SPECIAL, Kind.TEXT, Kind.TEXT, Kind.UNUSED, Kind.TEXT]
    src = Vocabulary.from_tokens([b"<s>", b"abc", b"abd", b"", b"abcd"], kinds)
    dst = Vocabulary.from_tokens([b"ab", b"a", b"<bos>"], [Kind.TEXT, Kind.TEXT, Kind.SPECIAL])
    table = tmp_path / "table.toml"
    table.write_text(
        '[[override]]\nsrc = "abc"\ndst = "a"\n[[override]]\nsrc = "abd"\ndst = false\n'
    )
    made = build_map(src, dst, strategy="prefixes", overrides=table)
    assert made.dst_id.tolist() == [2, 1, -1, -1, 0]
    expected = [{2: 1.0}, {1: 1.0}, {}, {}, {0: pytest.approx(2 / 3), 1: pytest.approx(1 / 3)}]
    assert rows_of(made.choices) == expected


_lists = st.lists(st.lists(st.integers(0, 9), max_size=3, unique=True), max_size=6)


@given(_lists, st.data())
def test_replaced_choices(rows, data):
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    ids = np.array([i for row in rows for i in row], np.int32)
    weight = data.draw(st.sampled_from([None, np.ones(len(ids))]))
    replaced = data.draw(st.sets(st.integers(0, len(rows) - 1)) if rows else st.just(set()))
    new = {row: data.draw(st.integers(-1, 9)) for row in sorted(replaced)}
    made = Choices.of(len(rows), owners, ids, weight).replace(
        np.array(list(new), np.int64), np.array(list(new.values()), np.int32)
    )
    expected = [
        (([new[i]] if new[i] >= 0 else []) if i in new else row) for i, row in enumerate(rows)
    ]
    assert [list(row) for row in rows_of(made)] == expected
    assert (made.weight is None) == (weight is None)
    if weight is not None:
        assert [sum(row.values()) for row in rows_of(made) if row] == pytest.approx(
            [1.0 for row in expected if row]
        )


# --- Options -------------------------------------------------------------------------------------


def test_the_help_of_a_build_has_every_strategy():
    listed = run("build", "--help").stdout.partition("Strategies (")[2]
    words = " ".join(listed.split())
    for name, one in STRATEGIES.items():
        assert f" {name} {one.help}" in words
        for option, default in one.options.items():
            flag = f"--{option.replace('_', '-')}"
            assert (flag if default is None else f"{flag} {default}") in words


@pytest.mark.parametrize(
    ("strategy", "given", "said"),
    [
        ("guess", {}, "no strategy 'guess'; there are pm-mined, exact, mined, first-token"),
        (
            "exact",
            {"top_k": 3},
            r"no option top_k \(--top-k\); distribute, decay and prefixes have",
        ),
        (
            "mined",
            {"fallback": "edit"},
            r"no option fallback \(--fallback\); pm-mined has it",
        ),
        (
            "mined",
            {"max_distance": 1},
            r"strategy mined has no option max_distance ",
        ),
        (
            "distribute",
            {"decay": 0.5},
            r"no option decay \(--decay\); decay and prefixes have",
        ),
        ("pm-mined", {"max_distance": 2}, "needs fallback edit"),
        ("pm-mined", {"fallback": "guess"}, r"fallback \(--fallback\) is 'guess': it must be edit"),
        *(
            (
                "pm-mined",
                {"fallback": "edit", "max_distance": most},
                "must be a whole number from 1 to 64",
            )
            for most in (0, -1, 65, 10**9, 2.0, "2", True)
        ),
        *(
            ("decay", {"top_k": k}, "it must be a whole number from 1 to 1024")
            for k in (0, -3, 1025, 1.5)
        ),
        *(
            ("prefixes", {"decay": share}, "it must be a number more than 0 and at most 1")
            for share in (0, -0.5, 1.01, float("nan"), float("inf"), "much")
        ),
        ("pm-mined", {"unit": "word"}, r"unit \(--unit\) is 'word': it must be char or byte"),
    ],
)
def test_options_that_cannot_be(strategy, given, said):
    with pytest.raises(OptionError, match=said):
        options_of(strategy, given)
    with pytest.raises(OptionError, match=said):
        build_map(texts("a"), texts("a"), strategy=strategy, **given)


@pytest.mark.parametrize("strategy", WITHOUT_TOKENIZER)
def test_options_are_remembered(strategy):
    made = build_map(texts("abc"), texts("ab"), strategy=strategy, unit="byte")
    expected = {"top_k": 8, "decay": 0.5} if strategy == "prefixes" else {}
    assert made.info.strategy == {"name": strategy, "unit": "byte", **expected}


def test_the_fallback_is_remembered():
    made = build_map(texts("xbc"), texts("abc"), fallback="edit")
    assert made.info.strategy == {
        "name": "pm-mined",
        "unit": "char",
        "fallback": "edit",
        "max_distance": 2,
    }
    assert made.row(0).rule == "edit"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--strategy", "exact", "--top-k", "3"], "strategy exact has no option top_k (--top-k); "),
        (
            ["--fallback", "edit", "--max-distance", "-1"],
            "is -1: it must be a whole number",
        ),
        (
            ["--max-distance", "3"],
            "(--max-distance) needs fallback edit (--fallback edit)",
        ),
        (
            ["--strategy", "decay", "--decay", "nan"],
            "decay (--decay) is nan: it must be a number more than 0",
        ),
    ],
)
def test_a_usage_error_is_one_line_and_exit_status_2(options, said, tmp_path):
    done = run("build", "--src", "absent", "--dst", "absent", *options, cwd=tmp_path)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_all_that_a_strategy_was_told():
    fallback = {"fallback": "edit", "max_distance": 2}
    assert describe_strategy({"name": "pm-mined", "unit": "char", **fallback}) == (
        "strategy pm-mined, distances in code points, fallback edit within 2"
    )
    sorted_as_in_a_file = {"decay": 0.5, "name": "prefixes", "top_k": 4, "unit": "byte"}
    assert describe_strategy(sorted_as_in_a_file) == (
        "strategy prefixes, top 4, decay 0.5, distances in bytes"
    )


def test_maps_are_compared_by_all_choices():
    src, dst = texts("abc", "ab", "x"), texts("ab", "a")
    near, several = build_map(src, dst), build_map(src, dst, strategy="prefixes")
    found = Comparison(near, several)
    assert found.other_choices.tolist() == [True, False, False]
    assert not found.equal
    assert not found.other_dst.any()
    edited = build_map(src, dst, strategy="mined")
    assert Comparison(edited, several).other_choices.tolist() == [True, False, False]
