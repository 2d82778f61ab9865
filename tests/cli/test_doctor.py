"""``memograd doctor`` as its user meets it."""

import json

import pytest

from memograd.cli.main import main

MODELS = """
import torch
from torch import nn

torch.manual_seed(0)
batch = torch.randn(16, 4), torch.arange(16) % 3


def sick():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(1)), nn.CrossEntropyLoss(), batch


def healthy():
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    return model, nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=0.01), batch


def fast():
    model, criterion, _, args = healthy()
    return model, criterion, torch.optim.SGD(model.parameters(), lr=1e3), args
"""


@pytest.fixture
def models(tmp_path, monkeypatch, request):
    name = f"doctor_models_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_sick_model_is_explained_and_the_exit_code_is_1(models, capsys):
    assert main(["doctor", f"{models}:sick"]) == 1
    printed = capsys.readouterr().out
    assert "softmax twice" in printed and "aten._log_softmax.default" in printed


def test_a_healthy_model_that_is_followed_gets_exit_code_0(models, capsys):
    assert main(["doctor", f"{models}:healthy", "--steps", "5"]) == 0
    assert "nothing to report" in capsys.readouterr().out


def test_the_optimizer_of_a_factory_is_looked_at(models, capsys):
    assert main(["doctor", f"{models}:fast", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert "updates too large" in [f["kind"] for f in report["findings"]]


def test_a_page_is_written_with_the_curves(models, capsys, tmp_path):
    assert main(["doctor", f"{models}:healthy", "--steps", "4", "--html", "report.html", "-q"]) == 0
    assert capsys.readouterr().out == "" and "<svg" in (tmp_path / "report.html").read_text()


def test_digits_are_counted_under_autocast(models, capsys):
    main(["doctor", f"{models}:healthy", "--precision", "bfloat16", "--json"])
    assert json.loads(capsys.readouterr().out)["numbers"]["precision"]["gradient_error"] > 1e-4


def test_a_factory_that_is_not_there_is_one_line(models, capsys):
    assert main(["doctor", f"{models}:nobody"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
