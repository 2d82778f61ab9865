"""Capture leaves no trace in a model, and steps leave what PyTorch leaves: the twin is trained by plain PyTorch."""

from __future__ import annotations

import builtins
import collections
import contextvars
import copy
import dataclasses
import functools
import importlib
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg
from memograd._torch import is_fake

F64 = torch.float64
X = torch.linspace(-1.0, 1.0, 12, dtype=F64).reshape(4, 3)
Y = torch.linspace(0.0, 2.0, 4, dtype=F64).reshape(4, 1)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.out = nn.Linear(3, 1)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.body(self.linear(x)))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh()


class TwiceRegistered(Base):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.linear
        self.layers = nn.ModuleList([self.linear] * 3)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return self.again(x)


class LazyTable(Base):
    table = None

    def body(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.arange(3, dtype=x.dtype)
        return x * self.table


class LazyBuffer(Base):
    def body(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "mask"):
            self.register_buffer("mask", torch.ones(3, dtype=x.dtype).cumsum(0))
        return x * self.mask


class CachedProperty(Base):
    @functools.cached_property
    def table(self) -> torch.Tensor:
        return torch.linspace(1, 2, 3, dtype=F64)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.table


class Logged(Base):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []
        self.stats: dict[str, Any] = {"mean": 0.0, "seen": collections.deque(maxlen=2)}

    def body(self, x: torch.Tensor) -> torch.Tensor:
        self.last = x.detach().mean()
        self.log.append(x.detach().sum(1))
        self.stats["mean"] = self.last
        self.stats.setdefault("all", []).append((self.last, "mean"))
        self.stats["seen"].append(x.detach()[0])
        return x.tanh()


class Stateful(Base):
    """A hidden state that goes from step to step: as a tensor, in a tuple and in an object."""

    @dataclasses.dataclass
    class State:
        h: torch.Tensor
        steps: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.h, self.pair, self.state = None, (torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)), None

    def body(self, x: torch.Tensor) -> torch.Tensor:
        h = x.tanh() if self.h is None else (x + self.h).tanh()
        if self.state is None:
            self.state = self.State(torch.zeros(3, dtype=F64))
        a, (b, state) = h * self.pair[0], (self.pair[1], self.state)
        self.h = h.detach()
        self.pair = (a.detach().mean(0) + 1, b * 0.5)
        self.state = self.State(state.h + x.detach().mean(0), state.steps + 1)
        return h + a * b + state.h


class Shifting(Base):
    """Memories of several steps, which only move some of what is there: a program that is used again moves what is
    there by then."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.before, self.early = (torch.full((3,), float(k), dtype=F64) for k in range(3))
        self.register_buffer("seen", torch.ones(3, dtype=F64))
        self.register_buffer("seen_before", torch.zeros(3, dtype=F64))
        self.queue = [torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)]
        self.held = {"a": torch.zeros(3, dtype=F64), "b": torch.ones(3, dtype=F64)}
        self.pair, self.pair_before = ((torch.ones(3, dtype=F64),), torch.zeros(3, dtype=F64)), (None,)
        self.memory = collections.deque([torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)], maxlen=2)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        now = x.detach().mean(0)
        self.early, self.before, self.last = self.before, self.last, now
        self.seen_before, self.seen = self.seen, now * 2
        self.queue.append(now)
        self.held["a"], self.held["b"] = self.held["b"], now
        self.pair_before, self.pair = self.pair, ((now.sin(),), self.pair[0][0])
        self.memory.append(now.exp())
        return x * self.before + self.seen_before + self.queue.pop(0) + self.held["a"] * self.pair[1] + self.memory[0]


class Sharing(Base):
    """Leaves tensors that lie in the memory of others, and reorders a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3, dtype=F64))
        self.table, self.part, self.row = None, None, None
        self.turns = collections.OrderedDict(a=1.0, b=2.0, c=3.0)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = x.detach().clone()
            self.part, self.row = self.table[1:], self.scale.detach()[1:]
        self.turns.move_to_end(next(iter(self.turns)))
        return x * next(iter(self.turns.values())) + self.part.sum() + self.row.sum()


class WrittenInPlace(Base):
    def __init__(self) -> None:
        super().__init__()
        self.memory = torch.zeros(4, 3, dtype=F64)
        self.register_buffer("average", torch.zeros(3, dtype=F64))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.memory[1:] += x[1:]
            self.same = self.memory.mul_(0.5)
        self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return x + self.memory + self.average


class Counted(Base):
    def __init__(self) -> None:
        super().__init__()
        self.steps, self.config = 0, {"nested": {"calls": [0, 1]}}

    def body(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self.config["nested"]["calls"][0] += 2
        self.config["nested"][f"call {self.steps}"] = self.steps
        return x * 0.5**self.steps + self.config["nested"]["calls"][0]


class Deleting(Base):
    def __init__(self) -> None:
        super().__init__()
        self.todo, self.once, self.names = [1.0, 2.0, 3.0], 2.0, {"a", "b"}

    def body(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "once"):
            x = x * self.once
            del self.once
        if self.todo:
            x = x + self.todo.pop()
        self.names.discard("b")
        self.names.add("c")
        return x.sin()


class LazyLayer(Base):
    """A frozen layer that is made by the first forward."""

    def body(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "extra"):
            self.extra = nn.Linear(3, 3, dtype=x.dtype).requires_grad_(False)
        return self.extra(x).tanh()


class Helper:
    """A plain object with ``__slots__`` that a module holds."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.count = 0


class Holding(Base):
    total = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper()

    def body(self, x: torch.Tensor) -> torch.Tensor:
        self.helper.count += 1
        self.helper.value = x.detach().norm()
        return x * self.helper.count


class Hooked(Base):
    def __init__(self) -> None:
        super().__init__()
        self.features: dict[str, Any] = {}
        self.linear.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, out: torch.Tensor) -> None:
        self.features["linear"] = out.detach()
        self.features["input"] = args[0]


KINDS = [
    *(TwiceRegistered, LazyTable, LazyBuffer, CachedProperty, Logged, Stateful, Shifting, WrittenInPlace, Counted),
    *(Sharing, Deleting, LazyLayer, Holding, Hooked),
]


def attributes(value: Any) -> Any:
    """Everything a model holds, as nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {k: attributes(v) for k, v in value.items() if not callable(v) or isinstance(v, nn.Module)}
    if isinstance(value, (list, tuple, collections.deque)):
        return [type(value), *map(attributes, value)]
    if isinstance(value, Helper):
        return [value.count, attributes(getattr(value, "value", None))]
    return attributes(vars(value)) if hasattr(value, "__dict__") else value


def check_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert not is_fake(ours)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            check_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            check_same(a, b)
    else:
        assert ours == theirs


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(X), Y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_capture_changes_nothing(kind: type[nn.Module]) -> None:
    model = kind()
    before = attributes(copy.deepcopy(model))
    graph = mg.capture(model, X)
    check_same(attributes(model), before)
    model.state_dict()
    twin = copy.deepcopy(model)
    torch.manual_seed(0)
    value = graph(X)
    torch.manual_seed(0)
    torch.testing.assert_close(value, twin(X).detach())
    check_same(attributes(model), attributes(twin))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_leave_what_pytorch_leaves(kind: type[nn.Module]) -> None:
    ours = kind()
    theirs = copy.deepcopy(ours)
    if kind is Hooked:  # a copied hook is still bound to the module it was copied from
        ours, theirs = Hooked(), Hooked()
        theirs.load_state_dict(ours.state_dict())
    a, b = (torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (ours, theirs))
    step = mg.TrainStep(ours, nn.functional.mse_loss, a, backend="eager")
    for k in range(5):
        torch.manual_seed(k)
        loss = step(X, Y)
        torch.manual_seed(k)
        torch.testing.assert_close(loss, plain_step(theirs, b))
        check_same(attributes(ours), attributes(theirs))
    torch.testing.assert_close(ours(X), theirs(X))
    check_same(attributes(ours), attributes(theirs))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not WrittenInPlace])  # refused, as by torch.func
def test_transforms_leave_what_pytorch_leaves(kind: type[nn.Module]) -> None:
    ours = kind()
    theirs = copy.deepcopy(ours)
    if kind is Hooked:
        ours, theirs = Hooked(), Hooked()
        theirs.load_state_dict(ours.state_dict())
    gradient = mg.grad(lambda x: ours(x).pow(2).sum())
    for k in range(4):
        torch.manual_seed(k)
        mine = gradient(X)
        x = X.clone().requires_grad_()
        torch.manual_seed(k)
        torch.testing.assert_close(mine, torch.autograd.grad(theirs(x).pow(2).sum(), x)[0])
        check_same(attributes(ours), attributes(theirs))


def test_what_lay_in_one_memory_lies_in_one_memory() -> None:
    model = Sharing()
    mg.TrainStep(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), 0.05))(X, Y)
    model.table.zero_()
    model.scale.fill_(5.0)
    assert not model.part.any() and (model.row == 5).all()


def test_a_weight_that_is_kept_under_another_name_follows_the_update() -> None:
    class Keeping(Base):
        kept = None

        def body(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = self.linear.weight.detach()
            return x.tanh()

    model = Keeping()
    step = mg.TrainStep(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), 0.05))
    for _ in range(3):
        step(X, Y)
        assert torch.equal(model.kept, model.linear.weight)


class Recurrent(Base):
    def __init__(self) -> None:
        super().__init__()
        self.h, self.pair = None, (torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        h = x.tanh() if self.h is None else (x + self.h).tanh()
        self.h, self.pair = h.detach(), (h.detach().mean(0), self.pair[0] + self.pair[1])
        return h * self.pair[1]


def test_a_steady_state_is_captured_once() -> None:
    """The second step finds the state that the first one made; from then on the graph looks it up."""
    model = Recurrent()
    steps = mg.TrainStep(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), 0.05), backend="eager")
    seen = []
    for _ in range(6):
        steps(X, Y)
        seen.append(len(steps.captures))
    assert seen == [1, 2, 2, 2, 2, 2]
    model.h = None  # a new sequence
    steps(X, Y)
    assert len(steps.captures) == 2


def test_several_steps_in_one_call_leave_what_single_ones_do() -> None:
    ours = Recurrent()
    theirs = copy.deepcopy(ours)
    a, b = (torch.optim.SGD(m.parameters(), 0.05) for m in (ours, theirs))
    losses = mg.TrainStep(ours, nn.functional.mse_loss, a).run(X, Y, steps=4)
    for loss in losses:
        torch.testing.assert_close(loss, plain_step(theirs, b))
    check_same(attributes(ours), attributes(theirs))


def test_a_program_that_fails_leaves_nothing_behind() -> None:
    class Failing(Base):
        def body(self, x: torch.Tensor) -> torch.Tensor:
            self.table = x.sum()
            raise ValueError("no")

    model = Failing()
    with pytest.raises(ValueError, match="no"):
        mg.capture(model, X)
    assert not hasattr(model, "table")


def test_variables_that_a_function_assigns_to() -> None:
    calls, last, log = 0, None, []

    def f(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls, last
        calls += 1
        last = x.detach() * calls
        log.append(last)
        f.seen = calls  # pyright: ignore[reportFunctionMemberAccess]
        globals()["_TOTAL"] = last.sum()
        return (x * calls).sum()

    for k in range(1, 4):
        assert torch.equal(mg.grad(f)(X), torch.full_like(X, k))
        assert calls == k == len(log) == f.seen  # pyright: ignore[reportFunctionMemberAccess]
        assert torch.equal(last, X * k) and last is log[-1] and not is_fake(last)


def test_what_a_program_imports_stays_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_on_the_way.py").write_text("import builtins\nscales = [3.0]\nbuiltins.times_imported += 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.times_imported", 0, raising=False)

    def f(x: torch.Tensor) -> torch.Tensor:
        return (x * importlib.import_module("imported_on_the_way").scales[0]).sum()

    try:
        for _ in range(2):
            assert torch.equal(mg.grad(f)(X), torch.full_like(X, 3))
        sys.modules["imported_on_the_way"].scales[0] = 5.0
        assert torch.equal(mg.grad(f)(X), torch.full_like(X, 5))
        assert vars(builtins)["times_imported"] == 1
    finally:
        del sys.modules["imported_on_the_way"]


_COUNT, _SUM = 0, None


def test_globals_that_a_function_assigns_to() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        global _COUNT, _SUM, _NEW
        _COUNT += 1
        _SUM = x.detach().sum() * _COUNT
        _NEW = _SUM + 1
        return (x * _COUNT).sum()

    mg.capture(f, X)
    assert _COUNT == 0 and _SUM is None and "_NEW" not in globals()
    for k in (1, 2):
        assert torch.equal(mg.grad(f)(X), torch.full_like(X, k))
        assert k == _COUNT and torch.equal(_SUM, X.sum() * k) and torch.equal(globals()["_NEW"], _SUM + 1)
    del globals()["_NEW"]


def test_effects_inside_nested_transforms() -> None:
    class Seen:
        last: Any = None
        calls = 0

    seen = Seen()

    def inner(x: torch.Tensor) -> torch.Tensor:
        seen.last = x.detach().sin()
        seen.calls += 1
        return (x**3).sum()

    def outer(x: torch.Tensor) -> torch.Tensor:
        return (mg.grad(inner)(x) * x).sum()

    for k in (1, 2):
        torch.testing.assert_close(mg.grad(outer)(X), 9 * X**2)
        assert seen.calls == k and torch.equal(seen.last, X.sin()) and not is_fake(seen.last)


class _Slots:
    __slots__ = ("hidden",)

    def __init__(self, hidden: torch.Tensor) -> None:
        self.hidden = hidden


LEFT_IN = {
    "an object with slots": (_Slots, lambda left: left.hidden),
    "a key of a dict": (lambda h: {h: 1}, lambda left: next(iter(left))),
    "a weak reference": (weakref.ref, lambda left: left()),
    "a closure": (lambda h: lambda: h, lambda left: left()),
    "a partial": (lambda h: functools.partial(torch.mul, h), lambda left: left(2)),
    "a method": (lambda h: h.mean, lambda left: left()),
    "a default": (lambda h: lambda h=h: h, lambda left: left()),
}
OUT_OF_REACH = {
    "an iterator": lambda h: iter([h]),
    "a generator": lambda h: (x for x in [h]),
    "a view of a dict": lambda h: {"h": h}.values(),
    "an exception": ValueError,
    "a class": lambda h: type("C", (), {"h": h}),
}


class _Leaving(nn.Module):
    def __init__(self, leave: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2, dtype=torch.float64)
        self.leave = leave
        self.left: Any = None
        self.alive: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.linear(x)
        self.alive = h.detach()
        self.left = self.leave(self.alive)
        return h.square().mean()


def _step_of(entry: str, model: nn.Module) -> Any:
    if entry == "wrap":
        return mg.wrap(model, check="never")
    return mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.0), check="never")


@pytest.mark.parametrize("entry", ["step", "wrap"])
@pytest.mark.parametrize("name", LEFT_IN)
def test_a_tensor_that_is_left_inside_of_something_is_that_of_the_run(name: str, entry: str) -> None:
    leave, look = LEFT_IN[name]
    model, plain = _Leaving(leave), _Leaving(leave)
    call = _step_of(entry, model)
    for k in range(3):
        x = torch.randn(4, 3, dtype=torch.float64) + k
        call(x)
        plain(x)
        torch.testing.assert_close(look(model.left), look(plain.left))


@pytest.mark.parametrize("entry", ["step", "wrap"])
@pytest.mark.parametrize("name", OUT_OF_REACH)
def test_a_tensor_that_is_left_out_of_reach_is_refused(name: str, entry: str) -> None:
    model = _Leaving(OUT_OF_REACH[name])
    with pytest.raises(mg.CaptureError, match="leaves a tensor in an object of type"):
        _step_of(entry, model)(torch.randn(4, 3, dtype=torch.float64))
    assert model.left is None


def test_a_tensor_in_a_context_variable_is_refused() -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default=None)
    model = _Leaving(variable.set)
    with pytest.raises(mg.CaptureError, match=r"leaves a tensor in .*ContextVar"):
        _step_of("wrap", model)(torch.randn(4, 3, dtype=torch.float64))
    assert variable.get() is None
