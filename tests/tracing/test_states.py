"""What a program reads that is no attribute, item or variable: the witness is the plain function, called three times
with the value changed in between, on objects of its own."""

from __future__ import annotations

import array
import collections
import contextvars
import ctypes
import decimal
import functools
import gc
import hashlib
import io
import itertools
import mmap
import operator
import os
import queue
import random
import sys
import threading
import time
import types
import warnings
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64
X = torch.linspace(-1.0, 1.0, 12, dtype=F64).reshape(4, 3)
Loss = Callable[[torch.Tensor], torch.Tensor]
Case = tuple[Loss, Callable[[], Any]]  # a function and what changes between its calls
MODULE = types.ModuleType("kept_settings")
SCALE = 2.0


def times(number: Callable[[], Any]) -> Loss:
    return lambda x: (x**2 * number()).sum()


def nothing() -> None:
    pass


def item(values: Any, read: Callable[[Any], Any] = lambda values: float(values[0])) -> Callable[[], Case]:
    """Case of something that holds numbers, the first of which goes up; ``values`` makes it."""

    def case() -> Case:
        held = values()
        return times(lambda: read(held)), lambda: held.__setitem__(0, held[0] + 1)

    return case


def numpy_view() -> Case:
    base = np.array([2.0, 3.0])
    view = base[:1]
    return times(lambda: float(view[0])), lambda: operator.iadd(base, 1)


def numpy_of_objects() -> Case:
    held = np.array([2.0, [3.0]], dtype=object)
    return times(lambda: held[1][0]), lambda: held[1].__setitem__(0, held[1][0] + 1)


def numpy_without_dimensions() -> Case:
    held = np.array(2.0)
    return times(lambda: float(held)), lambda: operator.iadd(held, 1)


def numpy_mask() -> Case:
    held = np.ma.array([2.0, 3.0], mask=np.array([False, True]))
    return times(lambda: float(held.sum())), lambda: setattr(held, "mask", [False, False])


def numpy_written_inside() -> Case:
    held = np.zeros(2)

    def f(x: torch.Tensor) -> torch.Tensor:
        held[0] += 1
        return (x**2 * held[0]).sum()

    return f, lambda: operator.iadd(held, 1)


def view_of_bytes() -> Case:
    held = bytearray(b"\2\3")
    view = memoryview(held)
    return times(lambda: view[0]), lambda: held.__setitem__(0, held[0] + 1)


def mapped() -> Case:
    held = mmap.mmap(-1, 8)
    held[0:1] = b"\2"
    return times(lambda: held[0]), lambda: held.__setitem__(0, held[0] + 1)


def number_of_c() -> Case:
    held = ctypes.c_double(2.0)
    return times(lambda: held.value), lambda: setattr(held, "value", held.value + 1)


def pointer() -> Case:
    held = ctypes.c_double(2.0)
    to = ctypes.pointer(held)
    return times(lambda: to[0]), lambda: setattr(held, "value", held.value + 1)


def proxy() -> Case:
    held = {"k": [2.0]}
    seen = types.MappingProxyType(held)
    return times(lambda: seen["k"][0]), lambda: held["k"].__setitem__(0, held["k"][0] + 1)


def values_of_a_dict() -> Case:
    held = {"k": 2.0}
    seen = held.values()
    return times(lambda: sum(seen)), lambda: held.update(k=held["k"] + 1)


def context() -> Case:
    held = contextvars.ContextVar("held", default=2.0)
    return times(held.get), lambda: held.set(held.get() + 1)


def context_set_inside() -> Case:
    held = contextvars.ContextVar("held", default=1.0)

    def f(x: torch.Tensor) -> torch.Tensor:
        held.set(held.get() + 1)
        return (x**2 * held.get()).sum()

    return f, nothing


def environment() -> Case:
    os.environ["KEPT_SCALE"] = "2"
    return times(lambda: float(os.environ["KEPT_SCALE"])), lambda: os.environ.update(KEPT_SCALE="3")


def environment_by_getenv() -> Case:
    os.environ["KEPT_SCALE"] = "2"
    return times(lambda: float(os.getenv("KEPT_SCALE", "1"))), lambda: os.environ.update(KEPT_SCALE="3")


def of_this_thread() -> Case:
    held = threading.local()
    held.k = 2.0
    return times(lambda: held.k), lambda: setattr(held, "k", held.k + 1)


def generator() -> Case:
    def counting():
        k = 2.0
        while True:
            yield k
            k += 1

    held = counting()
    return times(lambda: next(held)), nothing


def iterator(make: Callable[[], Any]) -> Callable[[], Case]:
    def case() -> Case:
        held = make()
        return times(lambda: next(held)), nothing

    return case


def advanced_outside() -> Case:
    held = itertools.count(2)
    return times(lambda: next(held)), lambda: next(held)


def batches() -> Case:
    data: Any = list(torch.arange(1.0, 20.0, dtype=F64))
    held = iter(torch.utils.data.DataLoader(data, batch_size=3))
    return times(lambda: next(held)), nothing


def lines() -> Case:
    held = io.StringIO("2\n3\n4\n5\n")
    return times(lambda: float(held.readline())), nothing


def file_of_its_own(path: Path) -> Case:
    path.write_text("2")
    return times(lambda: float(path.read_text())), lambda: path.write_text("3")


def file_open(path: Path) -> Case:
    path.write_text("2\n3\n4\n")
    held = path.open()
    return times(lambda: float(held.readline())), nothing


def waiting(kind: Any) -> Callable[[], Case]:
    def case() -> Case:
        held = kind()
        for k in (2.0, 3.0, 4.0):
            held.put(k)
        return times(lambda: held.get()), nothing

    return case


def taken_from_a_list() -> Case:
    take = [2.0, 3.0, 4.0].pop
    return times(lambda: take()), nothing


def got_from_a_dict() -> Case:
    held = {"k": 2.0}
    get = held.__getitem__
    return times(lambda: get("k")), lambda: held.update(k=held["k"] + 1)


def drawn(make: Callable[[], Any]) -> Callable[[], Case]:
    def case() -> Case:
        draw = make()
        return times(lambda: float(draw())), nothing

    return case


class Thing:
    k = 2.0

    def __init__(self) -> None:
        self.own = 2.0


def weak_proxy() -> Case:
    held = Thing()
    seen = weakref.proxy(held)
    return times(lambda: seen.own), lambda: setattr(held, "own", held.own + 1)


def weak_and_gone() -> Case:
    held = [Thing()]
    seen = weakref.ref(held[0])
    return times(lambda: 3.0 if seen() is None else 2.0), held.clear


def weak_and_gone_beside_a_warning() -> Case:
    held = [Thing()]
    seen = weakref.ref(held[0])

    def k() -> float:
        warnings.warn("a warning", stacklevel=1)
        return 3.0 if seen() is None else 2.0

    return times(k), held.clear


def weak_keys() -> Case:
    key = Thing()
    held = weakref.WeakKeyDictionary({key: 2.0})
    return times(lambda: held[key]), lambda: held.update({key: held[key] + 1})


def base_class() -> Case:
    base = type("Base", (), {"k": 2.0})
    cls: Any = type("Derived", (base,), {})
    return times(lambda: cls.k), lambda: setattr(base, "k", cls.k + 1)


def class_of_the_object() -> Case:
    class Net(nn.Module):
        k = 2.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x**2 * type(self).k).sum()

    return Net(), lambda: setattr(Net, "k", Net.k + 1)


def another_class() -> Case:
    held = Thing()
    other = type("Other", (Thing,), {"k": 3.0, "read": lambda self: 3.0})
    return times(lambda: getattr(held, "read", lambda: 2.0)()), lambda: setattr(held, "__class__", other)


def module(f: Callable[[Any], Callable[[], Any]]) -> Callable[[], Case]:
    def case() -> Case:
        MODULE.k = 2.0  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules["kept_settings"] = MODULE
        return times(f(MODULE)), lambda: setattr(MODULE, "k", MODULE.k + 1)

    return case


def imported(_: Any) -> Callable[[], Any]:
    def read() -> Any:
        from kept_settings import k  # pyright: ignore[reportMissingImports]

        return k

    return read


def by_globals() -> Case:
    globals()["SCALE"] = 2.0
    return times(lambda: globals()["SCALE"]), lambda: globals().update(SCALE=SCALE + 1)


def replaced(name: str, value: Any) -> Callable[[], Case]:
    def case() -> Case:
        def read(k: float = 2.0, *, j: float = 1.0) -> float:
            return k * j

        return times(lambda: read()), lambda: setattr(read, name, value)

    return case


def noted_on_a_function() -> Case:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x**2 * getattr(f, "k", 2.0)).sum()

    return f, lambda: setattr(f, "k", getattr(f, "k", 2.0) + 1)


def noted_on_a_tensor() -> Case:
    weight: Any = torch.ones(3, dtype=F64)
    weight.k = 2.0
    return (lambda x: (x**2 * weight * weight.k).sum()), lambda: setattr(weight, "k", weight.k + 1)


def other_arguments() -> Case:
    held: Any = functools.partial(operator.mul, 2.0)
    return (lambda x: held(x**2).sum()), lambda: held.__setstate__((operator.mul, (3.0,), {}, None))


def large() -> Case:
    held = [2.0] * 100_001
    return times(lambda: held[0]), lambda: held.__setitem__(0, held[0] + 1)


def polynomial() -> Case:
    held = np.poly1d([2.0, 1.0])
    return times(lambda: held(2.0)), lambda: operator.iadd(held.coeffs, 1)


def folder(path: Path) -> Case:
    os.chdir(path.parent)
    (path.parent / "another folder").mkdir(exist_ok=True)
    return times(lambda: len(os.getcwd())), lambda: os.chdir(path.parent / "another folder")


def clock() -> Case:
    since = [time.monotonic()]
    return times(lambda: float(time.monotonic() - since[0] > 1e5)), lambda: since.__setitem__(0, since[0] - 1e6)


def digits() -> Case:
    held = decimal.Context(prec=2)
    return times(lambda: float(held.divide(1, 3))), lambda: setattr(held, "prec", held.prec + 1)


def another_context() -> Case:
    variable, held = contextvars.ContextVar("held", default=2.0), contextvars.copy_context()
    return times(lambda: held.run(variable.get)), lambda: held.run(lambda: variable.set(variable.get() + 1))


def hashed() -> Case:
    held = hashlib.md5(b"a", usedforsecurity=False)
    return times(lambda: held.copy().digest()[0]), lambda: held.update(b"a")


def decompressed() -> Case:
    held = zlib.decompressobj()
    data = iter(zlib.compress(bytes(range(7)), 0))

    def number() -> float:
        return float(len(held.decompress(bytes([next(data)]), 1)) + 2)

    return times(number), lambda: [held.decompress(bytes([next(data)])) for _ in range(3)]


CASES: dict[str, Any] = {
    "numpy array": item(lambda: np.array([2.0, 3.0])),
    "numpy array of another kind": item(lambda: np.zeros(2, dtype=[("k", "f8")])["k"]),
    "numpy scalars in a list": item(lambda: [np.float64(2.0)]),
    "array in a list": item(lambda: [np.ones(1)], lambda values: float(values[0][0])),
    "array.array": item(lambda: array.array("d", [2.0])),
    "bytearray": item(lambda: bytearray(b"\2")),
    "array of C": item(lambda: (ctypes.c_double * 2)(2.0, 3.0)),
    "deque": item(lambda: collections.deque([2.0])),
    "count": iterator(lambda: itertools.count(2)),
    "cycle": iterator(lambda: itertools.cycle([2.0, 3.0, 4.0])),
    "iterator of a list": iterator(lambda: iter([2.0, 3.0, 4.0])),
    "map": iterator(lambda: map(float, itertools.count(1))),
    "zip": iterator(lambda: (a for a, _ in zip(range(2, 9), range(9), strict=False))),
    "queue": waiting(queue.Queue),
    "simple queue": waiting(queue.SimpleQueue),
    "a drawing method": drawn(lambda: random.Random(0).random),
    "numpy's drawing method": drawn(lambda: np.random.default_rng(0).random),
    "an old generator of numpy's": drawn(lambda: np.random.RandomState(0).rand),
    "a module's attribute": module(lambda m: lambda: m.k),
    "a module's attribute by name": module(lambda m: lambda: getattr(m, "k")),  # noqa: B009
    "a module's dict": module(lambda m: lambda: vars(m)["k"]),
    "sys.modules": module(lambda _: lambda: sys.modules["kept_settings"].k),
    "import inside": module(imported),
    "defaults": replaced("__defaults__", (3.0,)),
    "keyword defaults": replaced("__kwdefaults__", {"j": 3.0}),
    "code": replaced("__code__", (lambda k=1.0, *, j=1.0: 3.0).__code__),
    **{
        f.__name__: f
        for f in (
            *(numpy_view, numpy_of_objects, numpy_without_dimensions, numpy_mask, numpy_written_inside, view_of_bytes),
            *(mapped, number_of_c, pointer, proxy, values_of_a_dict, context, context_set_inside, environment),
            *(environment_by_getenv, of_this_thread, generator, advanced_outside, batches, lines, file_of_its_own),
            *(file_open, taken_from_a_list, got_from_a_dict, weak_proxy, weak_and_gone, weak_keys, base_class),
            weak_and_gone_beside_a_warning,
            *(class_of_the_object, another_class, by_globals, noted_on_a_function, noted_on_a_tensor, other_arguments),
            *(large, polynomial, folder, clock, digits, another_context, hashed, decompressed),
        )
    },
}


@pytest.mark.parametrize("name", CASES)
def test_three_calls_are_those_of_the_plain_function(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEPT_SCALE", "2")

    def three(transform: Callable[[Loss], Loss]) -> list[torch.Tensor]:
        path = (tmp_path / "file",) if "path" in CASES[name].__code__.co_varnames[:1] else ()
        f, change = CASES[name](*path)
        call, gradients = transform(f), []
        for _ in range(3):
            gradients.append(call(X))
            change()
        return gradients

    gc.disable()  # what the program alone has let go is gone, whether Python looks for circles or not
    try:
        torch.testing.assert_close(three(mg.grad), three(plain))
    finally:
        gc.enable()
    sys.modules.pop("kept_settings", None)


def plain(f: Loss) -> Loss:
    def call(x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(f(x), x)[0]

    return call


class Scaled(nn.Module):
    """A module that goes by something of the kinds above."""

    def __init__(self, held: Any, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(X.clone())
        self.held, self.read = held, read

    def forward(self) -> torch.Tensor:
        return (self.weight**2 * self.read(self.held)).sum()


HELD: dict[str, Callable[[], Scaled]] = {
    "an array": lambda: Scaled(np.array([2.0]), lambda held: float(held[0])),
    "an array that is written to": lambda: Scaled(np.array([2.0]), lambda held: float(operator.iadd(held, 1)[0])),
    "an iterator": lambda: Scaled(itertools.count(2), next),
    "a generator": lambda: Scaled(np.random.default_rng(0), lambda held: held.random()),
    "a clock": lambda: Scaled(None, lambda _: float(time.time() > 0)),
}


@pytest.mark.filterwarnings("ignore:a step was not compared")
@pytest.mark.parametrize("kind", HELD)
def test_training_steps_and_wrapped_models_are_those_of_the_plain_model(kind: str) -> None:
    def trained(ours: str) -> list[torch.Tensor]:
        model = HELD[kind]()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        step = mg.TrainStep(model, None, optimizer, backend="eager")
        call = mg.wrap(model) if ours == "wrap" else model
        weights = []
        for _ in range(3):
            if ours == "step":
                step()
            else:
                optimizer.zero_grad()
                call().backward()
                optimizer.step()
            if isinstance(model.held, np.ndarray):
                model.held += 1
            weights.append(model.weight.detach().clone())
        return weights

    expected = trained("plain")
    torch.testing.assert_close(trained("step"), expected)
    torch.testing.assert_close(trained("wrap"), expected)


def test_several_steps_at_once_take_what_single_ones_take() -> None:
    a, b = HELD["an iterator"](), HELD["an iterator"]()
    one, many = (mg.TrainStep(m, None, torch.optim.SGD(m.parameters(), 0.01), check="never") for m in (a, b))
    torch.testing.assert_close(torch.stack([one() for _ in range(3)]), many.run(steps=3))
    assert next(a.held) == next(b.held)


def test_an_iterator_is_not_taken_from_twice_for_one_call() -> None:
    held = iter([2.0, 3.0])

    def f(x: torch.Tensor) -> torch.Tensor:
        x = x * next(held)
        return x.sum() if x.sum() > 0 else x.sin().sum()

    with pytest.raises(mg.CaptureError, match=r"takes from 'held'.*pass it in"):
        mg.grad(f)(X)
    assert next(held) == 3.0


def test_what_failed_is_put_back() -> None:
    held, written = np.zeros(1), bytearray(b"\0")

    def f(x: torch.Tensor) -> torch.Tensor:
        held[0] += 1
        written[0] += 1
        raise KeyError("the user's own")

    with pytest.raises(KeyError):
        mg.grad(f)(X)
    assert held[0] == 0 and written[0] == 0


def test_files_that_pytorch_or_an_import_opens_are_not_the_programs() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        import this_module_does_not_exist  # noqa: F401  # pyright: ignore[reportMissingImports]

        return x.sum()

    def g(x: torch.Tensor) -> torch.Tensor:
        try:
            return f(x)
        except ImportError:
            return (x**2).sum()

    assert "imports" in mg.capture(g, X).guards.changed()
    assert not mg.capture(lambda x: (x**2).sum(), X).guards.volatile


def test_modules_are_as_they_were_after_a_capture() -> None:
    mg.grad(module(lambda m: lambda: m.k)()[0])(X)
    assert type(MODULE) is types.ModuleType


@functools.cache
def table(n: int, device: torch.device) -> torch.Tensor:
    return torch.arange(1.0, n + 1, dtype=F64, device=device)


@functools.lru_cache(maxsize=4)
def nested_table(n: int) -> dict[str, list[torch.Tensor]]:
    return {"tables": [torch.arange(1.0, n + 1, dtype=F64)]}


class Remembering:
    @functools.lru_cache  # noqa: B019
    def table(self) -> torch.Tensor:
        return torch.full((3,), 2.0, dtype=F64)


REMEMBERING = Remembering()
CACHED: dict[str, Callable[[], torch.Tensor]] = {
    "a mask": lambda: table(3, X.device),
    "tables in a dict": lambda: nested_table(3)["tables"][0],
    "a method": lambda: REMEMBERING.table(),
}


@pytest.mark.parametrize("name", CACHED)
def test_a_cached_function_keeps_no_tensor_of_a_capture(name: str) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return (x**2 * CACHED[name]()).sum()

    gradient = mg.grad(f)
    for _ in range(3):
        torch.testing.assert_close(gradient(X), plain(f)(X))
        assert type(CACHED[name]()) is torch.Tensor
    other = mg.grad(lambda x: f(x) * 2)  # meets what PyTorch has cached by now
    torch.testing.assert_close(other(X), 2 * plain(f)(X))


def test_a_cached_number_stays_cached() -> None:
    @functools.cache
    def number(k: int) -> float:
        return 2.0 * k

    mg.grad(lambda x: (x**2 * number(3)).sum())(X)
    assert number.cache_info().currsize == 1


def test_the_gradient_of_a_tensor_that_is_not_given() -> None:
    weight = nn.Parameter(torch.ones(3, dtype=F64))
    gradient = mg.grad(lambda x: (x**2 * (3 if weight.grad is None else 5)).sum())
    for _ in range(2):
        torch.testing.assert_close(gradient(X), 6 * X)
    weight.grad = torch.ones(3, dtype=F64)
    with pytest.raises(mg.CaptureError, match=r"reads the gradient of a tensor \(3,\).*test_states\.py:\d+"):
        gradient(X)
    weight.grad = None
    torch.testing.assert_close(gradient(X), 6 * X)


def test_another_default_device() -> None:
    gradient = mg.grad(lambda x: (x**2 * (2 if torch.get_default_device().index is None else 3)).sum())
    torch.testing.assert_close(gradient(X), 4 * X)
    with torch.device("cpu:0"):
        torch.testing.assert_close(gradient(X), 6 * X)
    torch.testing.assert_close(gradient(X), 4 * X)


def test_a_sobol_sequence_is_refused() -> None:
    engine = torch.quasirandom.SobolEngine(3)
    engine.draw(1)
    with pytest.raises(mg.CaptureError, match="Sobol sequence"):
        mg.grad(lambda x: (x * engine.draw(1, dtype=F64)).sum())(X)
