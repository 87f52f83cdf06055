"""Tokens as a person reads them."""

import pytest

from pm_mined.display import display_token, printable


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (b" the", "␣the"),
        (b"   ", "␣␣␣"),
        (b"\\n", "\\\\n"),
        (b"\n\t\0\x7f", r"\n\t\x00\x7f"),
        (b"\xe4\xbd a", r"\xe4\xbd␣a"),
        ("क्षेत्र".encode(), "क्षेत्र"),
        ("\u094dष".encode(), r"\u094dष"),
        ("\ufe0f".encode(), r"\ufe0f"),
        ("\u202eabc".encode(), r"\u202eabc"),
        ("\u3164\u2800\u200b".encode(), r"\u3164\u2800\u200b"),
        ("中文🙂".encode(), "中文🙂"),
        (b"", ""),
    ],
)
def test_tokens(token, shown):
    assert display_token(token) == shown


def test_messages_hold_nothing_that_a_terminal_obeys():
    assert printable("a b\x1b]0;c\x07\nd") == r"a b\x1b]0;c\x07\nd"
