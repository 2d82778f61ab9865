"""Dicts, lists and objects among the arguments hold what PyTorch leaves in them, as each step and each call goes by."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64
Write = Callable[[Any, torch.Tensor], None]
KEPT: dict[str, Any] = {}


def batch(k: int) -> dict[str, Any]:
    x = torch.linspace(-1.0, 1.0 + k, 12, dtype=F64).reshape(4, 3)
    return {
        "x": x,
        "aux": {"parts": [x.sum(), 2]},
        "log": collections.deque([1.0], 3),
        "many": collections.OrderedDict(),
    }


def renamed(b: Any, h: torch.Tensor) -> None:
    b["input"] = b.pop("x")
    b["aux"]["parts"].append(h.detach())


def counted(b: Any, h: torch.Tensor) -> None:
    b["steps"] = b.get("steps", 0) + 1


def reordered(b: Any, h: torch.Tensor) -> None:
    b["x"] = b.pop("x") * 2
    b["log"].extend([2.0, h.detach().mean(), 3.0])
    b["many"]["h"] = b["many"]["again"] = h.detach()


def emptied(b: Any, h: torch.Tensor) -> None:
    b["aux"]["parts"][:] = []
    b["first"] = b["aux"].pop("parts")
    b["aux"] = None


def kept(b: Any, h: torch.Tensor) -> None:
    KEPT["batch"] = b
    b["aux"]["of"] = b["log"]


class Net(nn.Module):
    def __init__(self, write: Write) -> None:
        super().__init__()
        self.write = write
        self.linear = nn.Linear(3, 2, dtype=F64)

    def forward(self, b: Any) -> torch.Tensor:
        h = self.linear(b["x"]).tanh()
        self.write(b, h)
        return h.square().mean()


@pytest.mark.parametrize("write", [renamed, counted, reordered, emptied, kept])
@pytest.mark.parametrize("how", ["step", "step, never compared", "wrap", "wrap, never compared"])
def test_what_is_written_to_a_dict_or_list_among_the_arguments_is_there(write: Write, how: str) -> None:
    torch.manual_seed(0)
    model = Net(write)
    twin = copy.deepcopy(model)
    check = "never" if "never" in how else "first"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
    step = mg.TrainStep(model, None, optimizer, check=check) if how.startswith("step") else None
    wrapped = mg.wrap(model, check=check) if step is None else None
    for k in range(3):
        ours, expected = batch(k), batch(k)
        inner = ours["aux"], ours["log"]
        if step is not None:
            loss = step(ours)
        else:
            assert wrapped is not None
            loss = wrapped(ours)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        held = KEPT.pop("batch", None)
        theirs.zero_grad()
        plain = twin(expected)
        plain.backward()
        theirs.step()
        torch.testing.assert_close(loss.detach(), plain.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(model.linear.weight, twin.linear.weight, rtol=1e-12, atol=0)
        compare(ours, expected)
        assert ours["log"] is inner[1] and ours["aux"] in (inner[0], None)
        if write is kept:
            assert held is ours and ours["aux"]["of"] is ours["log"]


def compare(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        compare(list(ours.values()), list(theirs.values()))
    elif isinstance(ours, (list, collections.deque)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            compare(a, b)
    else:
        assert ours == theirs


def test_a_loss_may_go_on_from_what_was_written_to_an_argument() -> None:
    torch.manual_seed(0)
    model = Net(lambda b, h: b.update(h=h))
    twin = copy.deepcopy(model)
    mg.wrap(model)
    for k in range(3):
        ours, theirs = batch(k), batch(k)
        (model(ours) + ours["h"].sin().sum()).backward()
        (twin(theirs) + theirs["h"].sin().sum()).backward()
        for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, its.grad, rtol=1e-12, atol=1e-14)


def test_what_was_written_is_among_the_results_too() -> None:
    net = nn.Linear(3, 2, dtype=F64)

    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.last: dict[str, Any] = {}

        def forward(self, b: Any) -> Any:
            b["h"] = self.last["h"] = self.net(b["x"])
            return b, self.last

    expected = net(batch(0)["x"])
    model = mg.wrap(Passing())
    for _ in range(3):
        ours = batch(0)
        out, last = model(ours)
        for h in (out["h"], last["h"], ours["h"], model.last["h"]):
            torch.testing.assert_close(h, expected, rtol=1e-12, atol=0)
        net.zero_grad()
        out["h"].sum().backward()
        assert net.bias.grad is not None and net.bias.grad.tolist() == [4.0, 4.0]


def test_arguments_that_a_capture_is_made_from_stay_as_they_are() -> None:
    ours = batch(0)
    graph = mg.capture(Net(renamed), ours)
    compare(ours, batch(0))
    graph(ours)
    assert "x" not in ours and "input" in ours


def test_transforms_write_to_copies_as_those_of_pytorch_do() -> None:
    def f(x: torch.Tensor, b: Any) -> torch.Tensor:
        b["h"] = (x * b["x"]).sin()
        return b["h"].sum()

    x, ours, theirs = torch.ones(3, dtype=F64), {"x": torch.ones(3, dtype=F64)}, {"x": torch.ones(3, dtype=F64)}
    compare(mg.grad(f)(x, ours), torch.func.grad(f)(x, theirs))
    compare(ours, theirs)
    assert "h" not in theirs


def test_a_step_that_fails_writes_to_no_argument() -> None:
    model = Net(counted)
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.1), watch=True, backend="eager")
    ours = batch(0)
    step(ours)
    assert ours["steps"] == 1
    spoilt = batch(0)
    spoilt["x"] = spoilt["x"] * float("nan")
    with pytest.raises(mg.NonFiniteError):
        step(spoilt)
    assert "steps" not in spoilt


class _Writing(nn.Module):
    """Writes to the first of two dicts, and reads the second, or one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2, dtype=torch.float64)
        self.own: dict[str, torch.Tensor] = {}

    def forward(self, first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> torch.Tensor:
        first["scaled"] = first["x"] * 2
        second = second or self.own
        return self.linear(second.get("scaled", second["x"])).square().mean()


@pytest.mark.parametrize("entry", ["step", "wrap", "capture"])
@pytest.mark.parametrize("where", ["both arguments", "the model", "both arguments, later"])
def test_a_dict_in_two_places_that_is_written_to_is_refused(entry: str, where: str) -> None:
    model, x = _Writing(), torch.randn(4, 3, dtype=torch.float64)
    parameters = [p.detach().clone() for p in model.parameters()]
    batch = {"x": x}
    if where == "the model":
        model.own = batch
    if entry == "step":
        call: Any = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.1), check="never")
    elif entry == "wrap":
        call = mg.wrap(model, check="never")
    else:
        call = mg.capture(model, {"x": x}, {} if where == "the model" else {"x": x})
    if "later" in where:
        call({"x": x}, {"x": x})
        parameters = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(mg.CaptureError, match=r"writes to a dict .* in two places"):
        call(batch, {} if where == "the model" else batch)
    assert list(batch) == ["x"] and all(map(torch.equal, model.parameters(), parameters))


def test_a_dict_in_two_places_that_is_only_read_is_an_argument_like_another() -> None:
    def total(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> torch.Tensor:
        return (first["x"] * second["x"].detach()).sum()

    batch = {"x": torch.randn(3, dtype=torch.float64)}
    torch.testing.assert_close(mg.grad(total)(batch, batch)["x"], batch["x"])
