"""``memograd check PACKAGE.MODULE:FACTORY``: what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest

from memograd.cli.main import main

MODELS = """
import torch
from torch import nn


class Stopped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.first(x).detach())


healthy = lambda: (nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.MSELoss(), (torch.randn(5, 3), torch.randn(5, 4)))
stopped = lambda: (Stopped(), (torch.randn(5, 3),))
by_name = lambda: (nn.Linear(3, 2), {"input": torch.randn(5, 3)})
"""


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    (tmp_path / "looked_over.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def test_a_healthy_model_is_code_0(capsys):
    assert main(["check", "looked_over:healthy", "--budget", "1GiB"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Preflight of Sequential: nothing to report") and "1.00 GiB is enough" in out
    assert main(["check", "looked_over:by_name", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_something_wrong_is_code_1_with_its_line(capsys):
    assert main(["check", "looked_over:stopped"]) == 1
    assert "warning  stopped gradient at looked_over.py:12" in capsys.readouterr().out
    assert main(["check", "looked_over:stopped", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["findings"][0]["names"] == ["first.weight", "first.bias"] and data["ok"] is False
    assert main(["check", "looked_over:healthy", "--budget", "100", "-q"]) == 1


def test_wrong_usage(capsys):
    assert main(["check", "looked_over:nothing"]) == 1
    assert "has no function 'nothing'" in capsys.readouterr().err
    for given in (["check"], ["check", "looked_over:healthy", "--opinfo"]):
        with pytest.raises(SystemExit) as exit_code:
            main(given)
        assert exit_code.value.code == 2
