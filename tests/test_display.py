"""Tokens as a person reads them."""

import pytest

from pm_mined.display import describe_strategy, display_token, printable


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


def test_all_that_a_strategy_was_told():
    fallback = {"fallback": "edit", "max_distance": 2}
    assert describe_strategy({"name": "pm-mined", "unit": "char", **fallback}) == (
        "strategy pm-mined, distances in code points, fallback edit within 2"
    )
    sorted_as_in_a_file = {"decay": 0.5, "name": "prefixes", "top_k": 4, "unit": "byte"}
    assert describe_strategy(sorted_as_in_a_file) == (
        "strategy prefixes, top 4, decay 0.5, distances in bytes"
    )
