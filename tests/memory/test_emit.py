"""Any valid schedule of a real training step runs as simulated, byte by byte, and gives the same bits."""

from __future__ import annotations

import threading
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn, optim
from training_steps import Mixed, allocated, problem_of, random_schedule, step_graph

import memograd as mg
from memograd.graph.printing import load
from memograd.lower.lower import lower
from memograd.memory.costs.measure import measure
from memograd.memory.costs.storages import storages
from memograd.memory.emit import source
from memograd.memory.problem import simulate
from memograd.run.eager import Eager


def made(optimizer: str = "adam"):
    torch.manual_seed(0)
    model = Mixed()
    rule = optim.Adam if optimizer == "adam" else optim.SGD
    return step_graph(
        model,
        nn.CrossEntropyLoss(),
        rule(model.parameters(), lr=0.01),
        torch.randn(32, 3, 12, 12),
        torch.randint(0, 4, (32,)),
    )


@pytest.mark.parametrize("seed", range(4))
def test_bits_and_bytes_of_random_schedules(seed: int, tmp_path: Path) -> None:
    graph, flat = made("adam" if seed % 2 else "sgd")
    found = storages(graph)
    problem = problem_of(found, measure(found))
    schedule = random_schedule(problem, seed, extra=40 * seed)
    step = load(source(found, schedule), "step")
    ours, theirs = deepcopy(flat), deepcopy(flat)
    for k in range(2):
        torch.manual_seed(k)
        expected = Eager(lower(graph)).step(theirs)
        torch.manual_seed(k)
        results = step(*ours)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), "parameters, statistics, state"
    peak = found.resident + allocated(lambda: step(*ours), tmp_path)
    assert peak == simulate(problem, schedule).peak


def test_the_unplanned_step_needs_what_the_simulation_says(tmp_path: Path) -> None:
    graph, flat = made()
    found = storages(graph)
    problem = problem_of(found, measure(found))
    backend = Eager(lower(graph))
    peak = found.resident + allocated(lambda: backend.step(flat), tmp_path)
    assert peak == simulate(problem, found.unplanned).peak


def test_the_text_shows_recomputations_and_frees() -> None:
    graph, _ = made()
    found = storages(graph)
    relu = next(k for k, o in enumerate(found.operators) if o.node.name == "relu")
    schedule = [*range(relu + 5), relu, *range(relu + 5, len(found.operators))]
    text = source(found, schedule)
    assert "relu_again1 = torch.relu(" in text
    assert "# computed again (model)" in text
    assert "del relu_again1" in text or ", relu_again1" in text


def test_draws_run_again_from_the_state_before_them() -> None:
    graph, flat = made()
    found = storages(graph)
    problem = problem_of(found, measure(found))
    (draw, state), *_ = found.states.items()
    schedule = [*range(draw + 5), draw, *range(draw + 5, len(found.operators))]
    name = found.operators[draw].node.name
    text = source(found, schedule)
    assert text.index(f"{name}_state = rng_state('cpu')") < text.index(f"{name} = ")
    alone = f"for {name}_state, generator in drawn_alone({name}_state, 'cpu')"
    assert f"{alone}:\n        {name} = " in text
    assert f"with own_generator({name}_state, 'cpu') as generator:\n        {name}_again1 = " in text
    assert "rng_state('cpu')" not in source(found, found.unplanned), "nothing runs again, nothing is saved"
    unused, used = (simulate(problem, s).profile for s in (range(len(problem.cost)), schedule))
    assert used[draw - 1] - unused[draw - 1] == problem.size[state] > 0
    torch.manual_seed(3)
    Eager(lower(graph)).step(deepcopy(flat))
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    load(text, "step")(*deepcopy(flat))
    assert torch.equal(torch.get_rng_state(), expected), "the generator ends where it would have"


class Thinned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(200, 200)) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            x = nn.functional.dropout(torch.tanh(x * weight), 0.5)
        return x


def test_a_mask_that_is_drawn_again_is_the_same_while_other_threads_draw() -> None:
    """The generator is everybody's: between its state and the draw another thread may draw from it."""
    model, x = Thinned(), torch.rand(200, 200) + 0.5
    with pytest.raises(mg.BudgetInfeasibleError) as refused:
        mg.wrap(model, memory_budget=1000)(x)
    mg.wrap(model, memory_budget=refused.value.floor_bytes, check="never")
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            torch.rand(50)

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            model.zero_grad()
            result = model(x)
            result.sum().backward()
            first = model.weights[0].grad
            assert first is not None and torch.equal(first != 0, result != 0), "where all four masks are one"
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert "with own_generator" in model.forward.plan.code  # pyright: ignore[reportFunctionMemberAccess]
