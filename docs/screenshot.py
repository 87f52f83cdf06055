"""Draw docs/audit.png: the figures at the top of an audit page, of Llama 3 onto Qwen 3.

python docs/screenshot.py [TEXT...]

Needs `pip install playwright` and a Chromium on the PATH.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import pm_mined
from pm_mined.audit import Audit
from pm_mined.page import render_page
from pm_mined.usage import read_usage

WIDTH = 1160


def main() -> None:
    """Audit the map, with the text files as weights if there are any, and photograph the page."""
    token_map = pm_mined.build_map("llama", "qwen")
    texts = sys.argv[1:]
    page = render_page(Audit(token_map, read_usage(token_map, texts) if texts else None))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "audit.html")
        file.write_bytes(page)
        photograph(file, Path(__file__).with_name("audit.png"))


def photograph(page: Path, picture: Path) -> None:
    """Write what a browser shows of a page."""
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 1000}, device_scale_factor=1.5)
        tab.goto(page.as_uri())
        bottom = tab.locator("#charts").evaluate("charts => charts.getBoundingClientRect().bottom")
        tab.screenshot(
            path=picture,
            full_page=True,
            clip={"x": 0, "y": 0, "width": WIDTH, "height": bottom + 24},
        )
        browser.close()


if __name__ == "__main__":
    main()
