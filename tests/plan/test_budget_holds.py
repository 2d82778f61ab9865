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
from training_steps import allocated

import memograd as mg

SHARES = (95, 85, 75, 65, 60, 55, 50, 45, 40, 35)
PAIRS = [(name, share) for name in CASES for share in SHARES]


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
def unplanned(name: str) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    model, criterion, optimizer, batch = make(name)
    step = mg.TrainStep(model, criterion, optimizer, backend="eager")
    torch.manual_seed(1)
    losses = [step(*batch) for _ in range(3)]
    return losses, deepcopy(model.state_dict())


@pytest.mark.parametrize(("name", "share"), [(name, "floor") for name in CASES] + PAIRS)
def test_within_the_budget_and_the_same_bits(name: str, share: int | str, tmp_path: Path) -> None:
    model, criterion, optimizer, batch = make(name)
    floor = floor_of(name)
    step = mg.TrainStep(model, criterion, optimizer, memory_budget=floor if share == "floor" else f"{share}%")
    torch.manual_seed(1)
    try:
        losses = [step(*batch)]
    except mg.BudgetInfeasibleError as error:
        assert error.floor_bytes == floor, "one floor, whatever was asked for"
        return
    plan = step.plan
    assert plan is not None and plan.budget >= floor
    losses.append(step(*batch))
    peak = plan.problem.resident + allocated(lambda: losses.append(step(*batch)), tmp_path)
    expected, weights = unplanned(name)
    assert all(torch.equal(a, b) for a, b in zip(losses, expected, strict=True))
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    if name != "outside":  # there the user's optimizer allocates as well
        assert peak <= plan.peak_bytes <= plan.budget


@pytest.mark.parametrize("name", CASES)
def test_more_budget_never_costs_more(name: str) -> None:
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


def test_a_compiler_cannot_promise(tmp_path: Path) -> None:
    model, criterion, optimizer, batch = make("mlp")
    step = mg.TrainStep(model, criterion, optimizer, memory_budget="80%", backend="inductor")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(*batch)
    assert any("eager backend" in str(w.message) for w in caught)
    assert step.backend_name == "eager" and step.plan is not None
