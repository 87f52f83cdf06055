"""Objects as a session and a notebook show them: what they are, in one line or a small table."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from pm_mined import Audit, Kind, TokenMap, Usage, Vocabulary, build_map, load_map

SRC = Vocabulary.from_tokens([b"<s>", b" cats", b"x"], [Kind.SPECIAL, 0, 0], name="toy")
DST = Vocabulary.from_tokens([b" cat", b"<s>"], [0, Kind.SPECIAL], name="other")
MAP = build_map(SRC, DST)
USAGE = Usage(
    files=["a.txt"], documents=1, characters=9, uses=np.array([1, 2, 1]), unverified_cuts=0
)


def test_each_says_what_it_is():
    assert repr(SRC) == "Vocabulary(toy, 3 tokens)"
    assert repr(MAP) == "TokenMap(toy (3) -> other (2), pm-mined, 66.7 % mapped)"
    assert repr(Audit(MAP)) == f"Audit({MAP!r})"
    assert repr(Audit(MAP, USAGE)) == f"Audit({MAP!r}, 75.0 % of 4 uses)"


def test_a_delta_says_what_it_is():
    pytest.importorskip("transformers")
    from cmc_runtime import Delta

    loaded = SimpleNamespace(spec="my/delta")
    parts = {"new_context": None, "prompt_template": "", "unmapped": "zero", "window": None}
    made = partial(Delta, loaded, None, alpha=0.5, **parts)
    assert repr(made(token_map=MAP)) == f"Delta('my/delta', {MAP!r}, alpha 0.5)"
    assert repr(made(token_map=None)) == "Delta('my/delta', the same vocabulary, alpha 0.5)"


def test_nothing_at_all():
    nothing = Vocabulary.from_tokens([], [])
    empty = build_map(nothing, nothing)
    assert repr(empty) == "TokenMap(custom (0) -> custom (0), pm-mined, 0.0 % mapped)"
    assert Audit(empty)._repr_html_()


class Page(HTMLParser):
    """The cells of a table, row by row, and the tags that there are."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        assert attributes == []
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        self.text = ""

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.text)


def rows_of(made):
    return Page(made._repr_html_()).rows


def test_a_notebook_shows_a_table():
    assert rows_of(SRC) == [["text", "2"], ["special", "1"], ["source", "memory"]]
    assert rows_of(MAP) == [
        ["source", "toy", "3 tokens"],
        ["destination", "other", "2 tokens"],
        ["strategy", "pm-mined"],
        ["mapped", "2", "66.7 %"],
        ["none", "1", "33.3 %"],
        ["prefix", "1", "33.3 %"],
        ["special", "1", "33.3 %"],
    ]
    assert rows_of(Audit(MAP, USAGE)) == [
        ["match", "tokens", "", "uses", ""],
        ["exact", "1", "33.3 %", "1", "25.0 %"],
        ["near", "1", "33.3 %", "2", "50.0 %"],
        ["far", "0", "0.0 %", "0", "0.0 %"],
        ["unmapped", "1", "33.3 %", "1", "25.0 %"],
    ]
    assert rows_of(Audit(MAP))[0] == ["match", "tokens", ""]


HOSTILE = ["</caption><script>alert(1)</script>", "\x1b[2J\r\n\x07", "\ud800", "&amp;\"'", "\u202e"]


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_a_name_holds_is_text(name):
    hostile = Vocabulary.from_tokens([b"<i>"], [Kind.TEXT], name=name, source=f"file:{name}")
    token_map = build_map(hostile, hostile)
    info = replace(token_map.info, strategy={"name": name, "unit": "char"})
    token_map = TokenMap(info, token_map.to_arrow())
    for made in (hostile, token_map, Audit(token_map)):
        assert repr(made).isprintable()
        assert Page(made._repr_html_()).tags <= {"table", "caption", "tr", "th", "td"}
        made._repr_html_().encode()


def test_metadata_of_any_kind_are_shown():
    """Those of a file fit their digest, but whoever wrote it can have put anything into them."""
    info = replace(MAP.info, strategy={}, rules={"near": "many", "<b>": 3})
    token_map = TokenMap(info, MAP.to_arrow())
    assert repr(token_map) == "TokenMap(toy (3) -> other (2), None, 66.7 % mapped)"
    assert rows_of(token_map)[-1] == ["<b>", "3", "100.0 %"]


def test_a_look_checks_no_column(tmp_path):
    """A damaged column that nothing has asked for is not asked for by a look at the map."""
    path = tmp_path / "map.arrow"
    MAP.save(path)
    content = bytearray(path.read_bytes())
    place = content.rindex(MAP.column("distance").buffers()[1].to_pybytes()[:12])
    content[place] ^= 1
    path.write_bytes(content)
    damaged = load_map(path)
    assert repr(damaged) == repr(MAP)
    assert rows_of(damaged) == rows_of(MAP)


def test_a_look_loads_nothing(tmp_path):
    MAP.save(tmp_path / "map.arrow")
    code = f"""
import sys
from pm_mined import load_map
token_map = load_map(r"{tmp_path / "map.arrow"}")
before = set(sys.modules)
repr(token_map), token_map._repr_html_()
print({{name.partition(".")[0] for name in set(sys.modules) - before}} - {{"html"}})
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
