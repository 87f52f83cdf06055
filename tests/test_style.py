"""Rules of style that a machine can hold: how docstrings open, how long files and functions are."""

import ast
import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "pm_mined", "cmc_runtime")
MOST_LINES = dict.fromkeys(PACKAGES, 350) | {"benchmarks": 500, "tests": 700}
MEDIAN_BODY, P90_BODY = 5, 16  # lines, docstrings apart

QUESTION = re.compile(r"(What|How|Whether)\b")
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def nodes_of_packages():
    """Every node of the packages' syntax trees, with the path of its file."""
    for folder in PACKAGES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from ((path, node) for node in ast.walk(ast.parse(path.read_text("utf-8"))))


def opens_with_a_question(node):
    """True of a string that is a statement by itself, as docstrings of all kinds are."""
    text = node.value if isinstance(node, ast.Expr) else None
    is_text = isinstance(text, ast.Constant) and isinstance(text.value, str)
    return is_text and QUESTION.match(text.value.lstrip()) is not None


def body_lines(function):
    body = function.body[ast.get_docstring(function) is not None :]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_no_docstring_opens_with_a_question_word():
    """Docstrings open with a verb or a noun: `Find ...`, `The size of ...`, `True if ...`."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in nodes_of_packages()
        if opens_with_a_question(node)
    ]
    assert found == []


@pytest.mark.parametrize("folder", MOST_LINES)
def test_files_have_one_subject_and_so_are_short(folder):
    lengths = {path: path.read_text("utf-8").count("\n") for path in (ROOT / folder).rglob("*.py")}
    most = MOST_LINES[folder]
    assert {str(path): lines for path, lines in lengths.items() if lines > most} == {}


def test_functions_are_short():
    lengths = sorted(
        body_lines(node) for _, node in nodes_of_packages() if isinstance(node, FUNCTION)
    )
    assert median(lengths) <= MEDIAN_BODY
    assert lengths[len(lengths) * 9 // 10] <= P90_BODY


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"""What it does."""', 1),
        ('def one():\n    """How many there are."""', 1),
        ('class One:\n    size: int\n    """Whether it is large."""', 1),
        ('def one():\n    r"""\n    What follows."""', 1),
        ('def one():\n    """Whatever comes, kept."""', 0),
        ('def one():\n    """The number of tokens."""\n    return "What"', 0),
    ],
)
def test_a_question_word_is_found(text, found):
    assert sum(map(opens_with_a_question, ast.walk(ast.parse(text)))) == found
