"""Results that would destroy what they are made from, or do harm where they are shown."""

import csv
import io
import json
import os
import shutil

import pytest
import tiny_tokenizers as tiny
from command_line import refused, run

from pm_mined import Kind, PmMinedError, Vocabulary, build_map, load_map
from pm_mined.inputs import refuse_inputs
from pm_mined.maps.export.formats import FORMATS, export_map

# --- No output is an input -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder with all that the commands read."""
    folder = tmp_path_factory.mktemp("original")
    tiny.byte_level_bpe().save(str(folder / "toy.json"))
    (folder / "model").mkdir()
    shutil.copy(folder / "toy.json", folder / "model" / "tokenizer.json")
    build = ("build", "--src", "toy.json", "--dst", "toy.json")
    assert run(*build, "-o", "map.arrow", cwd=folder).status == 0
    shutil.copy(folder / "map.arrow", folder / "one2one_map_id.json")
    (folder / "text.txt").write_text("the quick brown fox\n", "utf-8")
    (folder / "table.toml").write_text("override = [{ src_id = 1, dst = false }]\n", "utf-8")
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "work")


BUILD = "build --src toy.json --dst model --overrides table.toml -o"
AUDIT = "audit map.arrow --src toy.json --text text.txt --html"
SUGGEST = "overrides suggest map.arrow --dst toy.json --force -o"
UNMAPPED = (
    "overrides suggest map.arrow --unmapped --text text.txt --src toy.json --dst model --force -o"
)
COMMANDS = [
    *((BUILD, name) for name in ("toy.json", "model/tokenizer.json", "table.toml")),
    *((AUDIT, name) for name in ("map.arrow", "toy.json", "text.txt")),
    *((SUGGEST, name) for name in ("map.arrow", "toy.json")),
    *((UNMAPPED, name) for name in ("text.txt", "toy.json", "model/tokenizer.json")),
    *(
        (f"export map.arrow --format {name} -o", "map.arrow")
        for name in FORMATS
        if name != "cmc-json"
    ),
]


def same_path(folder, name):
    return name


def absolute_path(folder, name):
    return folder / "model" / ".." / name


def symbolic_link(folder, name):
    (folder / "link").symlink_to(folder / name)
    return "link"


def hard_link(folder, name):
    os.link(folder / name, folder / "link")
    return "link"


@pytest.mark.parametrize("name_of", [same_path, absolute_path, symbolic_link, hard_link])
@pytest.mark.parametrize(("command", "name"), COMMANDS)
def test_no_output_is_an_input(command, name, name_of, folder):
    before = (folder / name).read_bytes()
    output = name_of(folder, name)
    said = refused(*command.split(), output, cwd=folder)
    assert said.startswith(f"{output}: is read here")
    assert (folder / name).read_bytes() == before


def test_none_of_the_three_files_of_cmc_is_the_map(folder):
    before = (folder / "one2one_map_id.json").read_bytes()
    command = "export one2one_map_id.json --format cmc-json -o one2one_map"
    assert "one2one_map_id.json: is read here" in refused(*command.split(), cwd=folder)
    assert (folder / "one2one_map_id.json").read_bytes() == before


def test_an_export_from_python(folder):
    token_map = load_map(folder / "map.arrow")
    with pytest.raises(PmMinedError, match="is read here"):
        export_map(token_map, "csv", folder / "map.arrow")


def test_the_default_name_of_an_output(folder):
    shutil.copy(folder / "toy.json", folder / "toy-to-toy.arrow")
    shutil.copy(folder / "toy.json", folder / "toy")
    os.link(folder / "toy", folder / "toy-to-model.arrow")
    said = refused("build", "--src", "./toy", "--dst", "./model", cwd=folder)
    assert said.startswith("toy-to-model.arrow: is read here, the same file as toy, and would")


def test_text_from_the_standard_input(folder):
    with open(folder / "text.txt", "rb") as text:
        before = os.dup(0)
        os.dup2(text.fileno(), 0)
        try:
            with pytest.raises(PmMinedError, match="the same file as -"):
                refuse_inputs([folder / "text.txt"], ["-"])
        finally:
            os.dup2(before, 0)
            os.close(before)


def test_a_shipped_table_is_not_written_to(folder):
    listed = run("overrides", "list", "--json")
    table = json.loads(listed.stdout)["tables"][0]
    said = refused("overrides", "copy", table["name"], "-o", table["file"], "--force")
    assert "is read here" in said


def test_a_map_beside_its_tokenizer_may_be_built_again(folder):
    build = "build --src model --dst model -o model/map.arrow"
    assert [run(*build.split(), cwd=folder).status for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("name", ["rows.jsonl", "model/config.json", "map.arrow"])
def test_an_evaluation_keeps_what_it_reads(name, folder):
    pytest.importorskip("torch")
    (folder / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n', "utf-8")
    (folder / "model" / "config.json").write_text("{}", "utf-8")
    before = (folder / name).read_bytes()
    command = "eval --model model --delta model --map map.arrow --data rows.jsonl --outputs"
    done = run(*command.split(), name, cwd=folder, program="cmc-runtime")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cmc-runtime: {name}: is read here")
    assert (folder / name).read_bytes() == before


# --- What a map names is not opened --------------------------------------------------------------


def map_from(source, path, name="x"):
    """A map that says its vocabularies came from `source`."""
    tokens = ([b"a", b"b"], [Kind.TEXT] * 2)
    build_map(*(Vocabulary.from_tokens(*tokens, name=name, source=source) for _ in "sd")).save(path)


@pytest.mark.parametrize(
    "source",
    ["file:toy.json", "file:../../etc/passwd", "folder:model", "hub:evil/repo", "x", "pypi:"],
)
@pytest.mark.parametrize(
    "command",
    [
        "audit map.arrow --text text.txt",
        "compare map.arrow map.arrow --text text.txt",
        "overrides suggest map.arrow",
        "overrides suggest map.arrow --unmapped --text text.txt --dst toy.json",
    ],
)
def test_a_map_does_not_decide_what_is_opened(source, command, folder, monkeypatch):
    opened = []
    monkeypatch.setattr("pm_mined.maps.verify.load_vocabulary", opened.append)
    map_from(source, folder / "map.arrow")
    done = run(*command.split(), cwd=folder)
    assert done.status == (2 if "compare" in command else 1)
    assert "say where it is with --" in done.stderr
    assert opened == []


@pytest.mark.parametrize("more", [[], ["--reverse"]])
def test_show_does_without_what_a_map_names(more, folder, monkeypatch):
    opened = []
    monkeypatch.setattr("pm_mined.maps.verify.load_vocabulary", opened.append)
    map_from("hub:evil/repo", folder / "map.arrow")
    done = run("show", "map.arrow", "a", *more, cwd=folder)
    assert done.status == 0
    assert "with --dst, such as --dst evil/repo" in done.stderr
    assert opened == []


def test_a_registered_name_is_opened(folder, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "pm_mined.maps.verify.load_vocabulary", lambda name: opened.append(name) or 1 / 0
    )
    for source in ("pypi:elsewhere/file", "hub:meta-llama/Llama-3.1-8B"):
        map_from(source, folder / "map.arrow", name="llama3")
        run("overrides", "suggest", "map.arrow", cwd=folder)
    assert set(opened) <= {"llama3"}
    assert opened


# --- What is shown where it would be obeyed ------------------------------------------------------

FORMULAS = ["=cmd()", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1"]


def test_no_cell_of_a_csv_file_is_a_formula(tmp_path):
    tokens = [text.encode() for text in FORMULAS]
    made = Vocabulary.from_tokens(tokens, [Kind.TEXT] * len(tokens))
    (file,) = export_map(build_map(made, made), "csv", tmp_path / "map.csv")
    rows = list(csv.DictReader(io.StringIO(file.read_text("utf-8"))))
    for row, text in zip(rows, FORMULAS, strict=True):
        for column, cell in row.items():
            assert not cell.startswith(("=", "+", "@", "\t", "\r")), (column, cell)
        assert row["src_token"][0] in "'\\␣"
        assert bytes.fromhex(row["src_token_hex"]).decode() == text


def test_json_is_escaped_and_means_the_same(tmp_path):
    evil = "a\x9b31m\u202e\u2028\x7f\ufeff\U000e0001\u00e9"
    made = Vocabulary.from_tokens([evil.encode()], [Kind.TEXT], name=evil)
    build_map(made, made).save(tmp_path / "map.arrow")
    done = run("show", "map.arrow", "0", "--json", cwd=tmp_path)
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    assert "\u00e9" in done.stdout
    assert json.loads(done.stdout)["rows"][0]["src_token"] == evil
