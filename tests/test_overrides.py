"""The override table: what it decides, and what is said of a table that is wrong."""

import hashlib

import pytest

from pm_mined import Kind, OverridesError, Vocabulary, build_map
from pm_mined.overrides.table import read_overrides

SRC = Vocabulary.from_tokens(
    [b"<|eot_id|>", b"<|python_tag|>", b"hello", b"\n", b"\n", "naïve".encode()],
    [Kind.SPECIAL, Kind.SPECIAL, Kind.TEXT, Kind.TEXT, Kind.BYTE, Kind.TEXT],
    name="source",
)
DST = Vocabulary.from_tokens(
    [b"<|im_end|>", b"<|im_start|>", b"hello", b"hell", b" Hello"],
    [Kind.SPECIAL, Kind.SPECIAL, Kind.TEXT, Kind.TEXT, Kind.TEXT],
    name="destination",
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.toml"


def read(path, text):
    path.write_text(text, encoding="utf-8")
    return read_overrides(path, SRC, DST).dst_of


def refusal(path, text):
    """What is said of a table, after the name of the file."""
    with pytest.raises(OverridesError) as caught:
        read(path, text)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def row(*lines):
    return "\n".join(["[[override]]", *lines, ""])


def test_tokens_by_text_and_by_id(path):
    text = row('src = "<|eot_id|>"', 'dst = "<|im_start|>"', 'note = "by text"')
    text += row("src_id = 2", "dst_id = 3") + row("src_id = 1", "dst = false")
    text += row('src = "na\\u00efve"', 'dst = " Hello"')
    assert read(path, text) == {0: 1, 2: 3, 1: -1, 5: 4}


def test_an_empty_table_is_a_table(path):
    assert read(path, "# nothing yet\n") == {}


def test_overrides_come_before_every_other_rule(path):
    path.write_text(row("src_id = 2", 'dst = "hell"') + row("src_id = 0", "dst = false"))
    made = build_map(SRC, DST, overrides=path)
    assert made.row(2)[3:6] == ("override", 0, 3)
    assert made.row(0)[3:6] == ("override", -1, -1)
    assert made.info.overrides_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert build_map(SRC, DST).row(0)[3:6] == ("special", 0, 0)


def test_a_syntax_error_names_its_line(path):
    message = refusal(path, row('src = "hello"', "dst = "))
    assert message.startswith("not TOML: ")
    assert "line 3" in message


def test_a_row_is_named_by_number_and_line(path):
    text = "# comment\n" + row("src_id = 1", "dst = false") + row('src = "hullo"', "dst = false")
    assert refusal(path, text).startswith("override 2 (line 5): source has no token 'hullo'")


def test_an_unknown_token_brings_the_nearest(path):
    message = refusal(path, row("src_id = 2", 'dst = "helo"'))
    assert "destination has no token 'helo'; the nearest are hello (2) or hell (3)" in message


def test_an_empty_vocabulary_has_no_nearest(path):
    path.write_text(row("src_id = 2", 'dst = "helo"'))
    with pytest.raises(OverridesError, match=r"custom has no token 'helo'$"):
        read_overrides(path, SRC, Vocabulary.from_tokens([], []))


def test_a_token_in_the_vocabularys_own_spelling_brings_the_nearest(path):
    assert "␣Hello (4)" in refusal(path, row("src_id = 2", 'dst = "▁Hello"'))


def test_a_text_that_several_tokens_have(path):
    message = refusal(path, row('src = "\\n"', "dst = false"))
    assert "source has 2 tokens '\\n': 3 (text), 4 (byte); say which by src_id" in message


def test_a_duplicate(path):
    message = refusal(path, row("src_id = 2", "dst = false") + row('src = "hello"', "dst_id = 0"))
    assert message == "override 2 (line 4): token 2 (hello) already has an override above"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["src_id = 6", "dst = false"], "src_id 6 is not in source (0 to 5)"),
        (["src_id = -1", "dst = false"], "src_id -1 is not in source (0 to 5)"),
        (["src_id = 2", "dst_id = 5"], "dst_id 5 is not in destination (0 to 4)"),
        (["src_id = 2.5", "dst = false"], "src_id must be a whole number, found 2.5"),
        (["src_id = true", "dst = false"], "src_id must be a whole number, found True"),
        (["src = 2", "dst = false"], "src must be a string, found 2"),
        (["src_id = 2", "dst = true"], "dst must be a string or false, found True"),
        (["src_id = 2", "dst = 3"], "dst must be a string or false, found 3"),
        (["src_id = 2"], "give dst (the token) or dst_id (its id), one of the two"),
        (["dst = false"], "give src (the token) or src_id (its id), one of the two"),
        (["src_id = 2", 'src = "hello"', "dst = false"], "give src (the token) or src_id"),
        (["src_id = 2", "dst = false", "dst_id = 1"], "give dst (the token) or dst_id"),
        (["src_id = 2", "dts = false"], "unknown key 'dts'; did you mean 'dst'?"),
        (["src_id = 2", "dst = false", "wherefore = 1"], "unknown key 'wherefore'; the keys are"),
        (["src_id = 2", "dst = false", "note = 1"], "note must be a string, found 1"),
    ],
)
def test_a_wrong_row(path, lines, said):
    assert refusal(path, row(*lines)).startswith(f"override 1 (line 1): {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[overide]]\nsrc = "hello"\n', "expected [[override]] tables only, found 'overide'"),
        ("[override]\nsrc_id = 1\n", "expected [[override]] tables only, `override` is not a list"),
        ("override = [1]\n", "override 1: expected a table, found 1"),
    ],
)
def test_a_wrong_shape(path, text, said):
    assert refusal(path, text).startswith(said)


def test_a_file_that_is_no_text(path, tmp_path):
    path.write_bytes(b"\xff\xfe[[override]]")
    with pytest.raises(OverridesError, match="not UTF-8 text"):
        read_overrides(path, SRC, DST)
    with pytest.raises(OverridesError, match="cannot read: No such file"):
        read_overrides(tmp_path / "absent.toml", SRC, DST)
    with pytest.raises(OverridesError, match="cannot read: Is a directory"):
        read_overrides(tmp_path, SRC, DST)


def test_a_reserved_token_is_found_by_its_text(path):
    reserved = Vocabulary.from_tokens([b"<unused0>"], [Kind.UNUSED])
    path.write_text(row('src = "<unused0>"', "dst_id = 0"))
    assert read_overrides(path, reserved, DST).dst_of == {0: 0}


def test_a_byte_order_mark_is_no_error(path):
    path.write_bytes(b"\xef\xbb\xbf" + row("src_id = 2", "dst = false").encode())
    assert read_overrides(path, SRC, DST).dst_of == {2: -1}


def test_no_line_is_named_where_it_might_be_another(path):
    note = 'note = """\n[[override]]\n"""'
    message = refusal(
        path, row("src_id = 2", "dst = false", note) + row("src_id = 9", "dst = false")
    )
    assert message.startswith("override 2: src_id 9 is not in source")


def test_what_is_no_table_for_people(path):
    assert "not TOML" in refusal(path, "a = " + "[" * 5000)
    with pytest.raises(OverridesError, match="not a regular file"):
        read_overrides("/dev/zero", SRC, DST)
