"""One line on a terminal, where something takes long, and nothing anywhere else."""

from __future__ import annotations

import io
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import memograd as mg
from memograd import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(line: str, terminal: io.StringIO) -> None:
    """Until the timer has written."""
    for _ in range(500):
        if line in terminal.getvalue():
            return
        threading.Event().wait(0.01)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=terminal))  # pytest has its own way with sys.stderr
    monkeypatch.setattr(progress, "_PATIENCE", 0.01)
    return terminal


def test_what_takes_long_is_said_and_wiped_away(terminal: Terminal) -> None:
    with progress.shown():
        progress.say("first")
        wait_for("first", terminal)
        with progress.shown():
            progress.say("second")
    lines = terminal.getvalue().split("\r")
    assert lines[1].strip() == "memograd: first ..." and lines[2].strip() == "memograd: second ..."
    assert lines[3].isspace() and lines[4] == "" and "\n" not in terminal.getvalue()
    progress.say("third")
    assert "third" not in terminal.getvalue()


def test_what_is_quick_says_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 60.0)
    with progress.shown():
        progress.say("quick")
    assert terminal.getvalue() == "" and threading.active_count() < 50


def test_a_pipe_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=pipe))
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with progress.shown():
        progress.say("something")
        threading.Event().wait(0.02)
    assert pipe.getvalue() == ""


def test_the_line_is_wiped_away_after_an_error(terminal: Terminal) -> None:
    with pytest.raises(ZeroDivisionError), progress.shown():
        progress.say("something")
        wait_for("something", terminal)
        raise ZeroDivisionError
    assert terminal.getvalue().endswith(" \r")


def test_a_first_step_says_what_it_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    model = nn.Linear(3, 1)
    mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1), memory_budget="100%", check="never")(
        torch.ones(5, 3), torch.ones(5, 1)
    )
    stages = [text.split(" of ")[0] for text in said]
    assert stages[0] == "capture" and {"differentiate", "lower", "plan"} <= set(stages)
