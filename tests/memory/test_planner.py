"""From a graph to a plan: never over the budget, never worse than possible, and reusable for its own graph only."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from exhaustive import least_cost
from torch import nn, optim
from training_steps import allocated

import memograd as mg
from memograd.graph.graph import Graph
from memograd.memory.plan import Plan
from memograd.memory.problem import simulate
from memograd.pipeline import capture, differentiate, plan


def net(width: int = 16, depth: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)])


def graph(width: int = 16, depth: int = 3, rows: int = 64) -> Graph:
    model = net(width, depth)
    return differentiate(capture(lambda x: model(x).square().mean(), torch.randn(rows, width)))


def tiny() -> Graph:
    """Few enough operators to try everything."""
    return differentiate(capture(lambda x: torch.exp(torch.sin(torch.exp(x))).sum(), torch.randn(1000)))


@pytest.mark.parametrize("share", range(40, 101, 10))
def test_no_plan_beats_trying_everything(share: int) -> None:
    try:
        made = plan(tiny(), f"{share}%")
    except mg.BudgetInfeasibleError as error:
        problem = plan(tiny(), "100%").problem
        assert least_cost(problem, error.floor_bytes * 98 // 100) is None, "hardly anything below the floor"
        return
    optimum = least_cost(made.problem, made.budget)
    assert optimum is not None and made.usage.cost >= optimum - 1e-12
    assert made.lower_bound <= optimum - made.problem.total_cost + 1e-12
    assert made.usage.cost <= optimum + 0.006 * made.problem.total_cost, "the search stops within half a percent"


def test_all_of_the_peak_is_enough_and_costs_nothing() -> None:
    made = plan(graph(), "100%")
    assert made.extra_seconds == 0 and made.again == {} and made.gap == 0
    assert made.peak_bytes <= made.budget == made.unplanned_bytes
    assert plan(graph(), made.unplanned_bytes * 50).again == {}


def test_what_a_share_may_use_in_any_case() -> None:
    assert plan(graph(), "1%", at_least=10**7).budget == 10**7
    assert plan(graph(), "90%", at_least=1).budget == int(0.9 * plan(graph(), "100%").unplanned_bytes)


def test_an_impossible_budget_says_what_is_possible() -> None:
    with pytest.raises(mg.BudgetInfeasibleError) as caught:
        plan(graph(), 5000)
    text, floor = str(caught.value), caught.value.floor_bytes
    assert "5000 bytes" in text and f"{floor} bytes" in text and "smaller batch" in text
    operator = re.search(r"set by (\w+)", text)
    made = plan(graph(), floor)
    assert operator is not None and operator[1] in made.operators
    assert simulate(made.problem, made.schedule).peak <= floor


def test_an_impossible_budget_names_whose_update_it_is() -> None:
    """One weight and hardly any rows: its gradient is one matrix, Adam's update needs several at once."""
    model = nn.Linear(200, 300, bias=False)
    step = mg.TrainStep(model, nn.MSELoss(), optim.Adam(model.parameters()), memory_budget=1)
    with pytest.raises(mg.BudgetInfeasibleError, match=r"set by \w+ in the optimizer's update of model\.weight\."):
        step(torch.randn(2, 200), torch.randn(2, 300))


@pytest.mark.parametrize("budget", ["", "much", 0, -5, "0%"])
def test_a_budget_that_cannot_be_read(budget: Any) -> None:
    with pytest.raises(mg.MemogradError, match="not understood"):
        plan(graph(), budget)


# -- plans made before -----------------------------------------------------------------------------------------------


def saved_and_read(made: Plan) -> Plan:
    return Plan.from_json(made.to_json())


def test_a_plan_is_used_again() -> None:
    made = plan(graph(), "90%")
    assert made.again, "a plan with something in it"
    assert made.bound is None, "the proof waits until someone reads it"
    assert made.lower_bound > 0
    again = plan(graph(), saved_and_read(made))
    assert again == made and again.code == made.code and again.lower_bound == made.lower_bound


@pytest.mark.parametrize("other", [{"width": 8}, {"depth": 4}, {"rows": 32}])
def test_not_for_another_graph(other: dict[str, int]) -> None:
    with pytest.raises(mg.PlanViolationError, match="another graph"):
        plan(graph(**other), saved_and_read(plan(graph(), "90%")))


def test_not_for_another_dtype_or_mode() -> None:
    made = plan(graph(), "90%")
    model = net().double()
    with pytest.raises(mg.PlanViolationError, match="another graph"):
        plan(differentiate(capture(lambda x: model(x).square().mean(), torch.randn(64, 16).double())), made)
    dropout = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    x = torch.randn(8, 4)
    trained = mg.plan(dropout, x, loss=torch.sum, memory_budget="100%")
    with pytest.raises(mg.PlanViolationError, match="another graph"):
        mg.plan(dropout.eval(), x, loss=torch.sum, memory_budget=trained)


def test_the_text_of_a_saved_plan_is_not_what_runs() -> None:
    """Somebody's JSON holds a program; running it would be running anything."""
    made = plan(graph(), "90%")
    data = json.loads(made.to_json()) | {"code": "raise SystemExit('gotcha')"}
    assert plan(graph(), Plan.from_json(json.dumps(data))).code == made.code


def test_a_saved_plan_is_checked_with_what_operators_take_here() -> None:
    """Numbers in the file that say less than the operators take do not hide it."""
    made = plan(graph(), "90%")
    data = json.loads(made.to_json())
    data["schedule"], data["budget"] = data["unplanned"], made.budget
    data["problem"]["size"] = [1] * len(data["problem"]["size"])
    with pytest.raises(mg.PlanViolationError, match="over its budget"):
        plan(graph(), Plan.from_json(json.dumps(data)))


def test_a_saved_plan_of_fewer_operators_is_damaged() -> None:
    made = plan(graph(), "100%")
    data = json.loads(plan(graph(depth=2), "100%").to_json()) | {"fingerprint": made.fingerprint}
    with pytest.raises(mg.PlanViolationError, match="damaged"):
        plan(graph(), Plan.from_json(json.dumps(data)))


# -- modelled costs ---------------------------------------------------------------------------------------------------


class Segments(nn.Module):
    """Uses an operator that made-up data does not suit: lengths must add up to the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh())

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return torch.segment_reduce(self.net(x), "mean", lengths=lengths, axis=0)


def test_with_modelled_costs_the_budget_holds_all_the_same(tmp_path: Path) -> None:
    def trained(budget: int | str | None) -> tuple[list[torch.Tensor], mg.TrainStep, tuple[torch.Tensor, ...]]:
        torch.manual_seed(0)
        model = Segments()
        step = mg.TrainStep(
            model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), memory_budget=budget, backend="eager"
        )
        batch = torch.randn(200, 16), torch.tensor([100, 60, 40]), torch.randn(3, 32)
        return [step(*batch) for _ in range(3)], step, batch

    with pytest.raises(mg.BudgetInfeasibleError) as error:
        trained(1)
    expected = trained(None)[0]
    for budget in (error.value.floor_bytes, "100%"):
        losses, step, batch = trained(budget)
        made = step.plan
        assert made is not None and not made.measured and "modelled" in str(made)
        assert all(torch.equal(a, b) for a, b in zip(losses, expected, strict=True))
        assert made.problem.resident + allocated(lambda s=step, b=batch: s(*b), tmp_path) <= made.peak_bytes
