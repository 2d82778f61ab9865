"""A real browser: Chromium without a window, driven by Playwright.

`make browser` installs what this needs where it can: the browser is the system's package, axe-core comes from npm.
Without them the tests that ask for it are skipped, and say so.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
AXE = Path(os.environ.get("MEMOGRAD_AXE", Path(__file__).parents[2] / ".venv/axe/node_modules/axe-core/axe.min.js"))


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser tests: pip install playwright")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no browser tests: no Chromium is installed (make browser, or apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Opens a file; afterwards nothing may have been fetched, and nothing complained of."""
    contexts, complaints = [], []

    def open_(path: Path, width: int = 1280, height: int = 800, **options):
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **options))
        contexts[-1].set_default_timeout(10_000)
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith("file://") else complaints.append(f"fetched {r.url}"))
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture(scope="session")
def serious():
    """What axe-core finds on a page that is serious; the page must have been opened with ``bypass_csp=True``."""
    if not AXE.exists():
        pytest.skip("no accessibility check: axe-core is not installed (make browser, which needs npm)")
    text = AXE.read_text(encoding="utf-8")

    def look(page):
        if not page.evaluate("typeof axe !== 'undefined'"):
            page.evaluate(text)
        violations = page.evaluate("axe.run()")["violations"]
        bad = [v for v in violations if v["impact"] in ("serious", "critical")]
        return [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in bad]

    return look
