"""Attributes of tensors (``x.scale = 2``) come in and go out as in plain PyTorch, whatever tensor they are noted on."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2, dtype=F64)
        self.table = torch.ones(2, dtype=F64)
        self.last: Any = None


class Reads(_Net):
    def forward(self, x: Any) -> Any:
        return self.linear(x) * getattr(x, "scale", 1.0)


class ReadsOfItsOwn(_Net):
    def forward(self, x: Any) -> Any:
        return self.linear(x) * self.table * getattr(self.table, "scale", 1.0)


class Writes(_Net):
    def forward(self, x: Any) -> Any:
        h = self.linear(x)
        x.seen, x.mean = True, h.detach().mean()
        return h


class NotesAPenalty(_Net):
    def forward(self, x: Any) -> Any:
        h = self.linear(x)
        h.penalty = self.linear.weight.square().sum()
        return h


class Leaves(_Net):
    def forward(self, x: Any) -> Any:
        h = self.linear(x)
        before = 0.0 if self.last is None else self.last.mean_of_it
        self.last: Any = h.detach()
        self.last.mean_of_it = h.detach().mean()
        return h + before


def criterion(output: Any, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().mean() + getattr(output, "penalty", 0.0)


def batch(k: int) -> tuple[Any, torch.Tensor]:
    x: Any = torch.linspace(-1.0, 1.0 + k, 12, dtype=F64).reshape(4, 3)
    x.scale = [1.0, 2.0, torch.tensor(3.0, dtype=F64)][k]
    return x, torch.ones(4, 2, dtype=F64)


def trained(model: Any, entry: str, check: Any) -> list[Any]:
    """What there is to see after each of three steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    step = mg.TrainStep(model, criterion, optimizer, check=check) if entry == "step" else None
    if entry == "wrap":
        mg.wrap(model, check=check)
    seen: list[Any] = []
    for k in range(3):
        x, target = batch(k)
        if k == 1:
            model.table = torch.ones(2, dtype=F64)
            model.table.scale = 4.0
        if step is not None:
            seen.append(step(x, target))
        else:
            optimizer.zero_grad()
            loss = criterion(model(x), target)
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
        noted = vars(x).items()
        seen.append({name: torch.as_tensor(value).clone() for name, value in noted})
    return [*seen, *(p.detach() for p in model.parameters())]


@pytest.mark.parametrize("check", ["never", "first"])
@pytest.mark.parametrize("entry", ["step", "wrap"])
@pytest.mark.parametrize("kind", [Reads, ReadsOfItsOwn, Writes, NotesAPenalty, Leaves])
def test_what_is_noted_on_tensors_is_read_and_left_as_in_pytorch(kind: type[_Net], entry: str, check: str) -> None:
    torch.manual_seed(0)
    model = kind()
    torch.testing.assert_close(trained(copy.deepcopy(model), entry, check), trained(model, "plain", check))


def test_a_penalty_noted_on_a_result_has_a_gradient() -> None:
    model = mg.wrap(NotesAPenalty())
    model(torch.ones(4, 3, dtype=F64)).penalty.backward()
    torch.testing.assert_close(model.linear.weight.grad, 2 * model.linear.weight.detach())


def x_of(k: int, **notes: Any) -> torch.Tensor:
    x = torch.linspace(-1.0, 1.0 + k, 6, dtype=F64).reshape(2, 3)
    vars(x).update(notes)
    return x


@pytest.mark.parametrize("scale", [3.0, 5, torch.tensor(0.5, dtype=F64), SimpleNamespace(value=2)])
def test_transforms_follow_what_is_noted_on_an_argument(scale: Any) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        note = getattr(x, "scale", 1.0)
        return (x * (note.value if isinstance(note, SimpleNamespace) else note)).sin().sum()

    gradient = mg.grad(f)
    for k, notes in enumerate([{}, {"scale": scale}, {}, {"scale": 2.0}, {"scale": scale}]):
        x = x_of(k, **notes)
        factor = getattr(notes.get("scale", 1.0), "value", notes.get("scale", 1.0))
        torch.testing.assert_close(gradient(x), (x * factor).cos() * factor)


@pytest.mark.parametrize("check", ["first", "never"])
def test_the_short_way_of_a_wrapped_call_sees_what_is_noted(check: Any) -> None:
    model = Reads()
    wrapped = mg.wrap(copy.deepcopy(model), check=check)
    for k, scale in enumerate((None, None, None, None, 3.0, 5.0, 3.0, None)):
        notes = {} if scale is None else {"scale": scale}
        out, expected = wrapped(x_of(k, **notes)), model(x_of(k, **notes))
        torch.testing.assert_close(out, expected)
        for m, y in ((wrapped, out), (model, expected)):
            m.zero_grad()
            y.sum().backward()
        torch.testing.assert_close(wrapped.linear.weight.grad, model.linear.weight.grad)


def notes_on_its_results(x: Any) -> Any:
    h: Any = x * getattr(x, "scale", 1.0)
    h.mean_of_it = h.mean()
    return {"h": h, "made": SimpleNamespace(h=h)}


@pytest.mark.parametrize("nested", [False, True])
def test_a_graph_that_is_called_notes_them_anew(nested: bool) -> None:
    def f(x: Any) -> Any:
        out = notes_on_its_results(x)
        return (out["h"].sum(), out) if nested else out

    graph = mg.capture(f, x_of(0))
    for k in range(3):
        out = graph(x_of(k))
        out = out[1] if nested else out
        expected = notes_on_its_results(x_of(k))
        torch.testing.assert_close(out["h"].mean_of_it, expected["h"].mean_of_it)
        torch.testing.assert_close(out["made"].h, expected["h"])


@pytest.mark.parametrize("before, now", [({}, {"scale": 2.0}), ({"scale": 2.0}, {}), ({"scale": 2.0}, {"scale": 3.0})])
def test_a_graph_that_is_called_refuses_arguments_with_other_notes(before: Any, now: Any) -> None:
    graph = mg.capture(notes_on_its_results, x_of(0, **before))
    torch.testing.assert_close(graph(x_of(1, **before))["h"], notes_on_its_results(x_of(1, **before))["h"])
    with pytest.raises(mg.CaptureError, match="'x' has the attributes"):
        graph(x_of(1, **now))
