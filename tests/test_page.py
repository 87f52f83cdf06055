"""The audit page as a file: what is in it, and that nothing can break out of its place."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from audit_pages import HOSTILE, audit_of, small_pair, vocabulary
from conftest import real_vocabulary

import pm_mined
from pm_mined import build_map, load_map
from pm_mined.display import display_token
from pm_mined.reports.audit import Audit
from pm_mined.reports.page import render_page
from pm_mined.reports.usage import Usage

DATA = Path(pm_mined.__file__).with_name("data") / "page"


class Parsed(HTMLParser):
    """The elements of a page: (tag, attributes, text inside)."""

    def __init__(self, page):
        super().__init__()
        self.elements = []
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_data(self, data):
        if self.cdata_elem:  # inside a script or a style
            self.elements[-1][2] += data

    def of(self, tag):
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]


def embedded(page, name):
    (text,) = [
        text for attributes, text in Parsed(page).of("script") if attributes.get("id") == name
    ]
    return json.loads(text)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_page_embeds_the_audit_and_every_token(weighted):
    audit = audit_of(*small_pair(), weighted=weighted)
    page = render_page(audit)
    assert embedded(page, "audit") == audit.to_json()
    columns = embedded(page, "columns")
    tokens = small_pair()[0].packed.tolist()
    assert columns["token"].split("\n") == [display_token(token) for token in tokens]
    distance = np.frombuffer(base64.b64decode(columns["distance"]), "<i4")
    assert distance.tolist() == audit.token_map.distance.tolist()
    rules = np.frombuffer(base64.b64decode(columns["rule"]["codes"]), "<i2")
    names = [columns["rule"]["names"][code] for code in rules]
    assert names == [audit.token_map.row(i).rule for i in range(len(tokens))]
    assert (columns["uses"] is not None) == weighted


def test_the_same_audit_makes_the_same_bytes(tmp_path):
    audit = audit_of(*small_pair(), weighted=True)
    audit.token_map.save(tmp_path / "map.arrow")
    again = Audit(load_map(tmp_path / "map.arrow"), audit.usage)
    assert render_page(again) == render_page(audit)


def test_only_the_pages_own_scripts_may_run():
    parsed = Parsed(render_page(audit_of(*small_pair())))
    (policy,) = [
        attributes["content"]
        for attributes, _ in parsed.of("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    scripts = [text for attributes, text in parsed.of("script") if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert directives["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert not any("src" in attributes for _, attributes, _ in parsed.elements)


def test_tokens_and_names_cannot_leave_their_place():
    src = vocabulary(HOSTILE, "<b>x</b></title><script>1</script>")
    usage = Usage(np.ones(len(HOSTILE), np.int64), ["</script>\udcff.txt"], 1, 1, 0)
    audit = Audit(build_map(src, vocabulary([b"<", b"x"])), usage)
    page = render_page(audit)
    expected = Parsed(render_page(audit_of(vocabulary([b"a"]), vocabulary([b"a"]), weighted=True)))
    names = [tag for tag, _, _ in Parsed(page).elements]
    assert names == [tag for tag, _, _ in expected.elements]
    assert embedded(page, "audit") == audit.to_json()


def test_vendored_files_are_those_of_their_readme():
    readme = (DATA / "vendor" / "README.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})` \|$", readme, re.MULTILINE))
    present = {path.name for path in (DATA / "vendor").iterdir()} - {"README.md"}
    assert set(listed) == {name for name in present if not name.startswith("LICENSE")}
    for name, digest in listed.items():
        content = (DATA / "vendor" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest, name
        assert b"</script" not in content.lower()
        assert b"<!--" not in content
    assert sum((DATA / "vendor" / name).stat().st_size for name in listed) < 900_000


def test_a_real_page_is_small():
    audit = audit_of(real_vocabulary("llama3"), real_vocabulary("qwen3"), weighted=True)
    assert len(render_page(audit)) < 15e6
