from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from memograd.cli.main import main
from memograd.explain.bundle import EXPORT, IMPORT
from memograd.explain.lesson import lesson as module


def data_in(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_is_one_file_that_fetches_nothing_and_holds_both_languages(small, tmp_path):
    path = small.save(tmp_path / "lesson.html")
    html = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 2_000_000
    bundle = module.bundle()
    own = html.replace(bundle.script, "").replace(bundle.style, "")
    assert not re.search(r"<(link|img|iframe|script src)|@import|url\(|import\(", own)
    assert html.count("<script") == html.count("</script>") == 2 and "default-src 'none'" in html
    data = data_in(html)
    assert data.keys() == {*module.SECTIONS, "schema", "version", "lang", "torch", "quiz", "words"}
    assert data["lang"] == "zh" and data["words"].keys() == {"en", "zh"}
    assert "innerHTML" not in bundle.script and "eval(" not in "".join(f.read_text() for f in bundle.scripts)


def test_modules_of_the_script_import_only_what_stands_before_them():
    exports: dict[str, set[str]] = {}
    for file in module.bundle().scripts:
        text = file.read_text(encoding="utf-8")
        for names, source in IMPORT.findall(text):
            assert {n.strip() for n in names.strip("{} ").split(",")} <= exports[source], (file.name, source)
        assert text.count("\nimport ") + text.startswith("import ") == len(IMPORT.findall(text)), file.name
        exports[file.name.removesuffix(".js")] = set(EXPORT.findall(text))
    own = {p.stem for p in (Path(module.__file__).parent / "page").glob("*.js")}
    assert own <= exports.keys()


def test_the_right_answers_follow_from_the_numbers(small):
    quiz = {name: q["options"][q["right"]] for name, q in small.data["quiz"].items()}
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    torch.sin(x * x).backward()
    assert quiz["chain"] == pytest.approx(x.grad.item(), rel=1e-8)
    assert quiz["rungs"] == sum(2 * 2 ** (k + 1) for k in range(10)) == 4092
    assert quiz["time"] == pytest.approx(0.9**27, rel=1e-8)
    assert quiz["steps"] == pytest.approx(torch.tensor(2.0).log().item(), rel=1e-6)
    assert quiz["pooling"] == "25%" and quiz["why"] == "down" and quiz["asking"] == 18
    assert quiz["program"] == "∂addmm[0,0] / ∂t[0,0]"  # the input is 0 there
    assert all(len(q["options"]) >= 3 for q in small.data["quiz"].values())


def test_generators_are_left_alone(small, monkeypatch):
    monkeypatch.setattr(module, "SECTIONS", {"why": lambda: {"drawn": torch.rand(2).tolist()}})
    monkeypatch.setattr(module, "quiz", lambda data: {})
    state = torch.get_rng_state()
    module.lesson()
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="lang must be"):
        module.lesson("fr")


def test_the_command_writes_the_page(small, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "lesson", lambda lang, say: asked.append(lang) or small)
    monkeypatch.chdir(tmp_path)
    assert main(["lesson", "--lang", "zh"]) == 0 and "wrote lesson.html" in capsys.readouterr().out
    assert main(["lesson", "--output", "own.html", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["bytes"] == (tmp_path / "own.html").stat().st_size and asked == ["zh", "en"]
    assert main(["lesson", "-q"]) == 0 and capsys.readouterr().out == ""
