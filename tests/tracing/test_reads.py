"""A kept program is used only as long as everything it read is as it was: the witness is the plain function."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import operator
import types
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64
X = torch.linspace(-1.0, 1.0, 12, dtype=F64).reshape(4, 3)
SCALE, TABLE, NAMES = 2.0, {"nested": {"k": 2.0}}, [2.0]
settings = types.ModuleType("settings")
settings.scale = 2.0  # pyright: ignore[reportAttributeAccessIssue]
settings.helper = lambda x: x * settings.scale  # pyright: ignore[reportAttributeAccessIssue]


@dataclasses.dataclass
class Config:
    k: float = 2.0


class Slotted:
    __slots__ = ("k",)

    def __init__(self) -> None:
        self.k = 2.0


class Defaults:
    k = 2.0

    @property
    def doubled(self) -> float:
        return self.k * SCALE

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return (x**2 * self.k).sum()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x**2 * self.doubled).sum()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3).double()
        self.cfg = Config()
        self.options: dict[str, Any] = {"deep": [{"k": 2.0}], "object": Slotted()}
        self.plain = torch.full((3,), 2.0, dtype=F64)
        self.register_buffer("buffer", torch.full((3,), 2.0, dtype=F64))
        self.order = collections.OrderedDict(a=2.0)
        self.members = {1, 2}
        self.pair = (1.0, (2.0, torch.ones(3, dtype=F64)))
        self.use = torch.sin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.use(self.linear(x)) * self.cfg.k * self.options["deep"][0]["k"] * self.options["object"].k
        x = x * self.plain * self.buffer * self.order["a"] * len(self.members) * self.pair[1][0] * self.pair[1][1]
        return (x * SCALE * TABLE["nested"]["k"] * NAMES[-1] * settings.scale * getattr(self, "extra", 1.0)).sum()


def replace_tuple(net: Net) -> None:
    net.pair = (1.0, (2.0, torch.full((3,), 3.0, dtype=F64)))


CHANGES: dict[str, Callable[[Net], Any]] = {
    "an attribute of a config object": lambda net: setattr(net.cfg, "k", 3.0),
    "the config object": lambda net: setattr(net, "cfg", Config(3.0)),
    "a nested dict": lambda net: net.options["deep"][0].update(k=3.0),
    "a longer list": lambda net: NAMES.append(3.0),
    "__slots__": lambda net: setattr(net.options["object"], "k", 3.0),
    "a plain tensor": lambda net: setattr(net, "plain", torch.full((3,), 3.0, dtype=F64)),
    "a plain tensor of another shape": lambda net: setattr(net, "plain", torch.full((4, 3), 3.0, dtype=F64)),
    "a plain tensor written to": lambda net: net.plain.add_(1),
    "a buffer": lambda net: setattr(net, "buffer", torch.full((3,), 3.0, dtype=F64)),
    "an ordered dict": lambda net: net.order.update(a=3.0),
    "a set": lambda net: net.members.add(3),
    "a tuple": replace_tuple,
    "a function": lambda net: setattr(net, "use", torch.cos),
    "an attribute that was not there": lambda net: setattr(net, "extra", 3.0),
    "a module": lambda net: setattr(net, "linear", nn.Linear(3, 3).double()),
    "a method": lambda net: setattr(net.linear, "forward", lambda x: x * 3),
    "a forward hook": lambda net: net.linear.register_forward_hook(lambda m, a, out: out * 3),
    "a parametrization": lambda net: nn.utils.parametrizations.weight_norm(net.linear),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_module_reads(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.NAMES", [2.0])
    net = Net()
    gradient = mg.grad(lambda x: net(x))

    def check() -> None:
        x = X.clone().requires_grad_()
        torch.testing.assert_close(gradient(X), torch.autograd.grad(net(x), x)[0])

    check()
    check()
    CHANGES[change](net)
    check()


def grad_of(f: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    x = X.clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


def test_the_object_a_function_is_bound_to() -> None:
    for bound in (lambda owner: owner, lambda owner: owner.loss, lambda owner: functools.partial(Defaults.loss, owner)):
        owner = Defaults()
        f = bound(owner)
        gradient = mg.grad(f)
        for k in (2.0, 3.0, 3.0, 5.0):
            owner.k = k
            torch.testing.assert_close(gradient(X), grad_of(f))


@pytest.mark.parametrize(
    "kind",
    [types.SimpleNamespace, argparse.Namespace, collections.UserDict, collections.ChainMap],
    ids=lambda k: k.__name__,
)
def test_objects_of_the_standard_library_that_hold_the_users_values(kind: Any) -> None:
    held: Any = kind({"scale": 2.0, "calls": 0}) if issubclass(kind, Mapping) else kind(scale=2.0, calls=0)
    values = held if isinstance(held, Mapping) else vars(held)
    get: Any = operator.getitem if isinstance(held, Mapping) else getattr
    put: Any = operator.setitem if isinstance(held, Mapping) else setattr

    def f(x: torch.Tensor) -> torch.Tensor:
        put(held, "calls", get(held, "calls") + 1)
        return (x * get(held, "scale")).sin().sum()

    gradient = mg.grad(f)
    for calls, scale in enumerate((2.0, 5.0, 5.0), 1):
        put(held, "scale", scale)
        ours = gradient(X)
        assert values["calls"] == calls
        torch.testing.assert_close(ours, grad_of(lambda x: (x * scale).sin().sum()))  # noqa: B023


def test_attributes_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    f = Defaults()
    gradient = mg.grad(f)
    gradient(X)
    monkeypatch.setattr(Defaults, "k", 5.0)
    torch.testing.assert_close(gradient(X), grad_of(f))
    monkeypatch.setattr(Defaults, "doubled", 7.0)
    torch.testing.assert_close(gradient(X), grad_of(f))
    named = mg.grad(lambda x: (x**2 * Defaults.k).sum())
    named(X)
    monkeypatch.setattr(Defaults, "k", 9.0)
    torch.testing.assert_close(named(X), 18 * X)


def test_globals_and_what_modules_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    f = lambda x: (settings.helper(x) * SCALE * TABLE["nested"]["k"]).sum()  # noqa: E731
    gradient = mg.grad(f)
    torch.testing.assert_close(gradient(X), grad_of(f))
    monkeypatch.setattr(f"{__name__}.SCALE", 3.0)
    torch.testing.assert_close(gradient(X), grad_of(f))
    monkeypatch.setitem(TABLE["nested"], "k", 5.0)
    torch.testing.assert_close(gradient(X), grad_of(f))
    monkeypatch.setattr(settings, "scale", 7.0)
    torch.testing.assert_close(gradient(X), grad_of(f))
    monkeypatch.setattr(settings, "helper", lambda x: x * 11)
    torch.testing.assert_close(gradient(X), grad_of(f))


def test_variables_of_enclosing_functions() -> None:
    k, table = 2.0, torch.ones(3, dtype=F64)
    unset: Any
    f = lambda x: (x**2 * k * table).sum() if k < 9 else (x * unset).sum()  # noqa: E731
    gradient = mg.grad(f)
    for number, tensor in ((2.0, table), (3.0, table), (3.0, table * 2), (3.0, torch.ones(4, 3, dtype=F64) * 3)):
        k, table = number, tensor
        torch.testing.assert_close(gradient(X), grad_of(f))
    k, unset = 10.0, 4.0
    torch.testing.assert_close(gradient(X), grad_of(f))


def test_another_tensor_in_the_same_place_needs_no_other_graph() -> None:
    table = torch.ones(3, dtype=F64)
    gradient: Any = mg.grad(lambda x: (x * table).sum())
    for k in range(4):
        table = torch.full((3,), float(k), dtype=F64)
        assert torch.equal(gradient(X), table.expand(4, 3))
    assert sum(map(len, gradient.cache._programs.values())) == 1
    table = table.requires_grad_()  # a parameter
    gradient(X)
    assert sum(map(len, gradient.cache._programs.values())) == 2


def test_tensors_that_part() -> None:
    """What was one tensor in two places is two afterwards."""
    net = nn.Module()
    net.a = net.b = torch.ones(3, dtype=F64)
    gradient = mg.grad(lambda x: (x * net.a * net.b).sum())
    gradient(X)
    net.b = torch.full((3,), 5.0, dtype=F64)
    assert torch.equal(gradient(X), torch.full_like(X, 5.0))
    net.a = net.b
    assert torch.equal(gradient(X), torch.full_like(X, 25.0))


def test_what_is_not_read_may_change() -> None:
    net = Net()
    net.steps, net.trainer = 0, types.SimpleNamespace(step=0, history=[])
    gradient: Any = mg.grad(lambda x: net(x))
    for k in range(3):
        gradient(X)
        net.steps, net.trainer.step = k, k
        net.trainer.history.append(k)
    assert sum(map(len, gradient.cache._programs.values())) == 1


def test_training_steps_follow_what_they_read() -> None:
    model, twin = Net(), Net()
    twin.load_state_dict(model.state_dict())
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), 1e-4))
    optimizer = torch.optim.SGD(twin.parameters(), 1e-4)
    for name in (None, "an attribute of a config object", None, "a nested dict", "a plain tensor", "a function"):
        for net in (model, twin) if name else ():
            CHANGES[name](net)
        optimizer.zero_grad()
        loss = twin(X)
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(X), loss.detach())
    assert len(step.captures) == 4  # another tensor of the same shape is looked up


def test_watching_ends_with_the_capture() -> None:
    before = {cls: cls.__getattribute__ for cls in (nn.Module, Net, Config, Defaults)}
    net, config = Net(), Config()
    mg.grad(lambda x: net(x) * config.k + mg.grad(Defaults())(x).sum())(X)
    with pytest.raises(Exception, match="no"):
        mg.grad(lambda x: net(x) * config.k + (_ for _ in ()).throw(ValueError("no")))(X)
    assert {cls: cls.__getattribute__ for cls in before} == before
    assert "__getattribute__" not in vars(nn.Module)


def test_a_module_that_an_object_hands_out_while_the_program_runs_is_watched_from_then_on() -> None:
    holder: Any = Slotted()
    holder.k = nn.Identity()
    f = mg.grad(lambda x: (x * holder.k.scale).sum())
    for scale in (2.0, 2.0, 3.0):
        holder.k.scale = scale
        torch.testing.assert_close(f(X), torch.full_like(X, scale))
