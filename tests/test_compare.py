"""`pm-mined compare`: where two maps between the same vocabularies differ."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from adversarial import vocabularies
from command_line import run
from conftest import quick_first, real_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

from pm_mined import Kind, PmMinedError, Vocabulary, build_map
from pm_mined.display import display_token
from pm_mined.reports.compare import Comparison
from pm_mined.reports.usage import Usage

HOSTILE = [b"\x1b[31mred", "\u202eabc".encode(), b"a\nb", b"[bold]b", b"\xff\xfe", b"\0"]
EVERYTHING = {"files": ["text"], "documents": 1, "characters": 10, "unverified_cuts": 0}


def counted_slowly(a, b):
    """Rows that differ, by (same destination, rule in A, rule in B): one row at a time."""
    found = Counter()
    for one, other in zip(a.to_arrow().to_pylist(), b.to_arrow().to_pylist(), strict=True):
        if one != other:
            found[one["dst_id"] == other["dst_id"], one["rule"], other["rule"]] += 1
    return found


def counted(compared):
    groups = compared.to_json()["groups"]
    return {(g["same_dst"], g["rule_a"], g["rule_b"]): g["tokens"] for g in groups}


def overrides(folder, *rows):
    path = folder / "table.toml"
    path.write_text("".join(f"[[override]]\nsrc_id = {src}\n{dst}\n" for src, dst in rows))
    return path


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def maps(tmp_path):
    """`a.arrow` and `b.arrow`, which differ in every way."""
    src = Vocabulary.from_tokens([b"abc", b"x", "éa".encode(), b"same", *HOSTILE], [Kind.TEXT] * 10)
    dst = Vocabulary.from_tokens([b"ab", b"x", "é".encode(), b"same", *HOSTILE], [Kind.TEXT] * 10)
    hand = [(0, "dst = false"), (1, "dst_id = 1"), *((i, "dst_id = 0") for i in range(4, 10))]
    made = build_map(src, dst), build_map(src, dst, overrides=overrides(tmp_path, *hand))
    for name, token_map in zip("ab", made, strict=True):
        token_map.save(f"{name}.arrow")
    return made


# --- What is counted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("src", "dst"), quick_first([("mistral-v1", "qwen3"), ("qwen3", "llama3")])
)
def test_the_counts_of_real_maps(src, dst, tmp_path):
    src, dst = real_vocabulary(src), real_vocabulary(dst)
    char, byte = (build_map(src, dst, unit=unit) for unit in ("char", "byte"))
    by_hand = overrides(tmp_path, (300, "dst = false"), (301, "dst_id = 5"))
    for a, b in [(char, byte), (byte, char), (char, build_map(src, dst, overrides=by_hand))]:
        compared = Comparison(a, b)
        expected = counted_slowly(a, b)
        assert expected
        assert not compared.equal
        assert counted(compared) == expected
        document = compared.to_json()
        for key, same_dst in (("other_dst", False), ("otherwise", True)):
            tokens = sum(count for group, count in expected.items() if group[0] == same_dst)
            assert document[key] == {"tokens": tokens, "share": tokens / len(a)}


@settings(max_examples=100, deadline=None)
@given(vocabularies, vocabularies, st.data())
def test_the_counts_of_any_maps(src, dst, data):
    units, names = st.sampled_from(["char", "byte"]), st.sampled_from(["pm-mined", "exact"])
    a, b = (build_map(src, dst, strategy=data.draw(names), unit=data.draw(units)) for _ in "ab")
    uses = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(src), max_size=len(src))))
    compared = Comparison(a, b, Usage(uses.astype(np.int64), **EVERYTHING))
    assert counted(compared) == counted_slowly(a, b)
    assert compared.equal == (a.to_arrow().to_pylist() == b.to_arrow().to_pylist())
    listed = np.concatenate([np.empty(0, int), *(group.src_ids for group in compared.groups)])
    assert sorted(listed) == np.flatnonzero(compared.other_dst | compared.otherwise).tolist()
    for group, shown in zip(compared.groups, compared.to_json(100)["groups"], strict=True):
        assert shown["uses"] == sum(uses[i] for i in group.src_ids)
        order = [(-uses[i], i) for i in group.src_ids]
        assert order == sorted(order)
        assert [example["src_id"] for example in shown["examples"]] == group.src_ids.tolist()


def test_what_differs_is_what_is_read(maps):
    a, b = maps
    compared = Comparison(a, b)
    assert np.flatnonzero(compared.other_dst).tolist() == [0, *range(4, 10)]
    assert np.flatnonzero(compared.otherwise).tolist() == [1]
    first, second, last = compared.to_json(1)["groups"]
    assert (first["rule_a"], first["rule_b"], first["tokens"]) == ("exact", "override", 6)
    assert (second["rule_a"], second["rule_b"], second["tokens"]) == ("prefix", "override", 1)
    assert last["same_dst"]
    (example,) = second["examples"]
    assert (example["src_id"], example["src_token_hex"]) == (0, b"abc".hex())
    read = {"rule": "prefix", "distance": 1, "dst_id": 0, "dst_token": "ab"}
    assert example["a"] == {**read, "dst_token_hex": b"ab".hex()}
    assert (example["b"]["dst_id"], example["b"]["distance"]) == (-1, -1)


def test_the_group_that_is_used_most_comes_first(maps):
    uses = np.zeros(len(maps[0]), np.int64)
    uses[[0, 1, 5]] = 3, 9, 2
    groups = Comparison(*maps, Usage(uses, **EVERYTHING)).groups
    assert [(group.rule_a, group.same_dst) for group in groups] == [
        ("prefix", False),
        ("exact", False),
        ("exact", True),
    ]
    assert groups[1].src_ids.tolist() == [5, 4, 6, 7, 8, 9]


def test_another_distance_is_a_difference():
    src = Vocabulary.from_tokens(["xé".encode()], [Kind.TEXT])
    dst = Vocabulary.from_tokens([b"x"], [Kind.TEXT])
    char, byte = (build_map(src, dst, unit=unit) for unit in ("char", "byte"))
    compared = Comparison(char, byte)
    assert not compared.equal
    assert counted(compared) == {(True, "prefix", "prefix"): 1}


def test_other_vocabularies(maps):
    small = Vocabulary.from_tokens([b"a"], [Kind.TEXT], name="small")
    other = build_map(small, small)
    with pytest.raises(PmMinedError) as refusal:
        Comparison(maps[0], other)
    message = str(refusal.value)
    assert "the source of A is custom (10 tokens, " in message
    assert "and that of B small (1 tokens, " in message
    assert message.count("custom") == message.count("small") == 2


def test_the_same_name_and_size_is_not_the_same_vocabulary():
    one, other = (Vocabulary.from_tokens([token], [Kind.TEXT]) for token in (b"a", b"b"))
    with pytest.raises(PmMinedError) as refusal:
        Comparison(build_map(one, one), build_map(one, other))
    message = str(refusal.value)
    assert "source" not in message
    assert one.fingerprint[:12] in message
    assert other.fingerprint[:12] in message


# --- The command ---------------------------------------------------------------------------------


def compare(*arguments, status):
    done = run("compare", *arguments)
    assert done.status == status, done
    assert "internal error" not in done.stderr
    return done


def cells(done):
    return [line.split() for line in done.stdout.splitlines()]


def test_equal_maps(maps):
    done = compare("a.arrow", "a.arrow", status=0)
    assert "equal: every token has the same destination, rule and distance" in done.stdout
    assert done.stderr == ""
    document = json.loads(compare("a.arrow", "a.arrow", "--json", status=0).stdout)
    assert document["equal"] is True
    assert document["groups"] == []


def test_maps_that_differ(maps):
    done = compare("a.arrow", "b.arrow", status=1)
    digest = maps[1].info.overrides_sha256[:12]
    assert "A  a.arrow: strategy pm-mined, distances in code points, no overrides" in done.stdout
    assert (
        f"B  b.arrow: strategy pm-mined, distances in code points, overrides {digest}"
        in done.stdout
    )
    assert "7 of 10 tokens (70.00%) map to another token" in done.stdout
    assert "1 of 10 tokens (10.00%) map to the same by another rule or distance" in done.stdout
    assert ["prefix", "override", "another", "1", "10.00%"] in cells(done)
    assert ["exact", "override", "the", "same", "1", "10.00%"] in cells(done)
    assert ["0", "abc", "ab", "0", "1", "(unmapped)"] in cells(done)
    assert ["1", "x", "x", "1", "0", "x", "1", "0"] in cells(done)


def test_limit(maps):
    shown = {
        limit: sum(cell[-3:] == ["ab", "0", "0"] for cell in cells(done))
        for limit in (0, 2, 50)
        for done in [compare("a.arrow", "b.arrow", "--limit", limit, status=1)]
    }
    assert shown == {0: 0, 2: 2, 50: 6}
    assert compare("a.arrow", "b.arrow", "--limit", -1, status=2).stdout == ""


def test_json_is_what_python_says(maps):
    document = json.loads(compare("a.arrow", "b.arrow", "--json", "--limit", 5, status=1).stdout)
    assert [document[of].pop("file") for of in "ab"] == ["a.arrow", "b.arrow"]
    assert document == Comparison(*maps).to_json(5)


def test_every_key_is_in_the_help(maps):
    told = set(re.findall(r"\w+", run("compare", "--help").stdout))
    document = json.loads(compare("a.arrow", "b.arrow", "--json", status=1).stdout)
    assert told >= {*document, *document["a"], *document["other_dst"], *document["groups"][0]}


def test_quiet_prints_nothing(maps):
    for more in ([], ["--json"], ["--text", "absent.txt"]):
        assert run("compare", "-q", "a.arrow", "b.arrow", *more) == (1, "", "")
        assert run("compare", "--quiet", "a.arrow", "a.arrow", *more) == (0, "", "")


def test_tokens_cannot_write_to_the_terminal(maps):
    printed = compare("a.arrow", "b.arrow", "--limit", 50, status=1).stdout
    assert all(line.isprintable() for line in printed.splitlines())
    assert all(display_token(token) in printed for token in HOSTILE)


def test_text_weights_what_differs(tmp_path):
    """Of two tokens that differ, the one that is used comes first, with its share of the uses."""
    src, dst = real_vocabulary("llama3"), real_vocabulary("qwen3")
    (never, used, also) = (src.find(token)[0] for token in (b" horse", b" cat", b" dog"))
    by_hand = overrides(tmp_path, *((i, "dst = false") for i in (never, used, also)))
    build_map(src, dst).save("a.arrow")
    build_map(src, dst, overrides=by_hand).save("b.arrow")
    (tmp_path / "text.txt").write_text(" dog cat cat the the")
    weighted = ("a.arrow", "b.arrow", "--text", "text.txt")
    document = json.loads(compare(*weighted, "--json", status=1).stdout)
    assert document["text"]["tokens"] == 5
    assert document["text"]["files"] == ["text.txt"]
    figures = {"tokens": 3, "share": 3 / len(src), "uses": 3, "use_share": 3 / 5}
    assert document["other_dst"] == figures
    (group,) = document["groups"]
    shown = [(example["src_id"], example["uses"]) for example in group["examples"]]
    assert shown == [(used, 2), (also, 1), (never, 0)]
    printed = compare(*weighted, status=1)
    assert "3 of 128,256 tokens (0.00%, 60.00% of the uses) map to another token" in printed.stdout
    assert ["exact", "override", "another", "3", "0.00%", "3", "60.00%"] in cells(printed)


# --- Trouble is status 2 -------------------------------------------------------------------------


def trouble(*arguments):
    done = compare(*arguments, status=2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("pm-mined: ")


def test_not_maps(maps, tmp_path):
    (tmp_path / "text.arrow").write_text("no map")
    for pair in [("a.arrow", "text.arrow"), ("text.arrow", "a.arrow")]:
        assert "text.arrow: not a map" in trouble(*pair)
        assert "text.arrow: not a map" in trouble(*pair, "--quiet")
    assert "absent.arrow: cannot read" in trouble("absent.arrow", "a.arrow", "--json")
    assert run("compare", "a.arrow").status == 2


def test_a_damaged_map(maps, tmp_path):
    rules = maps[1].rule.tobytes()
    content = (tmp_path / "b.arrow").read_bytes()
    assert content.count(rules) == 1
    (tmp_path / "b.arrow").write_bytes(content.replace(rules, b"\x07" + rules[1:]))
    assert "b.arrow: damaged: column rule" in trouble("a.arrow", "b.arrow")


def test_maps_of_other_vocabularies(maps):
    small = Vocabulary.from_tokens([b"a"], [Kind.TEXT], name="evil\x1b[0m")
    build_map(small, small).save("small.arrow")
    message = trouble("a.arrow", "small.arrow")
    assert message.startswith("maps between other vocabularies cannot be compared: the source of A")
    assert "\x1b" not in message


def test_text_that_cannot_be_used(maps):
    """A map of which nobody knows where its tokenizer is, and a text that is not there."""
    assert "say where it is with --src" in trouble("a.arrow", "b.arrow", "--text", "absent.txt")
    small = real_vocabulary("mistral-v1")
    build_map(small, small).save("real.arrow")
    assert "absent.txt" in trouble("real.arrow", "real.arrow", "--text", "absent.txt")


def test_trouble_of_any_kind_is_not_a_difference(maps):
    """Status 1 would say that the maps differ: not with a traceback, and not by a bug."""
    done = run("--debug", "compare", "a.arrow", "absent.arrow")
    assert (done.status, done.stdout) == (2, "")
    assert "Traceback" in done.stderr
    assert run("--debug", "show", "absent.arrow", "a").status == 1
