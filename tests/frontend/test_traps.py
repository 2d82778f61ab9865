"""Traps that peers' users have reported, one by one. Witness: the same model and loop, not wrapped.

Each names the report: of what traces or compiles a model (AOTAutograd, Dynamo), of ``DataParallel`` and of loaders.
"""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import memograd as mg
from memograd.tracing.reuse import Recent

F64 = torch.float64


class Model(nn.Module):
    """A weight, a buffer, and a function of them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, 3, dtype=F64))
        self.register_buffer("b", torch.ones(3, dtype=F64))
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return a * b + a + b

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b = ctx.saved_tensors
        return g * (b + 1), g * (a + 1)


class Second(torch.autograd.Function):
    """No gradient for the first of two."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a * 2

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, g * 5


def sine(m: Any, x: torch.Tensor) -> torch.Tensor:
    return (x * m.w).sin() + m.b


def twice(function: Any) -> Callable[..., Any]:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = x * m.w
        return function.apply(h, h)

    return forward


def slices(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y[:, 0] += (x * m.w)[:, 2].abs()
    y[:, 0] += (x * m.w)[:, 2].abs()
    return y


def twins(m: Any, x: torch.Tensor) -> Any:
    with torch.no_grad():
        constant = x * m.w + 1
    return constant, x * m.w + 1


def plainly(m: Any, x: torch.Tensor) -> Any:
    y = m(x)
    y.square().sum().backward()
    return [y, x.grad]


def one_tensor_for_two(m: Any, x: torch.Tensor) -> Any:
    m(x, x).sum().backward()
    return [x.grad]


def a_constant_and_its_twin(m: Any, x: torch.Tensor) -> Any:
    constant, y = m(x)
    flags = constant.requires_grad, y.requires_grad
    y.sum().backward()
    constant.mul_(2)
    return [constant, y, x.grad, torch.tensor(flags)]


def weights_assigned(m: Any, x: torch.Tensor) -> Any:
    before = m(x)
    m.load_state_dict({"w": x[0].detach() + 2, "b": x[1].detach()}, assign=True)
    after = m(x)
    (before.sum() + after.sum()).backward()
    return [before, after, x.grad]


def an_argument_written_to(m: Any, x: torch.Tensor) -> Any:
    h = x * 2
    y = m(h)
    (y.square().sum() + h.sin().sum()).backward()
    return [y, h, x.grad]


def averages_swapped_in(m: Any, x: torch.Tensor) -> Any:
    own, m.w.data = m.w.data, x[1].detach() * 3
    with torch.no_grad():
        evaluated = m(x)
    averaged, m.w.data = m(x), own
    y = m(x)
    y.sum().backward()
    return [evaluated, averaged, y, x.grad]


def into_grad_with_a_graph(m: Any, x: Any) -> Any:
    m(x).pow(3).sum().backward(create_graph=True)
    m.w.grad.square().sum().backward()
    gradients = [x.grad.detach(), m.get_parameter("w").grad.detach()]
    m.zero_grad()
    return gradients


def inputs_named(m: Any, x: torch.Tensor) -> Any:
    y = m(x)
    torch.autograd.backward([y.sum(), y.square().sum()], inputs=[m.w])
    return [m.w.grad.clone(), torch.tensor(x.grad is None)]


def results_apart(m: Any, x: torch.Tensor) -> Any:
    y, z = m(x)
    torch.autograd.grad(y.sum(), x, retain_graph=True)
    own = torch.autograd.grad(z.sum(), m.w, retain_graph=True)
    return [*own, *torch.autograd.grad(z.sum() + y.sum(), [x, m.w])]


def hooks_on_results(m: Any, x: torch.Tensor) -> Any:
    y = m(x)
    y.retain_grad()
    y.register_hook(lambda g: g * 2)
    y.square().sum().backward()
    return [x.grad, y.grad]


TRAPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "pytorch 183604: one tensor in two places": (lambda m, a, b: a * b * m.w + a.sin() * 3, one_tensor_for_two),
    "pytorch 183604: of a Function": (twice(Product), plainly),
    "pytorch 181146: of which one has no gradient": (twice(Second), plainly),
    "pytorch 114344: equal, but for the gradient": (twins, a_constant_and_its_twin),
    "pytorch 136662: one slice written to twice": (slices, plainly),
    "pytorch 129362: load_state_dict(assign=True)": (sine, weights_assigned),
    "pytorch 128035: an argument written to": (lambda m, a: a.mul_(2) * m.w, an_argument_written_to),
    "averages that stay frozen": (sine, averages_swapped_in),
    "pytorch 91469: second derivatives": (sine, into_grad_with_a_graph),
    "pytorch 91468: hooks and retain_grad on results": (sine, hooks_on_results),
    "backward(inputs=...)": (sine, inputs_named),
    "results that are used apart": (lambda m, x: ((x * m.w).sin(), (x * m.w).cos()), results_apart),
}


@pytest.mark.parametrize(("function", "use"), TRAPS.values(), ids=TRAPS)
def test_a_reported_trap(function: Callable[..., Any], use: Callable[..., Any]) -> None:
    seen: list[Any] = []
    for change in (mg.wrap, lambda model: model):
        model: Any = change(Model(function))
        seen.append([])
        for k in range(6):  # the last ones take the short way
            x = (torch.arange(6, dtype=F64).view(2, 3) / 6 + k / 4).requires_grad_()
            seen[-1].append(use(model, x))
        seen[-1].append(model.w.grad)
    torch.testing.assert_close(*seen)


def test_arguments_that_overlap_once_it_is_written_to_them_are_refused() -> None:
    """pytorch 139789: the program for those that do not was used again."""
    model = mg.wrap(Model(lambda m, x, y: (x.mul_(2) + y) * m.w))
    base = torch.ones(6, dtype=F64)
    model(torch.ones(3, dtype=F64), torch.ones(3, dtype=F64)).sum().backward()
    with pytest.raises(mg.CaptureError, match="same memory"):
        model(base[:3], base[1:4])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def trained(model: nn.Module, rows: int, steps: int = 8) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for k in range(steps):
        x = torch.linspace(-1, 1, 3 * rows, dtype=F64).view(rows, 3).add(k / 8).requires_grad_()
        y = model(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        optimizer.zero_grad()
        (y.square().mean() + slope.square().mean()).backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


def test_models_in_threads_train_as_they_do_alone() -> None:
    """Both orders at once, each thread with shapes of its own; one model is another one's copy."""
    wanted = [trained(network(), rows) for rows in (4, 5)]
    seen: dict[int, Any] = {}

    def work(rows: int, model: nn.Module) -> None:
        seen[rows] = trained(model, rows)

    threads = [threading.Thread(target=work, args=(rows, mg.wrap(network()))) for rows in (4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close([seen[4], seen[5]], wanted)


def test_one_model_in_two_threads_gives_each_its_own_gradients() -> None:
    model, plain = mg.wrap(network()), network()
    seen: dict[int, list[torch.Tensor]] = {4: [], 5: []}

    def work(rows: int) -> None:
        for k in range(12):
            x = torch.full((rows, 3), k / 10, dtype=F64)
            seen[rows] += torch.autograd.grad(model(x).square().sum(), list(model.parameters()))

    threads = [threading.Thread(target=work, args=(rows,)) for rows in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows, gradients in seen.items():
        wanted: list[torch.Tensor] = []
        for k in range(12):
            x = torch.full((rows, 3), k / 10, dtype=F64)
            wanted += torch.autograd.grad(plain(x).square().sum(), list(plain.parameters()))
        torch.testing.assert_close(gradients, wanted)


class Adversarial(Dataset[torch.Tensor]):
    """Samples that are moved along the gradient of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __len__(self) -> int:
        return 6

    def __getitem__(self, k: int) -> torch.Tensor:
        x = torch.full((2, 3), k / 6, dtype=F64, requires_grad=True)
        (g,) = torch.autograd.grad(self.model(x).sum(), x)
        with torch.no_grad():
            return x + g * self.model(x)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.skipif(
    torch.backends.cuda.is_built(), reason="autograd starts a thread for a device, also one of fake tensors"
)
@pytest.mark.parametrize("ran_before", [False, True])
def test_a_loader_that_forks_finds_the_model_as_it_is(ran_before: bool) -> None:
    batches = []
    for model in (mg.wrap(network()), network()):
        if ran_before:  # locks, programs and autograd's threads are there when the workers begin
            trained(model, 2, steps=3)
        loader = DataLoader(Adversarial(model), batch_size=3, num_workers=2, multiprocessing_context="fork")
        batches.append([*loader, *trained(model, 2, steps=2)])
    torch.testing.assert_close(*batches)


def objects_after(model: Any, steps: int, rows: Callable[[int], int]) -> int:
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for k in range(steps):
        x = torch.ones(rows(k), 3, dtype=F64, requires_grad=True)
        y = model(x)
        loss = y.square().mean()
        if k % 2:
            loss = loss + torch.autograd.grad(y.sum(), x, create_graph=True)[0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("steps", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_steps_leave_nothing_behind(steps: int) -> None:
    model = mg.wrap(network())
    before = objects_after(model, 64, lambda k: 4)
    assert objects_after(model, steps, lambda k: 4) < before + 100


@pytest.mark.parametrize(("limit", "shapes"), [(4, 10), pytest.param(64, 300, marks=pytest.mark.slow)])
def test_programs_of_many_shapes_are_bounded(limit: int, shapes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recent, "LIMIT", limit)
    for most in ("capture._SHAPES", "shapes_seen._MOST"):  # what is remembered of shapes: 20,000 answers each
        monkeypatch.setattr(f"memograd.tracing.{most}", 0)
    model: Any = mg.wrap(nn.Linear(3, 2).double(), check="never")
    full = objects_after(model, limit + 2, lambda k: 2 * k + 2)
    assert objects_after(model, shapes, lambda k: 2 * k + 3) < 1.01 * full + 1000
    assert len(model.forward._programs) == limit
