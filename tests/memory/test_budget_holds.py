"""The promise: whatever the network and the budget, the measured peak is within it, and the bits are the same."""

from __future__ import annotations

import warnings
from copy import deepcopy
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from budget_models import CASES, Case
from torch import nn, optim
from training_steps import allocated

import memograd as mg
from memograd.memory.search import solutions as known


def make(name: str) -> Case:
    torch.manual_seed(0)
    return CASES[name]()


@cache
def floor_of(name: str) -> int:
    model, criterion, optimizer, batch = make(name)
    with pytest.raises(mg.BudgetInfeasibleError) as error:
        mg.TrainStep(model, criterion, optimizer, memory_budget=1)(*batch)
    return error.value.floor_bytes


@cache
def unplanned_peak(name: str) -> int:
    model, criterion, optimizer, batch = make(name)
    step = mg.TrainStep(model, criterion, optimizer, memory_budget="100%")
    step(*batch)
    assert step.plan is not None
    return step.plan.unplanned_bytes


@cache
def unplanned(name: str) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    model, criterion, optimizer, batch = make(name)
    step = mg.TrainStep(model, criterion, optimizer, backend="eager")
    torch.manual_seed(1)
    losses = [step(*batch) for _ in range(3)]
    return losses, deepcopy(model.state_dict())


@pytest.mark.one_in(32)
@pytest.mark.parametrize("way", range(16))
@pytest.mark.parametrize("name", CASES)
def test_within_the_budget_and_the_same_bits(
    name: str, way: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``way``: sixteenths of the way from the floor to what the step needs without a plan. What holds must hold
    however long the search was: every other one is short."""
    if way % 2 == 0:
        monkeypatch.setattr(known, "_EFFORTS", known._EFFORTS[:1])
    model, criterion, optimizer, batch = make(name)
    floor = floor_of(name)
    budget = floor + (unplanned_peak(name) - floor) * way // 16
    step = mg.TrainStep(model, criterion, optimizer, memory_budget=budget)
    torch.manual_seed(1)
    losses = [step(*batch), step(*batch)]
    plan = step.plan
    assert plan is not None and plan.budget == budget
    peak = plan.problem.resident + allocated(lambda: losses.append(step(*batch)), tmp_path)
    expected, weights = unplanned(name)
    assert all(torch.equal(a, b) for a, b in zip(losses, expected, strict=True))
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    if name != "outside":  # there the user's optimizer allocates as well
        assert peak <= plan.peak_bytes <= plan.budget


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", CASES)
def test_below_the_floor_nothing_runs(name: str) -> None:
    floor = floor_of(name)
    for budget in (floor - 1, floor * 9 // 10, f"{99 * floor // unplanned_peak(name)}%"):
        model, criterion, optimizer, batch = make(name)
        before = deepcopy(model.state_dict())
        with pytest.raises(mg.BudgetInfeasibleError, match=str(floor)) as error:
            mg.TrainStep(model, criterion, optimizer, memory_budget=budget)(*batch)
        assert error.value.floor_bytes == floor, "one floor, whatever was asked for"
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.one_in(8)
@pytest.mark.parametrize("name", CASES)
def test_more_budget_never_costs_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_EFFORTS", known._EFFORTS[:1])  # the less it searches, the more it is left to luck
    model, criterion, _, batch = make(name)
    plans = []
    for share in range(30, 101, 10):
        try:
            plans.append(mg.plan(model, *batch, loss=criterion, memory_budget=f"{share}%"))
        except mg.BudgetInfeasibleError:
            assert not plans, "feasible with less, so with more"
    assert plans and plans[-1].extra_seconds == 0, "everything fits into all of it"
    for less, more in pairwise(plans):
        assert more.extra_seconds <= less.extra_seconds
        assert more.lower_bound <= less.extra_seconds
        assert less.peak_bytes <= less.budget


def test_one_compiled_function_cannot_promise(tmp_path: Path) -> None:
    model, criterion, optimizer, batch = make("mlp")
    step = mg.TrainStep(model, criterion, optimizer, memory_budget="80%", backend="native")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(*batch)
    assert any("eager backend" in str(w.message) for w in caught)
    assert step.backend_name == "eager" and step.plan is not None


def test_masks_are_drawn_again(tmp_path: Path) -> None:
    """Where there is no room for the masks of dropout they are drawn again, and are what they were."""

    def made() -> Case:
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5)) for _ in range(12)]
        model = nn.Sequential(*layers)
        return model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1), (torch.randn(512, 64), torch.randn(512, 64))

    model, criterion, optimizer, batch = made()
    plain = mg.TrainStep(model, criterion, optimizer, backend="eager")
    losses, weights = [plain(*batch) for _ in range(3)], model.state_dict()
    expected = torch.get_rng_state()
    model, criterion, optimizer, batch = made()
    step = mg.TrainStep(model, criterion, optimizer, memory_budget="40%")
    ours = [step(*batch) for _ in range(2)]
    plan = step.plan
    assert plan is not None and sum("bernoulli" in name for name in plan.again) > 3
    peak = plan.problem.resident + allocated(lambda: ours.append(step(*batch)), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(ours, losses, strict=True))
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), expected), "generators end where they would have"
    assert peak <= plan.peak_bytes <= plan.budget
