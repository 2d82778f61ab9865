"""What does not fit in one form of a step is tried in the next."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg
from memograd import collector, pipeline
from memograd.graph.graph import Graph
from memograd.lower.lower import lower
from memograd.memory import planner
from memograd.pipeline import capture, differentiate

REFUSED = (mg.BudgetInfeasibleError("in one layout", 900, 800), mg.BudgetInfeasibleError("in the other", 850, 800))


def graph() -> Graph:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    return differentiate(capture(lambda x: net(x).square().mean(), torch.randn(2, 3, 9, 9)))


class Refusing:
    """A planner that refuses at first; ``asked`` for (channels of the first image last, budget)."""

    def __init__(self, refusals: tuple[Exception, ...], plan: Callable[..., Any]) -> None:
        self.refusals, self.plan, self.asked = [*refusals], plan, []

    def __call__(self, graph: Graph, budget: Any, at_least: int) -> Any:
        image: Any = next(n for n in graph.nodes if n.target is torch.ops.aten.convolution.default).args[0]
        self.asked.append((image.meta["val"].is_contiguous(memory_format=torch.channels_last), budget))
        if self.refusals:
            raise self.refusals.pop(0)
        return self.plan(graph, "100%", at_least)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Refusing]:
    def prepare(*refusals: Exception) -> Refusing:
        made = Refusing(refusals, planner.make_plan)
        monkeypatch.setattr(planner, "make_plan", made)
        monkeypatch.setattr(pipeline, "layouts", lambda _: (False, True))
        return made

    return prepare


def test_what_does_not_fit_in_one_layout_is_planned_in_the_other(refusing: Callable[..., Refusing]) -> None:
    tried = refusing(REFUSED[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline.plan(graph(), "50%", fused=True)
    assert tried.asked == [(False, "50%"), (True, 800)], "a share is a share of what the first layout takes"


def test_what_does_not_fit_in_kernels_runs_operator_by_operator(refusing: Callable[..., Refusing]) -> None:
    tried = refusing(*REFUSED)
    with pytest.warns(UserWarning, match="operator by operator: in one layout"):
        pipeline.plan(graph(), "50%", fused=True)
    assert tried.asked == [(False, "50%"), (True, 800), (False, 800)]


def test_what_fits_in_no_form_is_refused_with_the_least_that_would_do(refusing: Callable[..., Refusing]) -> None:
    refusing(*REFUSED, mg.BudgetInfeasibleError("of single operators", 1000, 800))
    with pytest.raises(mg.BudgetInfeasibleError, match="in the other") as error:
        pipeline.plan(graph(), "50%", fused=True)
    assert (error.value.floor_bytes, error.value.budget_bytes) == (850, 800)


def test_a_refusal_says_what_was_asked_for() -> None:
    with pytest.raises(mg.BudgetInfeasibleError) as error:
        pipeline.plan(graph(), "1KiB")
    assert error.value.budget_bytes == 1024 < error.value.floor_bytes


def test_a_step_that_cannot_be_planned_is_not_tried_twice(refusing: Callable[..., Refusing]) -> None:
    tried = refusing(mg.PlanViolationError("an operator hides a view"))
    with pytest.raises(mg.PlanViolationError, match="hides a view"):
        pipeline.plan(graph(), "50%", fused=True)
    assert len(tried.asked) == 1


def chain(operators: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def program(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        for _ in range(operators // 4):
            x = (x * w).sin() + x.tanh()
        return x.sum()

    return program


def calls_of(stages: Callable[[], Any]) -> int:
    """How many functions are called, in Python and in C: the same on every machine, however busy."""
    count = 0

    def see(_frame: Any, event: str, _function: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        stages()
    finally:
        sys.setprofile(before)
    return count


def test_the_work_is_proportional_to_the_number_of_operators() -> None:
    x, w = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    counts = {}
    for operators in (8, 8, 24, 72):  # first what is remembered for the whole process
        captured = capture(chain(operators), x, w)
        counts[operators] = calls_of(lambda g=captured: lower(differentiate(g)).code)
    first, second = ((counts[b] - counts[a]) / (b - a) for a, b in ((8, 24), (24, 72)))
    assert second < 1.1 * first, f"{first:.0f} calls for each of 24 operators, {second:.0f} for each of 72"


def test_python_collects_garbage_again_after_a_stage() -> None:
    seen: list[bool] = []

    def look(_g: Graph) -> Graph:
        seen.append(gc.isenabled())
        raise mg.GraphError("enough")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(mg.GraphError):
        patch.setattr(pipeline, "PASSES", (look,))
        differentiate(capture(chain(8), torch.randn(3, requires_grad=True), torch.randn(3)))
    assert seen == [False] and gc.isenabled()


def test_what_a_stage_made_is_not_searched_for_garbage_when_it_ends() -> None:
    """Nor is anything that the process had before it; what the user had let go is gone before it begins."""

    class Circle:
        def __init__(self) -> None:
            self.own = self

    let_go = weakref.ref(Circle())
    searched: list[int] = []
    with collector.no_collection():
        assert let_go() is None
        alive = [Circle() for _ in range(100_000)]
        gc.callbacks.append(lambda phase, info: searched.append(info["generation"]))
    try:
        alive += [Circle() for _ in range(10)]
    finally:
        gc.callbacks.pop()
    assert searched == [] and gc.isenabled() and not gc.get_freeze_count()
    gc.freeze()
    try:
        with collector.no_collection():
            pass
        assert gc.get_freeze_count(), "what somebody has frozen stays so"
    finally:
        gc.unfreeze()


def test_who_collects_no_garbage_finds_it_so() -> None:
    with collector.no_collection():
        with collector.no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled(), "a stage is still under way, here or in another thread"
    gc.disable()
    try:
        with collector.no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
