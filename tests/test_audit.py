"""The audit: its figures against a slow count that shares nothing with it, and the command."""

import json
import os
import re
import subprocess
import time
from collections import Counter
from functools import cache

import jsonschema
import numpy as np
import pytest
import regex
from command_line import COMMAND, on_a_terminal, refused, run
from conftest import quick_first, real_vocabulary, shared_file
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from test_docs import ROOT
from test_encoders import package_s_own
from texts import ARTICLE_1, ODDITIES, PROSE

from pm_mined import Audit, Kind, Vocabulary, build_map, read_usage
from pm_mined.reports.scripts import character_counts, scripts_of
from pm_mined.reports.usage import Usage

SCHEMA = json.loads((ROOT / "docs" / "audit.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

PAIRS = [
    ("llama3", "qwen3", "char"),
    ("qwen3.5", "mistral-tekken", "char"),
    ("mistral-v1", "llama3", "byte"),
    ("llama4", "deepseek", "char"),
]


@cache
def real_map(src, dst, unit="char"):
    return build_map(real_vocabulary(src), real_vocabulary(dst), unit=unit)


def usage_of(ids, size):
    return Usage(np.bincount(ids, minlength=size), ["text"], 1, 0, 0)


def distance_class(src, dst, unit):
    """How near two tokens are, from their bytes alone."""
    if dst is None:
        return "unmapped"
    if src == dst:
        return "exact"
    if unit == "char":
        src, dst = src.decode(), dst.decode()
    distance = Levenshtein.distance(src, dst)
    return "near" if distance <= 2 else "far"


SCRIPTS = [*ARTICLE_1, "Katakana"]
ONE_SCRIPT = regex.compile("|".join(rf"(?P<{name}>\p{{Script={name}}})" for name in SCRIPTS))


def script_class(token):
    try:
        found = ONE_SCRIPT.search(token.decode())
    except UnicodeDecodeError:
        return "Bytes"
    return found.lastgroup if found else "Common"


@pytest.mark.parametrize(("src", "dst", "unit"), quick_first(PAIRS, 2))
def test_weighted_figures_are_those_of_a_slow_count(src, dst, unit):
    """Tokens by the package's own tokenizer, one after the other; distances by RapidFuzz."""
    dst_vocabulary = real_vocabulary(dst)
    token_map, src_vocabulary = real_map(src, dst, unit), real_vocabulary(src)
    text = PROSE + ("" if src.startswith("mistral") else ODDITIES)
    ids = package_s_own(src)(text)
    matches, scripts, rules, characters, cost = (Counter() for _ in range(5))
    started = b""
    for i in ids:
        row = token_map.row(i)
        is_byte = src_vocabulary.kind(i) == Kind.BYTE
        reads = dst_vocabulary[row.dst_id] if row.dst_id >= 0 else None
        match = distance_class(src_vocabulary[i], reads, unit)
        started += src_vocabulary[i]
        matches[match] += 1
        scripts["Bytes" if is_byte else script_class(src_vocabulary[i]), match] += 1
        rules[row.rule] += 1
        characters[match] += sum(byte & 0xC0 != 0x80 for byte in src_vocabulary[i])
        length = max(1, len(src_vocabulary[i].decode(errors="ignore")))
        cost[i] += row.distance if reads is not None else length
    document = Audit(token_map, usage_of(ids, len(token_map))).to_json(limit=3000)

    assert {g["name"]: g["uses"] for g in document["matches"] if g["uses"]} == matches
    assert {g["name"]: g["uses"] for g in document["rules"] if g["uses"]} == rules
    read = [token_map.row(i).distance for i in ids if token_map.row(i).dst_id >= 0]
    assert document["text"]["mean_distance"] == pytest.approx(sum(read) / len(read))
    assert {g["name"]: g["characters"] for g in document["matches"]} == {
        name: characters[name] for name in ("exact", "near", "far", "unmapped")
    }
    assert sum(characters.values()) == document["total"]["characters"] == len(started.decode())
    found = {
        (g["name"], match): part["uses"]
        for g in document["scripts"]
        for match, part in g["by_match"].items()
        if part["uses"]
    }
    assert found == scripts
    assert {script for script, _ in found} >= set(list(ARTICLE_1)[:5])
    for group in document["matches"]:
        assert group["use_share"] == pytest.approx(matches[group["name"]] / len(ids))
    by_id = {row["src_id"]: row for row in document["costliest"]}
    assert {i for i, n in cost.items() if n} == set(by_id)
    if unit == "char":
        assert {i: row["cost"] for i, row in by_id.items()} == {i: n for i, n in cost.items() if n}
    assert [row["cost"] for row in document["costliest"]] == sorted(
        (row["cost"] for row in document["costliest"]), reverse=True
    )


@pytest.mark.parametrize(("src", "dst", "unit"), quick_first(PAIRS, 3))
def test_unweighted_figures_are_those_of_a_slow_count(src, dst, unit):
    token_map, source = real_map(src, dst, unit), real_vocabulary(src)
    document = Audit(token_map).to_json()
    VALIDATOR.validate(document)
    rows = zip(token_map.dst_id.tolist(), token_map.distance.tolist(), strict=True)
    matches, kinds, distances, read = Counter(), Counter(), Counter(), Counter()
    for i, (dst_id, distance) in enumerate(rows):
        near = "exact" if distance == 0 else "near" if distance <= 2 else "far"
        matches["unmapped" if dst_id < 0 else near] += 1
        kinds[source.kind(i).name.lower()] += 1
        if dst_id >= 0:
            distances[distance] += 1
            read[dst_id] += 1
    assert {g["name"]: g["tokens"] for g in document["matches"]} == matches
    assert {g["name"]: g["tokens"] for g in document["kinds"] if g["tokens"]} == kinds
    assert {g["distance"]: g["tokens"] for g in document["distances"]} == distances
    assert {g["name"]: g["tokens"] for g in document["rules"]} == token_map.info.rules
    ranked = sorted(read.items(), key=lambda item: (-item[1], item[0]))[:10]
    assert [(e["dst_id"], e["readers"]) for e in document["most_read"]] == ranked
    assert sum(g["tokens"] for g in document["scripts"]) == len(token_map)
    assert document["text"] is None
    assert "costliest" not in document


def test_scripts_are_those_of_another_library():
    """Every character of Llama 3's tokens, by `regex` instead of fontTools."""
    vocabulary = real_vocabulary("llama3")
    script, names = scripts_of(vocabulary.packed)
    for i in range(0, len(vocabulary), 7):
        expected = script_class(vocabulary[i])
        if vocabulary.kind(i) in (Kind.SPECIAL, Kind.UNUSED):
            expected = "No text"
        if expected != "Common":
            assert names[script[i]] == expected
        else:  # a script that is not among those of the test, or none
            found = names[script[i]].replace(" ", "_")
            none = found == "Common"
            assert none or regex.search(rf"\p{{Script={found}}}", vocabulary[i].decode())


@given(st.text(max_size=30), st.data())
def test_the_pieces_of_a_text_have_its_characters_between_them(text, data):
    whole = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    tokens = Vocabulary.from_tokens(pieces, [Kind.TEXT] * len(pieces)).packed
    assert character_counts(tokens).sum() == len(text)


tokens = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"ab", b"abc", b"abcdef", "é".encode(), b"\xff", b"<s>", b" ", b""]),
        st.sampled_from([Kind.TEXT, Kind.SPECIAL, Kind.UNUSED]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=20)
@given(tokens, tokens, st.sampled_from(["char", "byte"]), st.data())
def test_every_audit_adds_up(src, dst, unit, data):
    src, dst = (
        Vocabulary.from_tokens([t for t, _ in rows], [k for _, k in rows]) for rows in (src, dst)
    )
    token_map = build_map(src, dst, unit=unit)
    uses = data.draw(st.lists(st.integers(0, 9), min_size=len(src), max_size=len(src)))
    usage = Usage(np.array(uses, np.int64), [], 1, 0, 0)
    for audit in (Audit(token_map), Audit(token_map, usage)):
        document = audit.to_json()
        VALIDATOR.validate(document)
        assert json.loads(json.dumps(document)) == document
        for list_name in ("matches", "rules", "kinds", "scripts"):
            groups = document[list_name]
            for key in document["total"].keys() & {"tokens", "uses", "characters"}:
                assert sum(g[key] for g in groups) == document["total"][key]
                for g in groups:
                    assert sum(part[key] for part in g["by_match"].values()) == g[key]
        unmapped = next(g for g in document["matches"] if g["name"] == "unmapped")
        mapped = sum(g["tokens"] for g in document["distances"])
        assert mapped + unmapped["tokens"] == len(src)


@pytest.fixture(scope="module")
def map_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "map.arrow"
    real_map("llama3", "qwen3").save(path)
    return path


def test_the_command_shows_what_its_json_says(map_file):
    document = json.loads(run("audit", map_file, "--json").stdout)
    VALIDATOR.validate(document)
    assert document == Audit(real_map("llama3", "qwen3")).to_json(limit=10)
    shown = run("audit", map_file).stdout
    lines = [line.split() for line in shown.splitlines()]
    for group in [*document["matches"], *document["rules"]]:
        if group["share"] > 0.0001:
            assert [group["name"], f"{group['tokens']:,}", f"{group['share']:.2%}"] in lines
    for group in document["distances"]:
        assert any(line[:2] == [str(group["distance"]), f"{group['tokens']:,}"] for line in lines)
    assert "␣\\xa0␣\\xa0" in shown
    assert "\xa0" not in shown


def test_the_command_weights_by_text(map_file, tmp_path):
    rows = [{"answer": text} for text in ARTICLE_1.values()]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    done = run("audit", map_file, "--text", path, "--field", "answer", "--json")
    assert done.stderr == ""
    document = json.loads(done.stdout)
    VALIDATOR.validate(document)
    usage = read_usage(real_map("llama3", "qwen3"), [path], field="answer")
    assert document == Audit(real_map("llama3", "qwen3"), usage).to_json(limit=10)
    assert document["text"]["documents"] == len(ARTICLE_1)
    assert document["text"]["characters"] == sum(map(len, ARTICLE_1.values()))
    shown = run("audit", map_file, "--text", path, "--field", "answer").stdout
    share = document["matches"][0]["use_share"]
    assert any(line.startswith("exact") and f"{share:.2%}" in line for line in shown.splitlines())
    assert "costliest" in shown


@pytest.mark.slow
def test_text_from_a_pipe(map_file):
    command = [*COMMAND, "audit", str(map_file), "--text", "-", "--json"]
    done = subprocess.run(command, input=PROSE.encode(), capture_output=True, check=True)
    assert json.loads(done.stdout)["text"]["characters"] == len(PROSE)
    assert done.stderr == b""


@pytest.mark.slow
def test_a_long_text_shows_its_progress_on_a_terminal(map_file, tmp_path):
    (tmp_path / "long.txt").write_text(PROSE * 2000, "utf-8")
    shown = on_a_terminal([*COMMAND, "audit", str(map_file), "--text", "long.txt"], tmp_path)
    seen = re.findall(r"([\d.]+)/([\d.]+) MB", shown)
    assert "Tokenising" in shown
    assert len({done for done, _ in seen}) > 2
    (total,) = {total for _, total in seen}
    assert float(total) == pytest.approx(len(PROSE.encode()) * 2000 / 1e6, abs=0.1)


def test_what_is_refused(map_file, tmp_path):
    (tmp_path / "no-map").write_text("hello")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin1.txt").write_bytes("café".encode("latin-1"))
    assert "not a map" in refused("audit", tmp_path / "no-map")
    assert "No such file" in refused("audit", tmp_path / "absent")
    assert "no text in" in refused("audit", map_file, "--text", tmp_path / "empty.txt")
    assert "at byte 3, in line 1" in refused("audit", map_file, "--text", tmp_path / "latin1.txt")
    assert "absent.txt: cannot read" in refused("audit", map_file, "--text", "absent.txt")
    said = refused("audit", map_file, "--text", tmp_path / "empty.txt", "--src", "qwen")
    assert "qwen3 is not the source of this map: " in said
    assert run("audit", map_file, "--limit", "-1").status == 2


def test_a_map_whose_source_was_a_file_says_where_to_look(tmp_path):
    (tmp_path / "src.tiktoken").write_text("YQ== 0\n")
    pair = ("--src", "src.tiktoken", "--dst", "src.tiktoken")
    assert run("build", *pair, "-o", "map.arrow", cwd=tmp_path).status == 0
    (tmp_path / "text.txt").write_text("a")
    command = ("audit", "map.arrow", "--text", "text.txt")
    said = refused(*command, "--src", "src.tiktoken", cwd=tmp_path)
    assert "a rank file does not say how text is split" in said
    said = refused(*command, cwd=tmp_path)
    assert (
        "came from file:src.tiktoken, and a map does not decide what is opened: say where" in said
    )


def test_an_audit_is_quick(map_file):
    run("audit", map_file)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        assert run("audit", map_file).status == 0
        seconds.append(time.process_time() - start)
    assert min(seconds) < (1.5 if os.cpu_count() > 1 else 5)


def test_real_english_is_nearly_all_exact(map_file):
    path = shared_file("tofu/full.json")
    document = json.loads(
        run("audit", map_file, "--text", path, "--field", "answer", "--json").stdout
    )
    exact = next(g for g in document["matches"] if g["name"] == "exact")
    assert 0.99 < exact["use_share"] < 1
    assert exact["share"] < 0.9
