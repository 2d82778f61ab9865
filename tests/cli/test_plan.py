"""``memograd plan`` and ``train --memory-budget``: what they print and write, and one line for every error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from memograd.cli.main import main
from memograd.memory.plan import Plan

MODELS = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, labels=None):
        return (self.net(x) - labels).square().mean()


def net():
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(4)])


def with_criterion():
    return net(), nn.MSELoss(), (torch.randn(64, 16), torch.randn(64, 16))


def without():
    return Own(), (torch.randn(64, 16), torch.randn(64, 16))


def by_name():
    return Own(), {"x": torch.randn(64, 16), "labels": torch.randn(64, 16)}


def raises():
    raise ValueError("no\\nluck")


number = 3
returns_a_number = lambda: 3
returns_four = lambda: (1, 2, 3, 4)
returns_no_model = lambda: (3, (torch.randn(3),))
returns_no_criterion = lambda: (net(), 3, (torch.randn(3, 16),))
returns_a_tensor = lambda: (net(), torch.randn(3, 16))
needs_more = lambda x: x
wrong_shape = lambda: (net(), nn.MSELoss(), (torch.randn(3, 7), torch.randn(3, 16)))
"""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(MODELS)
    (tmp_path / "broken.py").write_text("import surely_not_installed\n")
    (tmp_path / "worse.py").write_text("def (\n")
    monkeypatch.chdir(tmp_path)
    for name in ("my_models", "broken", "worse"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("factory", ["with_criterion", "without", "by_name"])
def test_the_plan_of_a_users_model(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.path)
    assert main(["plan", f"my_models:{factory}", "--budget", "85%"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("budget ") and "tanh x" in out and "extra runs:" in out and "points of overhead" in out
    assert all(len(line) <= 120 for line in out.splitlines())
    assert sys.path == before, "the search path is left as it was"


def test_pictures_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    plan = ["plan", "my_models:with_criterion", "--budget", "85%"]
    assert main([*plan, "--plot", "out.svg", "--save", "plan.json"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "wrote out.svg, plan.json"
    saved = Plan.from_json((tmp_path / "plan.json").read_text())
    assert saved.again and b"<svg" in (tmp_path / "out.svg").read_bytes()


def test_json_is_one_object_and_quiet_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", "my_models:with_criterion", "--budget", "85%"]
    assert main([*plan, "--json", "--save", "plan.json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    made = Plan.from_json(json.dumps(numbers["plan"]))
    assert numbers["peak_bytes"] == made.peak_bytes <= numbers["budget"] < numbers["unplanned_bytes"]
    assert numbers["recomputed"] == made.again and numbers["files"] == ["plan.json"]
    assert {"floor_bytes", "extra_seconds", "overhead", "lower_bound", "gap", "kept"} <= numbers.keys()
    assert Plan.from_json((tmp_path / "plan.json").read_text()) == made
    assert main([*plan, "-q"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("nothing_there:f", "no module 'nothing_there'"),
        ("my_models.inner:f", "my_models.inner"),
        ("my_models:nobody", "no function 'nobody'"),
        ("my_models:number", "no function 'number'"),
        ("my_models", "PACKAGE.MODULE:FACTORY"),
        (":f", "PACKAGE.MODULE:FACTORY"),
        ("my_models:", "PACKAGE.MODULE:FACTORY"),
        ("broken:f", "surely_not_installed"),
        ("worse:f", "SyntaxError"),
        ("my_models:raises", "raised ValueError: no luck"),
        ("my_models:needs_more", "raised TypeError"),
        ("my_models:returns_a_number", "returned a int"),
        ("my_models:returns_four", "returned a tuple of 4"),
        ("my_models:returns_no_model", "its model is a int"),
        ("my_models:returns_no_criterion", "its criterion is a int"),
        ("my_models:returns_a_tensor", "its args are a Tensor"),
        ("my_models:wrong_shape", "in module 'model.0.0'"),
    ],
)
def test_errors_are_one_line_and_1(factory: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", factory, "--budget", "85%"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("memograd: ") and captured.err.count("\n") == 1 and says in captured.err
    assert captured.out == ""


def test_an_impossible_budget_is_1_and_names_the_floor(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", "my_models:with_criterion", "--budget"]
    assert main([*plan, "1KiB"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "needs" in err and "smaller batch" in err
    floor = err.split("needs", 1)[1].split("(")[1].split()[0]
    assert main([*plan, floor, "-q"]) == 0, "the floor it names is enough"


@pytest.mark.parametrize("wrong", [[], ["--budget", "much"], ["--budget", "0"], ["--budget", "50%", "--nonsense"]])
def test_wrong_usage_is_one_line_and_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", "my_models:with_criterion", *wrong])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_files_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    for option in (["--plot", "no/such/folder.svg"], ["--plot", "out.nonsense"], ["--save", "no/such/folder.json"]):
        assert main(["plan", "my_models:with_criterion", "--budget", "85%", *option]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_the_largest_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "my_models:with_criterion", "--budget", "20KiB", "--largest-batch", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["largest_batch"] >= 1 and told["peak_bytes"] <= told["budget"] == 20 * 1024


def test_training_within_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xor = ["train", "xor", "--epochs", "10", "--out", str(tmp_path / "run")]
    assert main([*xor, "--memory-budget", "99%"]) == 0
    out = capsys.readouterr().out
    assert "memory: a step peaks at" in out and "backend eager" in out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 < metrics["peak_bytes"] <= metrics["memory_budget"]
    assert main([*xor, "--memory-budget", "3"]) == 1
    assert "not enough" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([*xor, "--memory-budget", "much"])
    assert stop.value.code == 2
