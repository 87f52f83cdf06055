"""Override tables that no person wrote: each is read or refused in linear time."""

import time

import pytest

from pm_mined import Kind, OverridesError, Vocabulary
from pm_mined.overrides.table import read_overrides

COUNT = 20_000
TOKENS = Vocabulary.from_tokens([f"t{i}".encode() for i in range(COUNT)], [Kind.TEXT] * COUNT)


def read(tmp_path, text):
    path = tmp_path / "table.toml"
    path.write_text(text, "utf-8")
    return read_overrides(path, TOKENS, TOKENS)


def refusal(tmp_path, text):
    start = time.process_time()
    with pytest.raises(OverridesError) as caught:
        read(tmp_path, text)
    assert time.process_time() - start < 3
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'table.toml'}: ")
    assert "\n" not in said
    return said


def test_many_rows_take_linear_time(tmp_path):
    rows = "".join(f"[[override]]\nsrc_id = {i}\ndst_id = {i}\n\n" for i in range(COUNT))
    start = time.process_time()
    assert len(read(tmp_path, rows).rows) == COUNT
    assert time.process_time() - start < 5
    assert "(line 80001)" in refusal(tmp_path, rows + "[[override]]\nsrc_id = -1\ndst_id = 1")


LINES = 100_000
HOSTILE = {
    "braces": "{" * 600_000,
    "brackets": "[" * 600_000,
    "a value of braces": f"override = {'{a=' * 100_000}",
    "a value of brackets": f"override = {'[' * 600_000}",
    "braces line by line": "{\n" * LINES,
    "dots": f"a{'.a' * 50_000} = 1",
    "dots with spaces": f"a{' . a' * 50_000} = 1",
    "quoted dots": "a" + '."a"' * 50_000 + " = 1",
    "a table of dots": f"[a{'.a' * 50_000}]",
    "dots behind an open text": '"' + f"\na{'.a' * 50_000} = 1",
    "quotation marks": '"' * 10**6,
    "escaped quotation marks": '\\"""\n' * LINES,
    "escaped quotation marks in a line": '\\"' * LINES,
    "apostrophes": "'" * 10**6 + "\n'''" * LINES,
    "a long number": f"[[override]]\nsrc_id = {'9' * 5000}",
    "a long key": f"[[override]]\n{'k' * 10**6} = 1",
    "much": "# a comment\n" * 200_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_text_takes_longer(kind, tmp_path):
    refusal(tmp_path, HOSTILE[kind])


def test_dots_in_texts_and_comments_are_no_keys(tmp_path):
    dots = "." * 3000
    quoted = [f'"{dots}\\"{dots}"', f"'{dots}'", f'"""{dots}\n{dots}"""', f"'''{dots}\n{dots}'''"]
    for i, note in enumerate(quoted):
        row = f"[[override]]\nsrc_id = {i}\ndst = false # {dots}\nnote = {note}\n"
        assert dots in read(tmp_path, row).rows[0].note
