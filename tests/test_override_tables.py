"""The tables that come with pm-mined, and what `overrides check` says of a table."""

import json
import tomllib

import pytest
from command_line import refused, run
from conftest import quick_first, real_vocabulary

from pm_mined import Kind, OverridesError, Vocabulary, build_map
from pm_mined.display import display_token
from pm_mined.overrides.shipped import shipped_tables
from pm_mined.overrides.table import doubts, read_overrides
from pm_mined.overrides.writing import row_text

TABLES = shipped_tables()
CASES = [(name, *name.split("-to-")) for name in TABLES]
CASES += [
    (name, *("qwen3.5" if side == "qwen3" else side for side in (src, dst)))
    for name, src, dst in CASES
    if "qwen3" in (src, dst)
]

SRC = Vocabulary.from_tokens(
    [b"<s>", b"<|step|>", b"hello", b"<unused0>", b"<|x|>", b"<think>"],
    [Kind.SPECIAL, Kind.SPECIAL, Kind.TEXT, Kind.UNUSED, Kind.TEXT, Kind.TEXT],
    name="source",
)
DST = Vocabulary.from_tokens(
    [b"<bos>", b"hello", b"<unused1>", b"<|stop|>", b"hell", b"<|im_end|>"],
    [Kind.SPECIAL, Kind.TEXT, Kind.UNUSED, Kind.TEXT, Kind.TEXT, Kind.SPECIAL],
    name="destination",
)


@pytest.mark.parametrize(("name", "src", "dst"), quick_first(CASES, 5))
def test_every_row_of_a_shipped_table_decides_something(name, src, dst):
    """Each row is about a control token, changes its destination, says why, and has no doubts."""
    src, dst = real_vocabulary(src), real_vocabulary(dst)
    rows = read_overrides(TABLES[name][0], src, dst).rows
    without = build_map(src, dst)
    assert rows
    for row in rows:
        otherwise = int(without.dst_id[row.src_id])
        assert row.dst_id != otherwise, display_token(src[row.src_id])
        assert src[row.src_id][:1] in b"<[", row
        assert row.note, row
        assert doubts(row, src, dst, otherwise) == []


@pytest.mark.parametrize("name", TABLES)
def test_a_shipped_table_says_what_it_is_for(name):
    path, about = TABLES[name]
    head, *_ = path.read_text("utf-8").partition("\n\n")
    lines = head.splitlines()
    assert lines[0] == f"# {about}"
    assert "->" in about
    assert f"pm-mined overrides copy {name}" in head
    assert any(line.startswith("#   https://") for line in lines)
    assert all(line.startswith("#") and len(line) <= 100 for line in lines)


def test_the_end_of_a_turn_ends_a_turn():
    """The row that matters most for chat: what the LLM ends its turn with."""
    for name, source, target in [
        ("mistral-tekken-to-llama3", "mistral-tekken", b"<|eot_id|>"),
        ("mistral-tekken-to-qwen3", "mistral-tekken", b"<|im_end|>"),
        ("deepseek-to-qwen3", "deepseek", b"<|im_end|>"),
        ("deepseek-to-llama3", "deepseek", b"<|eot_id|>"),
    ]:
        src, dst = real_vocabulary(source), real_vocabulary(name.partition("-to-")[2])
        literal = "</s>" if source.startswith("mistral") else "<｜end▁of▁sentence｜>"
        (src_id,) = src.find(literal.encode())
        assert dst[read_overrides(TABLES[name][0], src, dst).dst_of[src_id]] == target


def test_list_and_copy(tmp_path):
    listed = run("overrides", "list")
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == sorted(TABLES)
    entries = json.loads(run("overrides", "list", "--json").stdout)["tables"]
    assert {entry["name"]: entry["file"] for entry in entries} == {
        name: str(path) for name, (path, _) in TABLES.items()
    }
    done = run("overrides", "copy", "deepseek-to-qwen3", cwd=tmp_path)
    assert (done.status, done.stdout) == (0, "deepseek-to-qwen3.toml\n")
    copied = (tmp_path / "deepseek-to-qwen3.toml").read_bytes()
    assert copied == TABLES["deepseek-to-qwen3"][0].read_bytes()
    assert "may hold edits" in refused("overrides", "copy", "deepseek-to-qwen3", cwd=tmp_path)
    again = run("overrides", "copy", "deepseek-to-qwen3", "--force", "-o", "b.toml", cwd=tmp_path)
    assert (again.status, again.stdout) == (0, "b.toml\n")


def test_a_table_that_does_not_come_with_it(tmp_path):
    message = refused("overrides", "copy", "deepseek-to-qwen", cwd=tmp_path)
    assert (
        message
        == "no table 'deepseek-to-qwen' comes with pm-mined; did you mean deepseek-to-qwen3?"
    )
    message = refused("overrides", "copy", "../../etc/passwd", cwd=tmp_path)
    assert message.endswith("`pm-mined overrides list` shows them")
    assert list(tmp_path.iterdir()) == []


def check(tmp_path, table, *more):
    real_vocabulary("llama3")
    real_vocabulary("qwen3")
    (tmp_path / "table.toml").write_text(table, encoding="utf-8")
    return ("overrides", "check", "table.toml", "--src", "llama", "--dst", "qwen", *more)


TABLE = """# three rows
[[override]]
src = "<|eom_id|>"
dst = "<tool_call>"
note = '''
opens a
tool call \\u001b[31m'''

[[override]]
src = "<|eot_id|>"
dst = "<|im_end|>"

[[override]]
src_id = 128007
dst = "\\n"

[[override]]
src = "<|image|>"
dst = false
"""


def test_check_shows_the_rows_as_they_are_understood(tmp_path):
    done = run(*check(tmp_path, TABLE), cwd=tmp_path)
    assert done.status == 0
    rows = [line.split("  ") for line in done.stdout.splitlines()]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        ["src id", "token", "dst id", "maps to", "without the row", "note"],
        ["128008", "<|eom_id|>", "151657", "<tool_call>", "<|im_end|>",
         "opens a tool call \\u001b[31m"],
        ["128009", "<|eot_id|>", "151645", "<|im_end|>", "<|im_end|>"],
        ["128007", "<|end_header_id|>", "198", "\\n", "(unmapped)"],
        ["128011", "<|image|>", "(never)", "<|image_pad|>"],
    ]  # fmt: skip
    assert done.stderr.splitlines() == [
        "note: table.toml: override 2 (line 9): changes nothing: without it, too, it maps to "
        "<|im_end|>",
        "note: table.toml: override 3 (line 13): maps a special token to ordinary text, \\n",
    ]


def test_check_json_is_one_object(tmp_path):
    done = run(*check(tmp_path, TABLE, "--json"), cwd=tmp_path)
    assert (done.status, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["table"] == "table.toml"
    assert (document["src"], document["dst"]) == ("llama3", "qwen3")
    first, _, _, last = document["rows"]
    assert first["where"] == "override 1 (line 2)"
    assert (first["src_id"], first["src_token"]) == (128008, "<|eom_id|>")
    assert (first["dst_id"], first["dst_token_hex"]) == (151657, b"<tool_call>".hex())
    assert (first["otherwise_id"], first["otherwise_token"]) == (151645, "<|im_end|>")
    assert last["dst_id"] == -1
    assert [len(row["doubts"]) for row in document["rows"]] == [0, 1, 1, 0]


def test_check_of_a_wrong_table_is_one_line(tmp_path):
    message = refused(*check(tmp_path, TABLE + '[[override]]\nsrc = "<|eot_id|>"\n'), cwd=tmp_path)
    assert message.startswith("table.toml: override 5 (line 20): give dst (the token) or dst_id")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("src_id = 0\ndst_id = 0", ["changes nothing: without it, too, it maps to <bos>"]),
        ("src_id = 1\ndst = false", ["changes nothing: without it, too, it is unmapped"]),
        ("src_id = 1\ndst_id = 3", []),
        ("src_id = 1\ndst_id = 1", ["maps a special token to ordinary text, hello"]),
        ("src_id = 1\ndst_id = 5", []),
        ("src_id = 1\ndst_id = 2", ["maps to <unused1>, which is reserved: no model learned it"]),
        ("src_id = 2\ndst_id = 5", ["maps ordinary text to a special token, <|im_end|>"]),
        ("src_id = 2\ndst_id = 4", []),
        ("src_id = 2\ndst = false", []),
        ("src_id = 3\ndst_id = 1", ["is for a reserved token, which no text contains"]),
        ("src_id = 4\ndst_id = 5", []),
        ("src_id = 5\ndst_id = 5", []),
    ],
)  # fmt: skip
def test_what_a_person_may_not_have_meant(tmp_path, row, said):
    (tmp_path / "table.toml").write_text(f"[[override]]\n{row}\n")
    (read,) = read_overrides(tmp_path / "table.toml", SRC, DST).rows
    found = doubts(read, SRC, DST, int(build_map(SRC, DST).dst_id[read.src_id]))
    assert found == said


def read_rows(tmp_path, text):
    path = tmp_path / "table.toml"
    path.write_text(text, encoding="utf-8")
    return read_overrides(path, SRC, DST)


def test_rows_in_a_list(tmp_path):
    read = read_rows(
        tmp_path,
        'override = [\n  # { src_id = 0, dst = false },\n\n  { src = "hello", dst = "hell" }, # x\n'
        '  { src_id = 1, dst = false, note = "no" },\n]\n',
    )
    assert read.dst_of == {2: 4, 1: -1}
    assert [row.where for row in read.rows] == ["override 1 (line 4)", "override 2 (line 5)"]
    assert [row.note for row in read.rows] == ["", "no"]


def test_a_row_after_a_blank_line_is_named_by_its_own_line(tmp_path):
    text = "# a\n\n\n[[override]]\nsrc_id = 2\ndst_id = 99\n"
    with pytest.raises(OverridesError, match=r"override 1 \(line 4\): dst_id 99"):
        read_rows(tmp_path, text)


def test_two_rows_for_one_token_uncommented(tmp_path):
    text = "override = [\n  { src_id = 2, dst_id = 1 },\n  { src_id = 2, dst = false },\n]\n"
    with pytest.raises(OverridesError, match=r"override 2 \(line 3\): token 2 \(hello\) already"):
        read_rows(tmp_path, text)


def test_both_forms_in_one_table(tmp_path):
    text = "override = [\n]\n[[override]]\nsrc_id = 2\ndst = false\n"
    with pytest.raises(OverridesError, match=r"not TOML: .*; write all rows as \[\[override\]\]"):
        read_rows(tmp_path, text)


def test_a_row_written_is_the_row_read(tmp_path):
    row = read_rows(tmp_path, 'override = [{ src_id = 2, dst_id = 4, note = "\\" \\u202e" }]').rows[
        0
    ]
    text = row_text(row, SRC, DST)
    assert text == r'{ src = "hello", dst = "hell", note = "\" \u202E" }'
    assert tomllib.loads(f"a = {text}")["a"]["note"] == '" \u202e'
