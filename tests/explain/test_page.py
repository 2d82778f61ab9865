"""The page as a file: it holds all it needs, nothing in it can run but its own script, and whatever users call their
modules stays text. What it does in a browser is in test_browser.py."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import memograd as mg
from memograd.cli.main import main
from memograd.explain import page as page_module
from memograd.explain.bundle import EXPORT, IMPORT
from memograd.explain.examples import example
from memograd.explain.page import bundle

EVIL = "</script><script>hacked = true</script><img src=x onerror=hacked=1>"


@pytest.fixture(scope="module")
def page():
    model, loss, args = example("xor")
    return mg.explain(model, *args, loss=loss, memory_budget="100%")


def data_in(html: str):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_is_one_small_file_that_fetches_nothing(page, tmp_path):
    path = page.save(tmp_path / "page.html")
    html = path.read_text(encoding="utf-8")
    assert path.stat().st_size <= 200_000
    own = html.replace(bundle().script, "").replace(bundle().style, "")
    assert not re.search(r"<(link|img|iframe|script src)|@import|url\(|import\(", own)
    assert "sourceMappingURL" not in html
    assert data_in(html) == json.loads(page.to_json())


def test_only_its_own_script_and_style_may_run(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.html)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("script", "style"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page.html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


class Hostile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.add_module(EVIL, nn.Linear(2, 1))

    def forward(self, x):
        return self._modules[EVIL](x).sum()  # </script><script>window.hacked = true


def test_hostile_names_and_lines_of_source_stay_text():
    page = mg.explain(Hostile(), torch.randn(3, 2))
    assert any(EVIL in n["label"] for n in page.data["nodes"])
    assert page.html.count("</script>") == 2 and page.html.count("<script") == 2 and "<img" not in page.html
    assert data_in(page.html) == json.loads(page.to_json())
    quoted = page._repr_html_()
    assert quoted.startswith('<iframe sandbox="allow-scripts"') and quoted.count("<") == 2


def test_placeholders_in_the_data_are_not_filled_in():
    assert data_in(bundle().assemble({"title": "{{script}} {{policy}}"})) == {"title": "{{script}} {{policy}}"}


def test_modules_of_the_script_import_only_what_stands_before_them():
    folder = Path(page_module.__file__).parent / "page"
    exports: dict[str, set[str]] = {}
    for name in page_module._SCRIPTS:
        text = (folder / f"{name}.js").read_text(encoding="utf-8")
        for names, source in IMPORT.findall(text):
            assert {n.strip() for n in names.strip("{} ").split(",")} <= exports[source], (name, source)
        assert text.count("\nimport ") + text.startswith("import ") == len(IMPORT.findall(text))
        exports[name] = set(EXPORT.findall(text))
        assert text.count("export ") == len(exports[name]), name
    assert {p.stem for p in folder.glob("*.js")} == set(exports)


def test_text_is_short_and_in_both_languages(page):
    assert "binary_cross_entropy" in page.text and "18" in page.text and "memograd page" in repr(page)
    model, loss, args = example("xor")
    assert "反向传播" in mg.explain(model, *args, loss=loss, lang="zh").text
    with pytest.raises(ValueError, match="lang must be"):
        mg.explain(model, *args, loss=loss, lang="fr")


def test_functions_are_explained_with_respect_to_what_they_are_given():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    page = mg.explain(lambda x: (x * x).sum(), x)
    assert page.data["nodes"][0]["adjoint"]["numbers"] == [2.0, 4.0]
    halves = mg.explain(lambda x: x * x, x, torch.zeros(2, dtype=torch.float64), loss=nn.functional.mse_loss)
    assert halves.data["nodes"][0]["adjoint"]["numbers"] == [2.0, 16.0]
    assert [n["label"] for n in halves.data["nodes"][:2]] == ["x", "target"]


def test_an_output_that_is_no_loss_is_refused():
    with pytest.raises(mg.GraphError, match="one real number"):
        mg.explain(nn.Linear(2, 2), torch.randn(1, 2))


def test_budgets_are_those_of_the_plan(page):
    memory = page.data["memory"]
    model, loss, args = example("xor")
    plan = mg.plan(model, *args, loss=loss, memory_budget="100%")
    asked = next(p for p in memory["plans"] if p.get("asked"))
    assert (asked["budget"], asked["peak"]) == (plan.budget, plan.peak_bytes)
    assert next(p for p in memory["plans"] if p.get("unplanned"))["peak"] == plan.unplanned_bytes
    assert all(max(p["profile"]) == p["peak"] <= p["budget"] for p in memory["plans"])


def test_the_command_writes_a_page(tmp_path, capsys, monkeypatch):
    (tmp_path / "own.py").write_text(
        "from torch import nn, ones\n\n\n"
        "def factory():\n    return nn.Linear(2, 1), nn.MSELoss(), (ones(1, 2), ones(1, 1))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "own:factory", "--html", "page.html", "--lang", "zh"]) == 0
    assert data_in((tmp_path / "page.html").read_text(encoding="utf-8"))["lang"] == "zh"
    assert "wrote page.html" in capsys.readouterr().out
    assert main(["explain", "xor", "--html", "xor.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["operators"] == 7
    assert main(["explain", "own:factory", "-q"]) == 0 and capsys.readouterr().out == ""
    assert main(["explain", "neither"]) == 1
    assert "no PACKAGE.MODULE:FACTORY" in capsys.readouterr().err
