"""Every Python block of the README and the docs runs, one namespace a file; the two READMEs stay in step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str | None = None) -> list[str]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [code for name, code in found if language is None or name == language]


def headings(page: Path) -> list[int]:
    """The level of each heading, in order; lines inside code blocks do not count."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [len(line) - len(line.lstrip("#")) for line in text.splitlines() if re.match(r"#+ ", line)]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.stem)
def test_the_code_on_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a page may write files
    torch.manual_seed(0)
    namespace = {"__name__": page.stem}
    for number, code in enumerate(blocks(page, "python"), 1):
        # linecache finds no such file; the number and the line in the block are what one needs
        exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)


def test_the_readmes_show_the_same_code() -> None:
    assert blocks(ROOT / "README.md") == blocks(ROOT / "README.zh-CN.md")


def test_the_readmes_have_the_same_sections() -> None:
    assert headings(ROOT / "README.md") == headings(ROOT / "README.zh-CN.md")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = next(t for t in target if t)
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}, which does not exist"
