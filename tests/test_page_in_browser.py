"""The audit page in a real browser: what it shows, how fluid it is, and that no token runs."""

import csv
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from audit_pages import HOSTILE, audit_of, small_pair, vocabulary

from pm_mined import build_map
from pm_mined.display import display_token
from pm_mined.reports.audit import Audit
from pm_mined.reports.page import render_page
from pm_mined.reports.usage import Usage

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on the PATH")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens an audit's page; afterwards, nothing may have been complained about or asked for."""
    complaints, requests, contexts = [], [], []

    def opened(audit, fragment="", **options):
        file = tmp_path / f"{len(contexts)}.html"
        file.write_bytes(render_page(audit))
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url.partition("#")[0]))
        tab.goto(f"{file.as_uri()}{fragment}")
        assert requests == [*requests[:-1], file.as_uri()]
        requests.pop()
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("blob:")] == []


def shown_count(tab):
    return tab.locator("#count").inner_text()


def cells(tab, column):
    """What the rows of the grid show in one column, from the top."""
    return tab.evaluate(
        """column => {
            const heads = [...document.querySelectorAll(".slick-header-column")];
            const at = heads.findIndex((head) => head.textContent.trim() === column);
            const rows = [...document.querySelectorAll(".slick-row")];
            rows.sort((a, b) => a.dataset.row - b.dataset.row);
            return rows.map((row) => row.querySelector(`.l${at}`)?.textContent);
        }""",
        column,
    )


def sort_by(tab, column):
    tab.locator(".slick-header-column", has_text=re.compile(f"^{column}$")).click()


def test_search(open_page):
    tab = open_page(audit_of(*small_pair()))
    assert shown_count(tab) == "24 of 24 tokens"
    search = tab.get_by_label("Search")
    search.fill("hell")
    assert set(cells(tab, "token")) == {"hello", "hell", "␣hello", "␣Hello"}
    search.fill("Hell")
    assert cells(tab, "token") == ["␣Hello"]
    search.fill(" h")
    assert cells(tab, "token") == ["␣hello", "␣Hello"]
    search.fill("7")
    assert "7" in cells(tab, "id")
    assert all("7" in pair for pair in zip(cells(tab, "id"), cells(tab, "dst id"), strict=True))
    search.fill("slovo")
    assert shown_count(tab) == "0 of 24 tokens"
    tab.get_by_role("button", name="Clear").click()
    tab.wait_for_function("document.getElementById('count').textContent.startsWith('24')")


@pytest.mark.parametrize("group", ["match", "rule", "kind", "script"])
def test_every_filter_shows_as_many_as_the_audit_counts(open_page, group):
    audit = audit_of(*small_pair())
    tab = open_page(audit)
    plural = {"match": "matches", "rule": "rules", "kind": "kinds", "script": "scripts"}[group]
    for entry in audit.to_json()[plural]:
        if entry["tokens"]:
            tab.locator(f"#{group}").select_option(entry["name"])
            assert shown_count(tab) == f"{entry['tokens']} of 24 tokens"
            assert set(cells(tab, group)) == {entry["name"]}


def test_filters_combine(open_page):
    audit = audit_of(*small_pair())
    tab = open_page(audit, "#rule=prefix&script=Latin&q=d&sort=-distance")
    expected = [
        i
        for i, token in enumerate(small_pair()[0].packed.tolist())
        for row in [audit.token_map.row(i)]
        if row.rule == "prefix"
        and audit.script_names[audit.script[i]] == "Latin"
        and (b"d" in token.lower() or b"d" in row.dst_token.lower())
    ]
    expected.sort(key=lambda i: -audit.token_map.row(i).distance)
    assert cells(tab, "id") == [str(i) for i in expected]
    assert expected
    assert tab.get_by_label("Search").input_value() == "d"


@pytest.mark.parametrize("column", ["token", "distance", "dst id", "uses", "script"])
def test_sorting_works_both_ways(open_page, column):
    audit = audit_of(*small_pair(), weighted=True)
    tab = open_page(audit, viewport={"width": 1280, "height": 1600})
    sort_by(tab, column)
    ascending = cells(tab, column)
    assert len(ascending) == 24
    sort_by(tab, column)
    descending = cells(tab, column)
    number = column in ("distance", "dst id", "uses")
    values = [int(v.replace(",", "")) if number else v for v in ascending if v]
    assert values == sorted(values)
    assert len(set(values)) > 2
    assert [v for v in descending if v] == [str(v) for v in sorted(values, reverse=True)]
    blank = [v for v in ascending if not v]
    assert ascending[len(values) :] == descending[len(values) :] == blank, "no value comes last"
    head = tab.locator('.slick-header-column[aria-sort="descending"]')
    assert head.inner_text() == column


def test_hostile_tokens_are_shown_and_never_run(open_page):
    src = vocabulary(HOSTILE, "<b>x</b>\u202e<img src=x onerror=window.pwned=1>")
    dst = vocabulary([token[:-1] or b"q" for token in HOSTILE], "</script>")
    usage = Usage(np.ones(len(HOSTILE), np.int64), ["<i>\u202e.txt"], 1, 1, 0)
    tab = open_page(Audit(build_map(src, dst), usage))
    shown = [display_token(token) for token in HOSTILE]
    assert cells(tab, "token") == shown
    assert tab.locator("h1").inner_text().startswith("<b>x</b>\\u{202e}<img")
    assert "<i>\\u{202e}.txt" in tab.locator("header").inner_text()
    for query in ("<script>", "</script>", "\\x00", "\\xff", "\\xed\\xa0\\x80", "\\u202e"):
        tab.get_by_label("Search").fill(query)
        assert set(cells(tab, "token")) >= {token for token in shown if query in token}
    tab.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    assert tab.evaluate("window.pwned") is None
    assert tab.locator("img").count() == 0


def test_the_csv_holds_the_rows_shown(open_page):
    src = vocabulary(HOSTILE)
    tab = open_page(audit_of(src, vocabulary([b"x"]), weighted=True), "#sort=-id")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download").click()
    rows = list(
        csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8"), newline=""))
    )
    assert [int(row["id"]) for row in rows] == list(range(len(HOSTILE)))[::-1]
    shown = {int(row["id"]): row["token"] for row in rows}
    assert shown[0] == HOSTILE[0].decode()
    assert shown[14] == 'a\\nb,"c"'
    assert shown[11] == f"'{display_token(HOSTILE[11])}", "no formula for a spreadsheet"


def test_by_keyboard(open_page):
    tab = open_page(audit_of(*small_pair()))
    for _ in range(60):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.id") == "search":
            break
    tab.keyboard.type(" Hello")
    assert shown_count(tab) == "1 of 24 tokens"
    for _ in " Hello":
        tab.keyboard.press("Backspace")
    heads = 0
    for _ in range(30):
        tab.keyboard.press("Tab")
        focused = tab.evaluate("document.activeElement.className")
        heads += "slick-header-column" in focused
        if "slick-cell" in focused:
            break
    assert heads == 9, "every head is a stop"
    assert tab.locator(".slick-cell.active").inner_text() == "hello"
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        tab.keyboard.press(key)
    assert tab.locator(".slick-row.active .l1").inner_text() == "world"
    tab.keyboard.press("Control+End")
    assert tab.locator(".slick-row.active .l0").inner_text() == "23"
    tab.keyboard.press("Shift+Tab")
    assert "slick-header-column" in tab.evaluate("document.activeElement.className")
    tab.keyboard.press("Enter")
    assert cells(tab, "script") == sorted(cells(tab, "script"))
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    assert not tab.evaluate("document.getElementById('grid').contains(document.activeElement)")


def percent(share):
    return "<0.01%" if 0 < share < 0.00005 else f"{share:.2%}"


def figures(entry, weighted):
    """A group's figures as the page writes them."""
    pairs = [("uses", "use_share")] * weighted + [("tokens", "share")]
    return [text for n, s in pairs for text in (f"{entry[n]:,}", percent(entry[s]))]


@pytest.mark.parametrize("weighted", [False, True])
def test_every_figure_is_the_audits(open_page, weighted):
    audit = audit_of(*small_pair(), weighted=weighted)
    document = audit.to_json()
    tab = open_page(audit)
    for name, group in zip(("rules", "kinds", "scripts"), ("rule", "kind", "script"), strict=True):
        tab.locator(f"#{name} summary").click()
        rows = tab.locator(f"#{name} tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        assert rows == [
            [entry["name"], *figures(entry, weighted)]
            + [f"{match['tokens']:,}" for match in entry["by_match"].values()]
            for entry in document[name]
            if entry["tokens"]
        ], group
    for entry in document["matches"]:
        tile = tab.locator(".tile", has=tab.locator(f".{entry['name']}")).inner_text()
        assert all(text in tile for text in figures(entry, weighted))
    distances = tab.locator("#distances tbody tr").count()
    assert distances == len(document["distances"])
    assert ("news.txt, code.py: " in tab.locator("header").inner_text()) == weighted


def listed(tab, title):
    section = tab.locator("#lists section", has=tab.get_by_role("heading", name=title))
    more = section.get_by_role("button")
    if more.count():
        more.click()
    return section.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )


def test_the_lists_are_the_audits(open_page):
    audit = audit_of(*small_pair(), weighted=True)
    document, token_map = audit.to_json(), audit.token_map
    tab = open_page(audit)

    def pair(row):
        whole = token_map.row(row["src_id"])
        return [display_token(whole.src_token), display_token(whole.dst_token)]

    assert listed(tab, "Costliest") == [
        [*pair(row), f"{row['uses']:,}", f"{row['cost']:,}"] for row in document["costliest"]
    ]
    assert listed(tab, "Most distant") == [
        [*pair(row), f"{row['distance']}", f"{row['uses']:,}"] for row in document["most_distant"]
    ]
    assert [row[:3] for row in listed(tab, "Most mapped to")] == [
        [
            display_token(bytes.fromhex(row["dst_token_hex"])),
            f"{row['readers']}",
            f"{row['uses']:,}",
        ]
        for row in document["most_read"]
    ]
    assert [row[:2] for row in listed(tab, "Unmapped")] == [
        [pair(row)[0], str(row["src_id"])] for row in document["unmapped"]
    ]
    assert document["unmapped"]
    assert document["most_distant"]


def test_bars_are_as_long_as_their_shares_and_filter_the_table(open_page):
    audit = audit_of(*small_pair())
    document = audit.to_json()
    tab = open_page(audit)
    bars = tab.locator("#chart-rules a").evaluate_all(
        """links => links.map((link) => [link.getAttribute("xlink:href") ?? link.href.baseVal,
            Number(link.firstChild.getAttribute("width"))])"""
    )
    shares = {
        f"#rule={rule['name']}&match={match}": figure["share"]
        for rule in document["rules"]
        for match, figure in rule["by_match"].items()
        if figure["tokens"]
    }
    assert {link for link, _ in bars} == set(shares)
    unit = max(width for _, width in bars) / max(shares.values())
    assert all(abs(width - shares[link] * unit) < 2 for link, width in bars)
    tab.locator('#chart-rules a[*|href="#rule=prefix&match=far"] rect').click()
    prefix = next(rule for rule in document["rules"] if rule["name"] == "prefix")
    tokens = prefix["by_match"]["far"]["tokens"]
    tab.wait_for_function(f"document.getElementById('count').textContent.startsWith('{tokens} of')")


def luminance(color):
    channels = [int(c) / 255 for c in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_looks_can_be_read(open_page, scheme):
    tab = open_page(audit_of(*small_pair()), color_scheme=scheme)
    color = "(e, name) => getComputedStyle(e)[name]"
    paper = tab.locator("body").evaluate(color, "backgroundColor")
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for text in ("h1", "header p", "td.token a", ".slick-cell", ".slick-header-column", "label"):
        assert contrast(tab.locator(text).first.evaluate(color, "color"), paper) >= 4.5, text
    chart = tab.locator("#chart-rules text").first.evaluate(color, "fill")
    assert contrast(chart, paper) >= 4.5
    for bar in tab.locator("#chart-scripts rect").all():
        assert contrast(bar.evaluate(color, "fill"), paper) >= 3
    tab.locator("#theme").click()
    assert (luminance(tab.locator("body").evaluate(color, "backgroundColor")) > 0.5) != (
        scheme == "light"
    )


def test_print(open_page):
    tab = open_page(audit_of(*small_pair()), "#rule=prefix", color_scheme="dark")
    tab.emulate_media(media="print")
    assert luminance(tab.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")) > 0.9
    assert not tab.locator("#grid").is_visible()
    assert tab.locator("#chart-rules svg").is_visible()
    assert tab.locator("#printed").is_visible()
    printed = tab.locator("#printed tbody tr").evaluate_all(
        "rows => rows.map(row => row.cells[1].innerText)"
    )
    assert printed == cells(tab, "token")
    assert len(tab.pdf(format="A4")) > 20_000


@pytest.mark.parametrize("width", [320, 400, 800, 1600])
def test_nothing_is_wider_than_the_window(open_page, width):
    tab = open_page(
        audit_of(*small_pair(), weighted=True), viewport={"width": width, "height": 800}
    )
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    clipped = tab.locator("#charts svg text").evaluate_all(
        """texts => texts.filter((text) => {
            const box = text.getBoundingClientRect();
            return box.left < -1 || box.right > innerWidth + 1;
        }).map((text) => text.textContent)"""
    )
    assert clipped == []


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_tiny_maps(open_page, size, weighted):
    src = vocabulary([b"a"][:size])
    tab = open_page(audit_of(src, vocabulary([b"a"]), weighted=weighted))
    assert shown_count(tab) == f"{size} of {size} tokens"
    assert cells(tab, "token") == ["a"][:size]
    for column in ("token", "distance", "script"):
        sort_by(tab, column)
    tab.get_by_label("Search").fill("a")
    assert shown_count(tab) == f"{size} of {size} tokens"


def test_nothing_of_the_vocabulary_maps(open_page):
    tab = open_page(audit_of(vocabulary([b"a", b"b"]), vocabulary([b"x"])))
    assert cells(tab, "destination token") == ["", ""]
    assert cells(tab, "distance") == ["", ""]
    assert cells(tab, "match") == ["unmapped", "unmapped"]


def test_a_wrong_address_shows_everything(open_page):
    tab = open_page(audit_of(*small_pair()), "#rule=nonsense&sort=-nonsense&__proto__=1")
    assert shown_count(tab) == "24 of 24 tokens"


TIMED = """async () => {
    const start = performance.now();
    CHANGE;
    await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
    return performance.now() - start;
}"""

FLUID = {  # what a person does -> milliseconds; it takes a fraction of that on a slow machine
    "search": (
        "search.value = 'ar'; search.dispatchEvent(new Event('input', {bubbles: true}))",
        1500,
    ),
    "filter": (
        "kind.value = 'text'; kind.dispatchEvent(new Event('input', {bubbles: true}))",
        1500,
    ),
    "sort": ("document.querySelectorAll('.slick-header-column')[3].click()", 2000),
    "sort tokens": ("document.querySelectorAll('.slick-header-column')[1].click()", 3000),
    "scroll": ("document.querySelector('.slick-viewport').scrollTop = 1e9", 500),
}


def test_a_quarter_of_a_million_rows_are_fluid(browser, tmp_path):
    letters = ["".join(chr(97 + (i // 26**k) % 26) for k in range(1 + i % 7)) for i in range(2**18)]
    words = [f"{'' if i % 3 else ' '}{word}{i}".encode() for i, word in enumerate(letters)]
    src, dst = vocabulary(words, "many"), vocabulary([word[:5] for word in words[::2]], "fewer")
    file = tmp_path / "many.html"
    file.write_bytes(render_page(audit_of(src, dst, weighted=True)))
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(file.as_uri())
    load = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert load < 15_000
    for name, (change, bound) in FLUID.items():
        painted = tab.evaluate(TIMED.replace("CHANGE", change))
        print(f"{name}: painted after {painted:.0f} ms")
        assert painted < bound, name
    tab.wait_for_function("[...document.querySelectorAll('.slick-row')].length > 10")
    last = max(
        int(row) for row in tab.locator(".slick-row").evaluate_all("r => r.map(e => e.dataset.row)")
    )
    assert f"{last + 1:,} of 262,144 tokens" == shown_count(tab)
    print(f"load: {load:.0f} ms, {file.stat().st_size / 1e6:.1f} MB")
    tab.close()
