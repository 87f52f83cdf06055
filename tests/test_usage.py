"""Counting tokens in text: the tokenizers, the cutting of long text, and files of every kind."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from conftest import quick_first, real_vocabulary, shared_file
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoders import NAMES, encoder
from texts import PROSE

from pm_mined import TextError, VocabularyError, build_map, load_map, read_usage
from pm_mined.reports import usage
from pm_mined.reports.text_files import read_documents, total_bytes
from pm_mined.reports.usage import count_uses, split
from pm_mined.tokenizer.encoders.load import load_encoder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", quick_first([400, 150, 1111]))
def test_a_cut_text_has_the_tokens_of_the_whole(name, size, monkeypatch):
    monkeypatch.setattr(usage, "BLOCK", size)
    monkeypatch.setattr(usage, "BATCH", 3000)
    encode, text = encoder(name), PROSE * 3
    pieces = iter([text[i : i + 97] for i in range(0, len(text), 97)])
    counted = count_uses([pieces], encode, 260_000)
    (whole,) = encode([text])
    if counted.unverified_cuts == 0:
        assert Counter(whole) == {i: n for i, n in enumerate(counted.uses.tolist()) if n}
    assert counted.unverified_cuts <= 3
    assert counted.characters == len(text)
    assert counted.documents == 1


def test_no_cut_of_real_prose_is_unverified(monkeypatch):
    monkeypatch.setattr(usage, "BLOCK", 2000)
    text = shared_file("tofu/full.json").read_text("utf-8")[:300_000]
    for name in ("llama3", "mistral-v1", "deepseek"):
        encode = encoder(name)
        counted = count_uses([iter([text])], encode, 260_000)
        assert counted.unverified_cuts == 0
        assert Counter(encode([text])[0]) == {i: n for i, n in enumerate(counted.uses) if n}


@settings(max_examples=30, deadline=None)
@given(st.text(st.sampled_from("ab \n.,éд你🙂'0"), max_size=3000), st.integers(130, 500))
def test_blocks_are_the_text_whatever_it_is(text, size):
    encode = encoder("mistral-v1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "BLOCK", size)
        blocks = list(split(iter([text]), encode))
    assert "".join(block.text for block in blocks) == text
    assert all(len(block.text) <= size + 128 for block in blocks)
    sound = all(block.verified for block in blocks)
    counted = count_uses([iter([text])], encode, 32_000)
    if sound:
        assert counted.uses.sum() == len(encode([text])[0])


def test_a_run_without_end_is_cut_and_said(monkeypatch):
    monkeypatch.setattr(usage, "BLOCK", 1000)
    counted = count_uses([iter(["a" * 5000])], encoder("llama3"), 130_000)
    assert counted.unverified_cuts == 4
    assert counted.characters == 5000


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts_of(*files, field=None):
    return ["".join(document) for document in read_documents(files, field)]


def test_a_plain_file_is_one_document(tmp_path):
    first = write(tmp_path / "a.txt", "\ufeffone\r\ntwo\n")
    second = write(tmp_path / "b.txt", "é" * 100_000)
    assert texts_of(first, second) == ["one\r\ntwo\n", "é" * 100_000]


def test_each_row_of_json_lines_is_a_document(tmp_path):
    rows = [{"q": "1", "a": "é"}, {"a": "two\nlines", "q": 2}, {"a": ""}]
    path = write(tmp_path / "rows", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert texts_of(path, field="a") == ["é", "two\nlines", ""]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": "x"}\n{"b": "x", "c": 1}', "line 2: no field 'a'; there are 'b', 'c'"),
        (b"{}", "line 1: no field 'a'; there are none"),
        (b'{"a": 1}', "line 1: field 'a' holds a int, not a text"),
        (b'["a"]', "line 1: expected a JSON object, found a list"),
        (b'{"a": "x"\n', "line 1: not a row of JSON Lines: Expecting"),
        (b'{"a": "\\ud83d"}', "line 1: field 'a' holds a lone surrogate"),
        (b'{"a": "\xff"}', "line 1: not a row of JSON Lines: 'utf-8' codec"),
        (b'{"a": ' + b"[" * 100_000, "line 1: not a row of JSON Lines"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, content, said):
    path = write(tmp_path / "rows.jsonl", content)
    with pytest.raises(TextError) as caught:
        texts_of(path, field="a")
    assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ok\ncaf\xe9!", "at byte 6, in line 2"),
        (b"x" * 65_535 + "é".encode() + b"\n\xff", "at byte 65538, in line 2"),
        (b"x" * 65_535 + b"\xc3", "at byte 65535, in line 1"),
        (b"\xff\xfea\x00", "at byte 0, in line 1"),
    ],
)
def test_what_is_not_utf8_is_found_where_it_is(tmp_path, content, said):
    path = write(tmp_path / "text", content)
    with pytest.raises(TextError, match=f"not UTF-8 text: .* {said}; `iconv"):
        texts_of(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TextError, match=r"absent: cannot read: No such file"):
        texts_of(tmp_path / "absent")
    with pytest.raises(TextError, match="cannot read: Is a directory"):
        texts_of(tmp_path)
    with pytest.raises(TextError, match="neither a regular file nor a pipe"):
        texts_of("/dev/zero")
    with pytest.raises(TextError, match=r"rows\.jsonl: JSON Lines: say with --field"):
        texts_of(write(tmp_path / "rows.jsonl", "{}"))


def test_an_endless_row_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pm_mined.json_lines.MAX_LINE", 1000)
    with pytest.raises(TextError, match="rows: line 1 is longer than 1,000 bytes"):
        texts_of(write(tmp_path / "rows", "{" + " " * 5000), field="a")


def test_progress_adds_up(tmp_path):
    first = write(tmp_path / "a", "é" * 200_000)
    second = write(tmp_path / "b", "x")
    seen = []
    for document in read_documents([first, second], None, seen.append):
        "".join(document)
    assert sum(seen) == total_bytes([first, second]) == 400_001
    assert total_bytes([first, "-"]) is None


@pytest.fixture(scope="module")
def map_file(tmp_path_factory):
    real_vocabulary("llama3")
    real_vocabulary("qwen3")
    path = tmp_path_factory.mktemp("map") / "map.arrow"
    build_map("llama3", "qwen3").save(path)
    return path


@pytest.fixture(scope="module")
def llama_map(map_file):
    return load_map(map_file)


def test_the_map_knows_its_tokenizer(llama_map, tmp_path):
    path = write(tmp_path / "text.txt", PROSE)
    counted = read_usage(llama_map, [path])
    (ids,) = load_encoder("llama3")([PROSE])
    assert np.array_equal(counted.uses, np.bincount(ids, minlength=len(llama_map)))
    assert counted.files == [str(path)]
    rows = write(tmp_path / "rows", json.dumps({"t": PROSE}) + "\n" + json.dumps({"t": "x"}))
    assert read_usage(llama_map, [rows], field="t").documents == 2


def test_another_tokenizer_is_refused(llama_map, tmp_path):
    path = write(tmp_path / "text.txt", PROSE)
    with pytest.raises(VocabularyError, match="qwen3 is not the source of this map"):
        read_usage(llama_map, [path], src="qwen3")


@pytest.mark.parametrize("content", ["", "\ufeff"])
def test_no_text_is_said(llama_map, tmp_path, content):
    path = write(tmp_path / "empty.txt", content)
    with pytest.raises(TextError, match=r"no text in .*empty\.txt"):
        read_usage(llama_map, [path])


@pytest.mark.slow
def test_counting_a_large_text_takes_little_memory(map_file, tmp_path):
    """30 MB of text, in a process whose memory is measured."""
    path = tmp_path / "large.txt"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(30_000_000 // len(PROSE.encode())):
            file.write(PROSE)
    code = f"""
import resource
from pm_mined import load_map, read_usage
token_map = load_map({str(map_file)!r})
read_usage(token_map, [{str(tmp_path / "small.txt")!r}])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
usage = read_usage(token_map, [{str(path)!r}])
print(usage.characters, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    write(tmp_path / "small.txt", PROSE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    characters, kilobytes = map(int, done.stdout.split())
    assert characters > 15_000_000
    assert kilobytes < 150_000
