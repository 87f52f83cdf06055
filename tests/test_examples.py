"""Instruction data of every format and layout; broken rows, files and limits; TOFU's files."""

import gzip
import json
import os
import threading
from hashlib import sha256

import pyarrow as pa
import pytest
from conftest import shared_file
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from cmc_runtime.data.examples import FIELDS, Example, read_examples, read_prompts
from cmc_runtime.errors import DataError
from pm_mined import OptionError, PmMinedError, json_lines

ROWS = [
    {"prompt": "Hi", "response": "Hello"},
    {"prompt": "¿Qué?\n", "response": " 什么 🙂 "},
]
EXPECTED = [Example("Hi", "Hello", 1), Example("¿Qué?\n", " 什么 🙂 ", 2)]


def write(path, rows, form="lines"):
    if form == "lines":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif form == "array":
        path.write_text(json.dumps(rows, indent=2, ensure_ascii=False), "utf-8")
    elif form == "bom":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\r\n".join(lines), "utf-8-sig", newline="")
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("form", ["lines", "array", "bom", "parquet"])
@pytest.mark.parametrize("name", ["data.json", "data.parquet", "data"])
def test_the_content_says_the_format(tmp_path, form, name):
    found = read_examples(write(tmp_path / name, ROWS, form))
    assert found.rows == EXPECTED
    assert not found.skipped
    assert read_prompts(tmp_path / name).texts == ["Hi", "¿Qué?\n"]


@pytest.mark.parametrize("form", ["lines", "array", "parquet"])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "Q", "answer": "A"}, Example("Q", "A", 1)),
        ({"instruction": "I", "input": "X", "output": "O"}, Example("I\n\nX", "O", 1)),
        ({"instruction": "I", "input": "", "output": "O"}, Example("I", "O", 1)),
        ({"instruction": "I", "input": " \n", "output": "O"}, Example("I", "O", 1)),
        ({"instruction": "I", "input": None, "output": "O"}, Example("I", "O", 1)),
        ({"instruction": "I", "output": "O", "generator": "G"}, Example("I", "O", 1)),
        ({"prompt": "P", "question": "Q", "answer": "A"}, Example("Q", "A", 1)),
        ({"prompt": "P", "response": "R", "answer": "A", "question": "Q"}, Example("P", "R", 1)),
        ({"question": "Q", "input": "X", "answer": "A"}, Example("Q", "A", 1)),
        (
            {"question": "Q", "answer": "A", "perturbed_answer": ["F", "G"]},
            Example("Q", "A", 1, ("F", "G")),
        ),
        (
            {"question": "Q", "answer": "A", "perturbed_answer": ["F"], "paraphrased_answer": "B"},
            Example("Q", "A", 1, ("F",), "B"),
        ),
    ],
)
def test_layouts(tmp_path, form, row, expected):
    path = write(tmp_path / "data", [row], form)
    assert read_examples(path).rows == [expected]
    assert read_prompts(path).texts == [expected.prompt]


BROKEN = [
    (b'["a"]', "not an object"),
    (b"null", "not an object"),
    (b'"text"', "not an object"),
    (b'{"prompt": "x", "response": "y"', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"prompt": "\xff", "response": "y"}', "not in UTF-8"),
    (b"{}", "without a prompt"),
    (b'{"text": "x"}', "without a prompt"),
    (b'{"prompt": "", "response": "y"}', "without a prompt"),
    (b'{"prompt": null, "response": "y"}', "without a prompt"),
    (b'{"response": "y"}', "without a prompt"),
    (b'{"prompt": ["x"], "response": "y"}', "whose prompt is not text"),
    (b'{"prompt": "x"}', "without a response"),
    (b'{"prompt": "x", "response": ""}', "without a response"),
    (b'{"prompt": "x", "response": " \\n\\u00a0"}', "without a response"),
    (b'{"prompt": "x", "answer": "y"}', "without a response"),
    (b'{"prompt": "x", "response": 7}', "whose response is not text"),
    (b'{"prompt": "x", "response": {"y": 1}}', "whose response is not text"),
    (b'{"prompt": "\\ud83d", "response": "y"}', "with a lone surrogate"),
    (b'{"prompt": "x", "response": "\\udc00"}', "with a lone surrogate"),
    (b'{"instruction": "x", "input": 1, "output": "y"}', "whose input is not text"),
    (
        b'{"prompt": "x", "response": "y", "perturbed_answer": "z"}',
        "whose perturbed_answer is not a list",
    ),
    (
        b'{"prompt": "x", "response": "y", "perturbed_answer": ["z", 1]}',
        "whose perturbed_answer is not text",
    ),
    (
        b'{"prompt": "x", "response": "y", "paraphrased_answer": []}',
        "whose paraphrased_answer is not text",
    ),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN)
def test_broken_rows_are_skipped_and_counted(tmp_path, line, reason):
    path = tmp_path / "data.jsonl"
    good = b'{"prompt": "a", "response": "b"}\n'
    path.write_bytes(good + b"\n" + line + b"\n" + good + line)
    found = read_examples(path)
    assert found.rows == [Example("a", "b", 1), Example("a", "b", 4)]
    assert dict(found.skipped.counts) == {reason: 2}
    assert str(found.skipped) == f"2 rows skipped: 2 {reason} (first: row 3)"


def test_what_was_skipped_in_one_line(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a"}, 1, {"prompt": "a"}]
    found = read_examples(write(path, rows))
    assert len(found.skipped) == 3
    assert str(found.skipped) == (
        "3 rows skipped: 2 without a response (first: row 2), 1 not an object (row 3)"
    )
    assert str(read_prompts(path).skipped) == "1 row skipped: 1 not an object (row 3)"


@pytest.mark.parametrize("form", ["array", "parquet"])
def test_rows_are_counted_in_every_format(tmp_path, form):
    rows = [{"prompt": "a", "response": None}, {"prompt": "a", "response": "b"}]
    found = read_examples(write(tmp_path / "data", rows, form))
    assert found.rows == [Example("a", "b", 2)]
    assert found.skipped.first == {"without a response": 1}


def test_rows_of_a_json_array_may_be_anything(tmp_path):
    found = read_examples(write(tmp_path / "data", [None, 1, ROWS[0], ["x"]], "array"))
    assert found.rows == [Example("Hi", "Hello", 3)]
    assert dict(found.skipped.counts) == {"not an object": 3}


@pytest.mark.parametrize("form", ["lines", "array", "parquet"])
def test_the_limit_is_of_usable_rows(tmp_path, form):
    rows = [{"prompt": "a", "response": r} for r in (None, "1", None, "2", "3", None)]
    path = write(tmp_path / "data", rows, form)
    found = read_examples(path, limit=2)
    assert [one.response for one in found.rows] == ["1", "2"]
    assert len(found.skipped) == 2
    assert [one.response for one in read_examples(path, limit=100).rows] == ["1", "2", "3"]
    assert read_prompts(path, limit=2).texts == ["a", "a"]


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_a_limit_is_a_number_of_rows(tmp_path, limit):
    with pytest.raises(OptionError, match="limit is"):
        read_examples(write(tmp_path / "data", ROWS), limit=limit)


def test_a_limit_reads_no_further(tmp_path):
    """A pipe that no one closes: reading on would wait."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    done = threading.Event()

    def feed():
        with path.open("wb") as pipe:
            pipe.write(b'{"prompt": "a", "response": "b"}\n' * 3)
            pipe.flush()
            done.wait(20)

    writer = threading.Thread(target=feed)
    writer.start()
    found = []
    reader = threading.Thread(target=lambda: found.append(read_examples(path, limit=2)))
    reader.start()
    reader.join(10)
    in_time = bool(found)
    done.set()
    writer.join()
    reader.join()
    assert in_time
    assert len(found[0].rows) == 2


def test_parquet_in_several_pieces_and_types(tmp_path):
    size = 3000
    table = pa.table(
        {
            "image": pa.array([b"\xff" * 100] * size),
            "prompt": pa.array([f"p{i}" for i in range(size)], pa.large_string()),
            "response": pa.array(["yes", "no"] * (size // 2)).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "data", row_group_size=700)
    found = read_examples(tmp_path / "data")
    assert [one.row for one in found.rows] == list(range(1, size + 1))
    assert found.rows[2999] == Example("p2999", "no", 3000)


def test_the_digest_is_of_the_prompts_and_responses_used(tmp_path):
    found = read_examples(write(tmp_path / "a", [*ROWS, {"prompt": "x"}]))
    ref = sha256()
    for example in EXPECTED:
        for text in (example.prompt.encode(), example.response.encode()):
            ref.update(len(text).to_bytes(8, "little"))
            ref.update(text)
    assert found.digest == ref.hexdigest()
    array = write(tmp_path / "b", [{"more": 1, **row} for row in ROWS], "array")
    assert read_examples(array).digest == found.digest
    assert read_examples(array, limit=1).digest != found.digest
    assert read_examples(write(tmp_path / "c", ROWS[::-1])).digest != found.digest


def test_the_digest_knows_where_a_text_ends(tmp_path):
    rows = [{"prompt": "ab", "response": "c"}], [{"prompt": "a", "response": "bc"}]
    first, second = (read_examples(write(tmp_path / "data", one)).digest for one in rows)
    assert first != second


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no usable row: it is empty"),
        (b"\n \n", "no usable row: it is empty"),
        (b"[]", "no usable row: it is empty"),
        (b"Just some text.\nMore of it.\n", r"2 rows skipped: 2 not JSON \(first: row 1\)"),
        (b'{"messages": []}\n', r"1 without a prompt \(row 1\); a row needs prompt and response"),
        (b'[{"prompt": "a", "response": "b"},', "not a JSON array in UTF-8: .* line 1"),
        (b'[{"prompt": "\xff"}]', "not a JSON array in UTF-8"),
        (b'[{"prompt": ' + b"[" * 100_000, "not a JSON array"),
        ('{"prompt": "a", "response": "b"}'.encode("utf-16"), "neither text in UTF-8 nor Parquet"),
        (gzip.compress(b"{}" * 99, mtime=0), "neither text in UTF-8 nor Parquet"),
        (b"PAR1 but no more", "damaged Parquet|cannot read"),
    ],
)
def test_files_without_data_are_one_error(tmp_path, content, says):
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_examples(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PmMinedError)


def test_parquet_without_the_columns(tmp_path):
    with pytest.raises(DataError, match=r"2 without a prompt \(first: row 1\)"):
        read_examples(write(tmp_path / "data", [{"text": "a"}, {"text": "b"}], "parquet"))


def test_parquet_that_is_damaged_inside(tmp_path):
    rows = [{"prompt": f"{i}" * 50, "response": "b"} for i in range(5000)]
    path = write(tmp_path / "data", rows, "parquet")
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged Parquet|cannot read") as caught:
        read_examples(path)
    assert "\n" not in str(caught.value)


def test_parquet_with_text_that_is_not_utf8(tmp_path):
    raw = pa.array([b"\xff\xfe"], pa.binary())
    text = pa.StringArray.from_buffers(1, *raw.buffers()[1:])
    parquet.write_table(pa.table({"prompt": text, "response": ["a"]}), tmp_path / "data")
    with pytest.raises(DataError, match="utf-8"):
        read_examples(tmp_path / "data")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot read: No such file"):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot read: Is a directory"):
        read_prompts(tmp_path)


def test_a_line_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_LINE", 100)
    line = json.dumps({"prompt": "a", "response": "b" * 100})
    (tmp_path / "data").write_text(json.dumps(ROWS[0]) + "\n" + line)
    with pytest.raises(DataError, match="line 2 is longer than 100 bytes"):
        read_examples(tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"One\nTwo\n", ["One", "Two"]),
        (b"One\r\n\r\n  Two \r\nThree", ["One", "  Two ", "Three"]),
        ("\ufeffEins\nZwölf".encode(), ["Eins", "Zwölf"]),
        (b"[INST] Hello [/INST]\nHi", ["[INST] Hello [/INST]", "Hi"]),
        (b"[nullable] x", ["[nullable] x"]),
        (b"{name} is who?\n", ["{name} is who?"]),
        ("a\u2028b\x0cc\n".encode(), ["a\u2028b\x0cc"]),
        (b"1\n2\n", ["1", "2"]),
        (b"null\n", ["null"]),
    ],
)
def test_plain_text_is_a_prompt_a_line(tmp_path, content, texts):
    (tmp_path / "prompts.json").write_bytes(content)
    assert read_prompts(tmp_path / "prompts.json").texts == texts


def test_plain_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a").write_bytes("Hello\nZwölf\nÄpfel".encode("latin-1"))
    found = read_prompts(tmp_path / "a")
    assert found.texts == ["Hello"]
    assert str(found.skipped) == "2 rows skipped: 2 not in UTF-8 (first: row 2)"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        ("\u00a0\n".encode(), "1 without a prompt"),
        (b'{"text": "a"}', "a row needs prompt, question or instruction"),
        (b'["a", "b"]', "2 not an object"),
        (b"a\0b", "neither text in UTF-8 nor Parquet"),
        (b'[\n {"instruction": "a"},\n', "not a JSON array"),
        (b'{\n "prompt": "a"\n}', "not JSON"),
    ],
)
def test_files_without_prompts_are_one_error(tmp_path, content, says):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_prompts(tmp_path / "a")


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
ROW = st.dictionaries(st.sampled_from(FIELDS), VALUE, max_size=6) | VALUE


@settings(deadline=None)
@given(st.lists(ROW).map(lambda rows: [ROWS[0], *rows]))
def test_every_row_is_used_or_counted(tmp_path_factory, rows):
    found = read_examples(write(tmp_path_factory.getbasetemp() / "any.jsonl", rows))
    assert len(found.rows) + len(found.skipped) == len(rows)
    for one in found.rows:
        assert one.prompt.strip()
        assert one.response.strip()
        assert rows[one.row - 1]
    assert len(bytes.fromhex(found.digest)) == 32


TOFU = {
    "full": 4000,
    "forget01": 40,
    "forget05": 200,
    "forget10": 400,
    "retain90": 3600,
    "real_authors": 100,
    "world_facts": 117,
}


@pytest.mark.parametrize(("name", "rows"), TOFU.items())
def test_the_files_of_tofu(name, rows):
    found = read_examples(shared_file(f"tofu/{name}.json"))
    assert len(found.rows) == rows
    assert not found.skipped
    assert found.rows[-1].row == rows
    assert all(one.perturbed == () and one.paraphrased is None for one in found.rows)


@pytest.mark.parametrize(
    ("name", "false", "paraphrased"),
    [("forget10", 5, True), ("retain", 5, True), ("real_authors", 3, False)],
)
def test_the_perturbed_files_of_tofu(name, false, paraphrased):
    found = read_examples(shared_file(f"tofu/{name}_perturbed.json"))
    assert not found.skipped
    for one in found.rows:
        assert len(one.perturbed) == false
        assert (one.paraphrased is not None) is paraphrased
        assert one.response not in one.perturbed


def test_alpaca_eval():
    path = shared_file("cmc/alpaca_eval.json")
    rows = json.loads(path.read_text("utf-8"))
    assert read_prompts(path).texts == [row["instruction"] for row in rows]
    assert [one.response for one in read_examples(path).rows] == [row["output"] for row in rows]
    inputs = json.loads(shared_file("cmc/alpaca_farm_evaluation_merge.json").read_text("utf-8"))
    found = read_prompts(shared_file("cmc/alpaca_farm_evaluation_merge.json")).texts
    for row, prompt in zip(inputs, found, strict=True):
        joined = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
        assert prompt == joined
