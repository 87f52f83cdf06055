"""The commands: what they print, where, and with which status."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
from command_line import COMMAND, on_a_terminal, refused, run
from conftest import real_vocabulary

from pm_mined import Kind, Vocabulary, build_map, load_map

RANKS = "YQ== 0\nYWI= 1\nIGI= 2\n"  # a, ab, " b"


@pytest.fixture
def files(tmp_path):
    """A folder with two tiny rank files."""
    (tmp_path / "src.tiktoken").write_text(RANKS)
    (tmp_path / "dst.tiktoken").write_text("IGI= 0\nYQ== 1\n")
    return tmp_path


def build(files, *more, **environ):
    command = ("build", "--src", "src.tiktoken", "--dst", "dst.tiktoken", *more)
    return run(*command, cwd=files, **environ)


def test_build_names_the_file_after_the_vocabularies(files):
    done = build(files)
    assert done.status == 0
    assert load_map(files / "src.tiktoken-to-dst.tiktoken.arrow").dst_id.tolist() == [1, 1, 0]
    assert ["exact", "2", "66.67%"] in [line.split() for line in done.stdout.splitlines()]
    assert "mean distance of the mapped tokens  0.3333" in done.stdout
    assert "no special tokens" in done.stderr


def test_build_json_is_one_object(files):
    done = build(files, "--json", "-o", "map.arrow", "--unit", "byte", "--strategy", "exact")
    document = json.loads(done.stdout)
    assert document["rules"]["exact"] == 2
    assert document["rules"]["none"] == 1
    assert document["strategy"] == {"name": "exact", "unit": "byte"}
    assert document["file"] == "map.arrow"
    assert document["src"]["source"] == "file:src.tiktoken"


def test_the_map_holds_nothing_of_this_machine(files, tmp_path):
    build(files, "-o", tmp_path / "here.arrow")
    content = (tmp_path / "here.arrow").read_bytes()
    assert str(tmp_path).encode() not in content
    assert os.uname().nodename.encode() not in content


def test_build_takes_overrides(files):
    (files / "table.toml").write_text('[[override]]\nsrc = "ab"\ndst = false\n')
    done = build(files, "-o", "map.arrow", "--overrides", "table.toml")
    assert done.status == 0, done.stderr
    assert load_map(files / "map.arrow").row(1).rule == "override"
    assert load_map(files / "map.arrow").info.overrides_sha256


def test_the_headline_command(tmp_path):
    real_vocabulary("llama3")
    real_vocabulary("qwen3")
    done = run("build", "--src", "llama", "--dst", "qwen", cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert done.stderr == ""
    made = load_map(tmp_path / "llama3-to-qwen3.arrow")
    assert (made.info.src.size, made.info.dst.size) == (128_256, 151_669)
    assert made.info.rules["none"] < 0.03 * len(made)

    again = run(
        *("build", "--src", "llama", "--dst", "qwen", "-o", "again.arrow"),
        cwd=tmp_path,
        NUMBA_NUM_THREADS="1",
        NUMBA_CACHE_DIR=str(tmp_path / "cold"),
    )
    assert again.status == 0, again.stderr
    first = (tmp_path / "llama3-to-qwen3.arrow").read_bytes()
    assert (tmp_path / "again.arrow").read_bytes() == first


@pytest.mark.slow
def test_without_numba_the_map_is_the_same(tmp_path):
    real_vocabulary("mistral-v1")
    pair = ("build", "--src", "mistral-v7", "--dst", "mistral-v1", "--unit", "byte")
    for name, environ in [("compiled", {}), ("plain", {"NUMBA_DISABLE_JIT": "1"})]:
        done = run(*pair, "-o", f"{name}.arrow", cwd=tmp_path, **environ)
        assert done.status == 0, done.stderr
    assert (tmp_path / "plain.arrow").read_bytes() == (tmp_path / "compiled.arrow").read_bytes()


def test_vocab_list():
    entries = json.loads(run("vocab", "list", "--json").stdout)["vocabularies"]
    by_name = {entry["name"]: entry for entry in entries}
    assert "qwen" in by_name["qwen3"]["aliases"]
    installed = importlib.util.find_spec("llama_models") is not None
    assert (by_name["llama3"]["available"] == "package") == installed
    assert "pip install llama-models" in by_name["llama3"]["get"]
    assert by_name["llama2"]["get"] == "from the Hub at first use (meta-llama/Llama-2-7b-hf)"
    lines = run("vocab", "list").stdout.splitlines()
    assert len(lines) == 1 + len(entries), "a line each in a pipe"
    assert any(line.split()[0] == "mistral-v1" for line in lines)


def test_vocab_info(files):
    document = json.loads(run("vocab", "info", "src.tiktoken", "--json", cwd=files).stdout)
    assert document["size"] == 3
    assert document["kinds"]["text"] == 3
    assert len(document["fingerprint"]) == 64
    assert "fingerprint  " in run("vocab", "info", "src.tiktoken", cwd=files).stdout


def test_vocab_info_shows_the_roles_of_special_tokens():
    real_vocabulary("qwen3")
    lines = [line.split() for line in run("vocab", "info", "qwen").stdout.splitlines()]
    assert ["151645", "<|im_end|>", "end_of_turn"] in lines
    assert ["size", "151,669"] in lines


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"LC_ALL": "C"}, {}])
def test_no_escape_codes_in_a_pipe(files, environ):
    done = build(files, "-o", "map.arrow", **environ)
    assert done.status == 0
    assert "\x1b" not in done.stdout + done.stderr


def test_output_that_cannot_show_a_character_escapes_it(files):
    build(files, "-o", "map.arrow")
    done = run("show", "map.arrow", "2", cwd=files, PYTHONIOENCODING="ascii")
    assert done.status == 0, done.stderr
    assert r"\u2423b" in done.stdout


def test_usage_errors_are_status_2(files):
    assert build(files, "--unit", "word").status == 2
    assert build(files, "--strategy", "guess").status == 2
    assert run("build").status == 2
    assert run("no-such-command").status == 2


def test_debug_shows_the_traceback(files):
    done = run("--debug", "show", "absent.arrow", "a", cwd=files)
    assert done.status == 1
    assert "Traceback" in done.stderr
    assert "absent.arrow: cannot read" in done.stderr


WARNS = """
import warnings
from pm_mined.cli import shell

app = shell.application("program", "It uses a library that will change.")

@app.command("use")
def use():
    warnings.warn("will change", FutureWarning)
    warnings.warn("will go", DeprecationWarning)
    warnings.warn("is odd", UserWarning)

@app.command("other")
def other(): ...

shell.run(app)
"""


@pytest.mark.parametrize(
    ("environ", "options", "shown"),
    [
        ({}, [], {"is odd"}),
        ({}, ["--debug"], {"will change", "is odd"}),
        ({"PYTHONWARNINGS": "default"}, [], {"will change", "will go", "is odd"}),
        ({"PYTHONWARNINGS": "default::FutureWarning"}, [], {"will change", "is odd"}),
    ],
)
def test_what_libraries_will_change_is_not_shown_to_users(environ, options, shown, tmp_path):
    (tmp_path / "module.py").write_text(WARNS)
    environ = {**{k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}, **environ}
    command = [sys.executable, "-c", "import module", *options, "use"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0
    assert {text for text in ("will change", "will go", "is odd") if text in done.stderr} == shown


def test_version():
    assert run("--version").stdout.startswith("pm-mined 0.")


# --- Bad input: one line, status 1, and no file is left behind -----------------------------------


def refused_build(files, *more, **environ):
    before = sorted(files.iterdir())
    message = refused("build", *more, cwd=files, **environ)
    assert sorted(files.iterdir()) == before
    return message


def test_unknown_names_bring_the_nearest(files):
    message = refused_build(files, "--src", "lama3", "--dst", "qwen")
    assert "lama3: no vocabulary of that name" in message
    assert "did you mean llama3 or" in message


def test_a_missing_file_is_named(files):
    message = refused_build(files, "--src", "no/such.model", "--dst", "dst.tiktoken")
    assert message == "no/such.model: no such file or folder"


def test_a_directory_as_output(files):
    pair = ("--src", "src.tiktoken", "--dst", "dst.tiktoken")
    (files / "folder").mkdir()
    message = refused_build(files, *pair, "-o", "folder")
    assert message == "folder: cannot write the map: it is a directory"


def test_output_to_a_folder_that_is_missing_or_cannot_be_written(files):
    pair = ("--src", "src.tiktoken", "--dst", "dst.tiktoken")
    assert "No such file" in refused_build(files, *pair, "-o", "absent/map.arrow")
    assert "cannot write" in refused_build(files, *pair, "-o", "/proc/map.arrow")
    assert "no regular file" in refused_build(files, *pair, "-o", "/dev/null")
    assert "cannot write" in refused_build(files, *pair, "-o", "src.tiktoken/map.arrow")


def test_control_characters_are_shown_and_not_obeyed(tmp_path):
    evil = Vocabulary.from_tokens([b"a"], [Kind.TEXT], name="evil\x1b]0;owned\x07")
    build_map(evil, evil).save(tmp_path / "map.arrow")
    message = refused("show", "map.arrow", "zzz", cwd=tmp_path)
    assert r"evil\x1b]0;owned\x07 has no token" in message
    assert "\x1b" not in refused("vocab", "info", "x\x1b[31m\ny")


def test_numbers_that_are_no_ids(files):
    build(files, "-o", "map.arrow")
    assert "has no token '٣'" in refused("show", "map.arrow", "٣", cwd=files)
    assert "has no token" in refused("show", "map.arrow", "9" * 5000, cwd=files)


def test_a_circle_of_links_as_output(files):
    (files / "a.arrow").symlink_to("b.arrow")
    (files / "b.arrow").symlink_to("a.arrow")
    pair = ("--src", "src.tiktoken", "--dst", "dst.tiktoken")
    assert "cannot write the map" in refused_build(files, *pair, "-o", "a.arrow")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "| head -1"])
def test_closed_streams(files, closed):
    command = " ".join([*COMMAND, "vocab", "list", closed])
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_on_a_terminal(files):
    command = [*COMMAND, "build", "--src", "src.tiktoken", "--dst", "dst.tiktoken"]
    shown = on_a_terminal(command, files)
    assert "\x1b[1m" in shown, "the head of the table is bold"
    assert "Reading src.tiktoken" in shown
    dumb = on_a_terminal(command, files, TERM="dumb")
    assert "\x1b" not in dumb
    no_color = on_a_terminal(command, files, NO_COLOR="1")
    assert not re.search(r"\x1b\[[\d;]*3\dm", no_color)


def test_a_narrow_terminal_keeps_numbers_whole(files):
    build(files, "-o", "map.arrow")
    shown = on_a_terminal([*COMMAND, "show", "map.arrow", "ab", "a"], files)
    plain = re.sub(r"\x1b\[[?\d;]*\w", "", shown)
    assert re.search(r"src id .* distance ", plain)
