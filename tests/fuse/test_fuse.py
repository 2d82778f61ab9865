"""Fused steps within a budget: what eager steps compute, in fewer bytes, and never more than the budget."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from budget_models import CASES, Case
from torch import nn, optim
from training_steps import allocated, step_graph

import memograd as mg
from memograd.fuse import fuse
from memograd.graph import kernels
from memograd.graph.kernels import Kernel
from memograd.lower.channels_last import channels_last, layouts
from memograd.lower.decompose import parts
from memograd.memory.costs import measure, trials


def made(name: str) -> Case:
    torch.manual_seed(0)
    return CASES[name]()


def interpreted(function: Callable[..., Any], operands: Any, options: Any) -> Callable[..., Any]:
    """Stands for the compiler: the kernel's text as it is."""
    return function


@pytest.mark.parametrize("name", CASES)
def test_every_kernel_computes_what_its_operators_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole step with everything fused that can be, but run operator by operator: graphs and texts are right."""
    monkeypatch.setattr(fuse, "_WORTH", 0.0)
    monkeypatch.setattr(kernels, "inductor_function", interpreted)
    monkeypatch.setattr(kernels, "_COMPILED", {})
    model, criterion, optimizer, batch = made(name)
    if name in ("outside", "mixed"):  # Adam makes of the gradient of a bias before a normalization, rounding, a step
        optimizer = optim.SGD(model.parameters(), lr=0.1)
    graph, flat = step_graph(model, criterion, optimizer, *batch)
    torch.manual_seed(1)
    expected = graph.function(*flat)
    tolerance = 0.05 if name == "autocast" else 2e-4
    for last in layouts(graph):
        fused = fuse.fuse(parts(channels_last(graph) if last else graph))
        assert sum(isinstance(n.target, Kernel) for n in fused.nodes) > 3
        torch.manual_seed(1)
        for ours, theirs in zip(fused.function(*flat), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_compiled_steps_hold_the_budget(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputations survive the compiler: bytes as promised, bits as without them, numbers as in eager steps."""
    monkeypatch.setattr(fuse, "_WORTH", 5e-5)
    model, criterion, optimizer, batch = made(name)
    plain = mg.TrainStep(model, criterion, optimizer, backend="eager")
    torch.manual_seed(1)
    expected = torch.stack([plain(*batch) for _ in range(3)])
    weights: list[dict[str, torch.Tensor]] = []
    recomputed = 0
    for budget in ("100%", "75%", "60%"):
        model, criterion, optimizer, batch = made(name)
        step = mg.TrainStep(model, criterion, optimizer, memory_budget=budget, backend="inductor")
        torch.manual_seed(1)
        losses = [step(*batch), step(*batch)]
        plan = step.plan
        assert plan is not None and step.backend_name == "inductor" and "@fused" in plan.code
        peak = plan.problem.resident + allocated(lambda: losses.append(step(*batch)), tmp_path)  # noqa: B023
        assert peak <= plan.peak_bytes <= plan.budget
        torch.testing.assert_close(torch.stack(losses), expected, rtol=1e-4, atol=1e-5)
        weights.append(model.state_dict())
        recomputed += len(plan.again)
    assert recomputed, "budgets that need no plan show nothing"
    assert all(torch.equal(v, w[k]) for w in weights[1:] for k, v in weights[0].items())


def test_a_saved_plan_serves_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "_WORTH", 5e-5)
    results = []
    budget: Any = "75%"
    for _ in range(2):
        model, criterion, optimizer, batch = made("mlp")
        step = mg.TrainStep(model, criterion, optimizer, memory_budget=budget, backend="inductor")
        torch.manual_seed(1)
        results.append(step(*batch))
        assert step.plan is not None
        budget = type(step.plan).from_json(step.plan.to_json())
    assert torch.equal(*results)
    model, criterion, optimizer, batch = made("mlp")
    with pytest.raises(mg.PlanViolationError, match="backend"):
        mg.TrainStep(model, criterion, optimizer, memory_budget=budget, backend="eager")(*batch)


def test_without_a_compiler_operators_run_one_by_one_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def broken(function: Any, operands: Any, options: Any) -> None:
        tried.append(function)
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(fuse, "_WORTH", 0.0)
    monkeypatch.setattr(kernels, "inductor_function", broken)
    monkeypatch.setattr(kernels, "_COMPILED", {})
    model, criterion, optimizer, batch = made("residual")
    step = mg.TrainStep(model, criterion, optimizer, memory_budget="80%", backend="inductor")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(*batch)
    assert len(tried) == 3, "it is not asked for ever"
    assert any("no C++ compiler found" in str(w.message) for w in caught)
    assert step.plan is not None and "@fused" not in step.plan.code


def test_what_saves_nothing_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "inductor_function", lambda *_: pytest.fail("compiled"))
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1), "100%", "inductor")
    step(torch.randn(4, 2), torch.randn(4, 1))
    assert step.plan is not None


class Rounded(nn.Module):
    """What is left of numbers behind their rounding to half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(5, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.line(x)
        return 1000 * (h - h.bfloat16().float()).abs()


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


class Transposed(nn.Module):
    """PyTorch's backward kernel of this normalization returns other strides than PyTorch says."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(5, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.line(x)
        return h.sin().exp() + nn.functional.layer_norm(h.t(), (6,)).t()


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "make, inside, outside", [(Rounded, 5, 6), (Halves, 16, 16), (Transposed, 5, 12)], ids=["round", "half", "strides"]
)
def test_compiled_numbers_are_those_of_the_eager_step(
    make: Callable[[], nn.Module], inside: int, outside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse, "_WORTH", 0.0)
    losses = []
    for backend, budget in (("eager", None), ("inductor", "100%")):
        torch.manual_seed(0)
        model, x, y = make(), torch.randn(6, inside), torch.randn(6, outside)
        step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), 1e-3), budget, backend)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            losses.append(torch.stack([step(x, y) for _ in range(3)]))
    torch.testing.assert_close(*losses, rtol=1e-2 if make is Halves else 1e-4, atol=1e-6)


def test_what_pytorch_misstates_is_not_given_to_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_unlike", lambda out, expected: "bfloat16 for float32")
    monkeypatch.setattr(trials, "UNLIKE", {})
    monkeypatch.setattr(measure, "UNLIKE", trials.UNLIKE)
    monkeypatch.setattr(measure, "_CACHE", {})
    monkeypatch.setattr(fuse, "_WORTH", 5e-5)
    monkeypatch.setattr(kernels, "inductor_function", interpreted)
    monkeypatch.setattr(kernels, "_COMPILED", {})
    model, criterion, optimizer, batch = made("mlp")
    step = mg.TrainStep(model, criterion, optimizer, memory_budget="80%", backend="inductor")
    with pytest.warns(UserWarning, match=r"operator by operator: .*bfloat16 for float32"):
        step(*batch)
    assert step.backend_name == "eager" and step.plan is not None and step.plan.peak_bytes <= step.plan.budget
