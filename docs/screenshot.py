"""Draw docs/audit.png and docs/audit-table.png: the audit page of Llama 3 onto Qwen 3.

    python docs/screenshot.py

Needs `pip install playwright`, a Chromium on the PATH, and fonts for the nine scripts.
"""

import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import pm_mined
from pm_mined.reports.page import render_page

DOCS = Path(__file__).parent
WIDTH = 1160
TEXT = "docs/article-1.jsonl"
ROWS = "#script=Devanagari&match=unmapped&sort=-uses"


def main() -> None:
    """Audit the map on the text of the README, and photograph the page."""
    os.chdir(DOCS.parent)  # so that the page names the text as the README does
    token_map = pm_mined.build_map("llama", "qwen")
    usage = pm_mined.read_usage(token_map, [TEXT], field="text")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "audit.html")
        file.write_bytes(render_page(pm_mined.Audit(token_map, usage)))
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 1000}, device_scale_factor=1.5)
        tab.goto(file.as_uri())
        photograph(tab, "body", "#charts", DOCS / "audit.png")
        tab.goto(file.as_uri() + ROWS)
        tab.reload()
        photograph(tab, "#tokens", "#tokens", DOCS / "audit-table.png", most=480)
        browser.close()


def photograph(tab: Page, first: str, last: str, picture: Path, most: float = 5000) -> None:
    """Write a picture of a page, from one element to another."""
    top = tab.locator(first).evaluate("one => one.getBoundingClientRect().top + scrollY")
    bottom = tab.locator(last).evaluate("one => one.getBoundingClientRect().bottom + scrollY")
    start = max(top - 24, 0)
    clip = {"x": 0, "y": start, "width": WIDTH, "height": min(bottom + 24 - start, most)}
    tab.screenshot(path=picture, full_page=True, clip=clip)


if __name__ == "__main__":
    main()
