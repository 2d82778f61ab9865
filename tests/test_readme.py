"""Every Python block of the README and the docs runs, one namespace a file; the two READMEs stay in step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md"]
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


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = next(t for t in target if t)
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}, which does not exist"


def anchors(page: Path) -> set[str]:
    """What a link to a section of the page may say behind the ``#``, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.name)
def test_links_to_sections_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link, section in re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", text):
        target = page.parent / link if link else page
        assert section in anchors(target), f"{page.name} links to {link}#{section}: there is no such heading"


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.name)
def test_source_files_named_on_a_page_exist(page: Path) -> None:
    """By their path from the package or the repository on; those of ``test/`` are PyTorch's."""
    for name in re.findall(r"`((?!test/)[\w.-]+/[\w./-]+\.py)`", page.read_text(encoding="utf-8")):
        there = any((folder / name).exists() for folder in (ROOT, ROOT / "src" / "memograd"))
        assert there, f"{page.name} speaks of {name}, which does not exist"
