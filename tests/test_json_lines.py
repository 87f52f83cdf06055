"""Lines of JSON: what is a line, how long it may be, and what cannot be parsed."""

import json
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pm_mined import TextError, json_lines
from pm_mined.json_lines import has_lone_surrogate, parse_line, read_lines

BOM = "\ufeff".encode()


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n \r\n\t\n", []),
        (b"1\n\n2", [(1, b"1\n"), (3, b"2")]),
        (BOM + b"1\r\n2\r\n", [(1, b"1\r\n"), (2, b"2\r\n")]),
        (BOM + b"\n1", [(2, b"1")]),
        (BOM, []),
        (b"1\n" + BOM + b"2", [(1, b"1\n"), (2, BOM + b"2")]),
    ],
)
def test_lines_are_numbered_and_blank_ones_left_out(content, lines):
    seen = []
    assert list(read_lines(BytesIO(content), seen.append)) == lines
    assert sum(seen) == len(content)


def test_a_line_has_a_largest_size(monkeypatch):
    monkeypatch.setattr(json_lines, "MAX_LINE", 1000)
    file = BytesIO(b"x" * 999 + b"\n" + b"x" * 1001 + b"\n1\n")
    lines = read_lines(file)
    assert next(lines) == (1, b"x" * 999 + b"\n")
    with pytest.raises(TextError, match=r"^line 2 is longer than 1,000 bytes$"):
        next(lines)
    assert list(lines) == []
    assert list(read_lines(BytesIO(b"x" * 1000))) == [(1, b"x" * 1000)]


@given(st.lists(st.dictionaries(st.text(), st.text() | st.none() | st.lists(st.integers()))))
def test_rows_that_json_writes_come_back(rows):
    content = "\n".join(map(json.dumps, rows)).encode()
    assert [parse_line(line) for _, line in read_lines(BytesIO(content))] == rows


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": ', "Expecting value"),
        (b'"\xff"', "'utf-8' codec can't decode byte 0xff"),
        (BOM + b"1", "Unexpected UTF-8 BOM"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "Exceeds the limit"),
    ],
)
def test_a_line_that_is_not_json(line, said):
    with pytest.raises(ValueError, match=said):
        parse_line(line)


@pytest.mark.parametrize("line", [rb'"\ud83d"', rb'"\udc00x"'])
def test_json_can_hold_lone_surrogates(line):
    assert has_lone_surrogate(parse_line(line))
    assert not has_lone_surrogate(parse_line(rb'"\ud83d\ude42"'))
