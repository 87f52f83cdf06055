"""What the README says is so: its code runs, its commands exist, its tree is the tree."""

import re
import shutil
from pathlib import Path

import pytest
import typer
from command_line import run
from conftest import real_vocabulary

import cmc_runtime.cli
import pm_mined.cli
from pm_mined.overrides.table import read_overrides

ROOT = Path(__file__).parents[1]
LEFT_OUT = {"pm_mined/data/page/vendor/"}  # libraries of others
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_python_code_runs(tmp_path, monkeypatch):
    for module in ("pandas", "duckdb"):
        pytest.importorskip(module)
    real_vocabulary("llama3")
    real_vocabulary("qwen3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "article-1.jsonl", "docs")
    names = {}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    assert names["rows"].num_rows == len(names["frame"]) == 128_256
    assert names["token_map"].row(9906).src_token == b"Hello"


@pytest.fixture(scope="module")
def headline(tmp_path_factory):
    """A folder in which the headline command was run."""
    real_vocabulary("llama3")
    real_vocabulary("qwen3")
    folder = tmp_path_factory.mktemp("headline")
    assert run("build", "--src", "llama", "--dst", "qwen", cwd=folder).status == 0
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "article-1.jsonl", folder / "docs")
    return folder


def test_the_audit_prints_what_the_readme_says(headline):
    command = "$ pm-mined audit llama3-to-qwen3.arrow --text docs/article-1.jsonl --field text"
    block = README[README.index(command) :].partition("\n```")[0].splitlines()[1:]
    shown = run(*command.split()[2:], cwd=headline).stdout
    printed = [line.rstrip() for line in shown.splitlines()]
    assert [line for line in block if line != "..." and line.rstrip() not in printed] == []


def test_the_loop_of_the_readme(headline):
    """suggest -> edit -> check -> build -> compare, with the output that it shows."""
    start = README.index("pm-mined overrides suggest")
    commands, _, rest = README[start:].partition("\n```\n")
    for line in commands.splitlines()[:-1]:
        words = line.partition("#")[0].split()
        if words[0] == "$EDITOR":
            table = headline / words[1]
            row = '{ src = "<|finetune_right_pad_id|>", dst = "<|endoftext|>"'
            edited = table.read_text("utf-8").replace(f"# {row}", row)
            table.write_text(edited, "utf-8")
        else:
            done = run(*words[1:], cwd=headline)
            assert (done.status, done.stderr) == (0, "")
    compared = run(*commands.splitlines()[-1].split()[1:], cwd=headline)
    assert compared.status == 1
    expected = rest.partition("```\n")[2].partition("```")[0].splitlines()
    assert [line.rstrip() for line in compared.stdout.splitlines()] == expected


def test_the_override_table_is_one(tmp_path):
    (tmp_path / "table.toml").write_text(*blocks("toml"))
    src, dst = real_vocabulary("llama3"), real_vocabulary("qwen3")
    dst_of = read_overrides(tmp_path / "table.toml", src, dst).dst_of
    assert dst_of == {128008: 151645, 128010: -1}
    assert src[128010] == b"<|python_tag|>"


def leaves(command, path):
    """Every command that does something, with its options and arguments."""
    inner = getattr(command, "commands", {})
    if not inner:
        yield path, command
    for name, one in inner.items():
        yield from leaves(one, f"{path} {name}")


COMMANDS = [
    leaf
    for app in (pm_mined.cli.app, cmc_runtime.cli.app)
    for leaf in leaves(typer.main.get_command(app), app.info.name)
]


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS])
def test_every_command_has_help_and_stands_in_the_readme(path):
    assert path in README
    program, *words = path.split()
    shown = run(*words, "--help", program=program)
    assert shown.status == 0
    options = re.findall(r"^ +(?:-\w, *)?(--[\w-]+)(.*)$", shown.stdout, re.MULTILINE)
    assert options
    assert all(text.strip() for _, text in options), options


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_every_command_and_option_is_documented(path, command):
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    section = page.partition(f"## {path}\n")[2].partition("\n## ")[0]
    words = " ".join(section.split())
    assert " ".join(command.help.split()) in words
    for parameter in command.params:
        assert parameter.help, parameter.name
        assert " ".join(parameter.help.split()) in words
        for name in parameter.opts if parameter.param_type_name == "option" else ():
            assert re.search(rf"(^|\s){name}\b", section, re.MULTILINE)
    names = re.findall(r"^  ((?:--?[\w-]+(?:, )?)+)", section, re.MULTILINE)
    documented = set(re.findall(r"--[\w-]+", " ".join(names))) - {"--help"}
    options = {name for one in command.params for name in one.opts if name.startswith("--")}
    assert documented == options


def tree():
    """The paths of the README's file tree."""
    block = README[README.index("\nkernels/ ") :].partition("```")[0].strip("\n")
    folders = {-2: ""}  # by how far what is in them is indented
    for line in block.splitlines():
        name, indent = line.split()[0], len(line) - len(line.lstrip())
        path = folders[indent - 2] + name
        if name.endswith("/"):
            folders[indent] = path
        yield path


def test_the_file_tree_is_the_tree():
    """Every folder of the packages, and every module that stands beside them."""
    listed = set(tree())
    assert all((ROOT / path).exists() for path in listed)
    for package in ("kernels", "pm_mined", "cmc_runtime"):
        modules = {f"{package}/{path.name}" for path in (ROOT / package).glob("[!_]*.py")}
        files = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()}
        folders = {f"{path.parent}/" for path in files if "__pycache__" not in path.parts}
        assert modules | (folders - LEFT_OUT) <= listed


def test_the_ci_runs_the_readme_s_test_command():
    (command,) = (line for block in blocks("sh") for line in block.splitlines() if "pytest" in line)
    assert README.index(command) == README.index(
        "python3 -m venv", README.index("compiles the kernels")
    )
    assert "grep '^python3 -m venv' README.md" in (ROOT / ".ci" / "run").read_text()
