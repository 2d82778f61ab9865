"""What stands in the file system decides what a program does. Witness: the same model in plain PyTorch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

Ask = Callable[[Path], float]


def switched(path: Path, k: int) -> None:
    path.unlink() if path.exists() else path.touch()


def folder_switched(path: Path, k: int) -> None:
    path.rmdir() if path.exists() else path.mkdir()


def written(path: Path, k: int) -> None:
    path.write_text("a" * k)


def dated(path: Path, k: int) -> None:
    path.touch()
    os.utime(path, (k, k + 5))


ASKED: dict[str, tuple[Ask, Callable[[Path, int], Any]]] = {
    "path.exists": (lambda path: 2.0 if path.exists() else 3.0, switched),
    "os.path.exists": (lambda path: 2.0 if os.path.exists(path) else 3.0, switched),
    "os.path.isfile": (lambda path: 2.0 if os.path.isfile(str(path)) else 3.0, switched),
    "os.path.islink": (lambda path: 2.0 if os.path.lexists(path) else 3.0, switched),
    "os.access": (lambda path: 2.0 if os.access(path, os.R_OK) else 3.0, switched),
    "path.is_dir": (lambda path: 2.0 if path.is_dir() else 3.0, folder_switched),
    "os.path.getsize": (lambda path: os.path.getsize(path) if os.path.exists(path) else 3.0, written),
    "path.stat": (lambda path: path.stat().st_mtime if path.exists() else 3.0, dated),
    "os.walk": (lambda path: float(len([*os.walk(path.parent)])), folder_switched),
}


def created(path: Path) -> float:
    os.makedirs(path, exist_ok=True)
    return 2.0


def removed(path: Path) -> float:
    path.unlink(missing_ok=True)
    return 2.0


DONE: dict[str, tuple[Ask, Callable[[Path, int], Any]]] = {
    "os.makedirs": (created, lambda path, k: shutil.rmtree(path)),
    "path.unlink": (removed, lambda path, k: path.touch()),
}


class Asking(nn.Module):
    def __init__(self, ask: Ask, path: Path) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.ask, self.path = ask, path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * x).sin() * self.ask(self.path)


def calls(ask: Ask, change: Callable[[Path, int], Any], folder: Path, wrapped: bool) -> list[tuple[Any, bool]]:
    folder.mkdir()
    model: Any = Asking(ask, folder / "asked for")
    model = mg.wrap(model, check="never") if wrapped else model
    found = []
    for k in range(4):
        model.zero_grad()
        model(torch.tensor(0.3, dtype=torch.float64)).backward()
        found.append((model.weight.grad.clone(), model.path.exists()))
        change(model.path, k)
    return found


@pytest.mark.parametrize("name", [*ASKED, *DONE])
def test_a_wrapped_model_finds_and_leaves_what_the_plain_one_does(name: str, tmp_path: Path) -> None:
    ask, change = {**ASKED, **DONE}[name]
    expected = calls(ask, change, tmp_path / "plain", wrapped=False)
    torch.testing.assert_close(calls(ask, change, tmp_path / "wrapped", wrapped=True), expected)


def test_a_file_that_stays_as_it_is_makes_no_other_program(tmp_path: Path) -> None:
    path = tmp_path / "read in between"
    path.write_text("2")
    model = mg.wrap(Asking(lambda path: float(os.path.getsize(path)), path), check="never")
    for _ in range(3):
        model(torch.ones((), dtype=torch.float64))
        path.read_text()
    assert len(model.forward.captures) == 1
