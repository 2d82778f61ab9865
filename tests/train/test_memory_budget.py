"""Training within a budget is training: everything around a step works, with the same bits as without a budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

import memograd as mg
from memograd.memory.plan import Plan


def net() -> nn.Module:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2)) for _ in range(3)]
    return nn.Sequential(*blocks, nn.Linear(16, 4))


def adam(model: nn.Module) -> optim.Optimizer:
    return optim.Adam(model.parameters(), lr=0.01)


def batch(rows: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(rows)
    return torch.randn(rows, 16), torch.randint(0, 4, (rows,))


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, in nested dicts of tensors too."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


Story = Callable[[mg.TrainStep, nn.Module, optim.Optimizer], list[Any]]


def told(story: Story, budget: int | str | None, make: Callable[[], nn.Module] = net) -> tuple[Any, mg.TrainStep]:
    """What a story returns, with the state it leaves behind."""
    model = make()
    optimizer = adam(model)
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, memory_budget=budget, backend="eager")
    torch.manual_seed(7)
    losses = story(step, model, optimizer)
    return [losses, model.state_dict(), optimizer.state_dict()["state"], torch.get_rng_state()], step


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most bytes allocated inside, by PyTorch's profiler."""
    found: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        yield found
    live = 0
    found.append(0)
    for event in sorted(watched.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            found[0] = max(found[0], live)


def modes(step: mg.TrainStep, model: nn.Module, _: optim.Optimizer) -> list[Any]:
    losses = [step(*batch())]
    model.eval()
    losses.append(step(*batch()))
    model.train()
    return [*losses, step(*batch())]


def shapes(step: mg.TrainStep, *_: Any) -> list[Any]:
    return [step(*batch(rows)) for rows in (64, 48, 64, 48, 80)]


def schedule(step: mg.TrainStep, _: nn.Module, optimizer: optim.Optimizer) -> list[Any]:
    following = optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    losses = []
    for _ in range(4):
        losses.append(step(*batch()))
        following.step()
    assert optimizer.param_groups[0]["lr"] == 0.01 / 16
    return losses


def reload(step: mg.TrainStep, model: nn.Module, optimizer: optim.Optimizer) -> list[Any]:
    losses = [step(*batch())]
    state, weights = deepcopy(optimizer.state_dict()), deepcopy(model.state_dict())
    losses += [step(*batch()), step(*batch())]
    optimizer.load_state_dict(state)
    model.load_state_dict(weights)
    return [*losses, step(*batch())]


def freeze(step: mg.TrainStep, model: nn.Module, _: optim.Optimizer) -> list[Any]:
    losses = []
    for trained in (True, False, True):
        for p in list(model.parameters())[:4]:
            p.requires_grad_(trained)
        losses.append(step(*batch()))
    return losses


def many(step: mg.TrainStep, *_: Any) -> list[Any]:
    return [step.run(*batch(), steps=4)]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("story", [modes, shapes, schedule, reload, freeze, many], ids=lambda s: s.__name__)
def test_the_same_bits_as_without_a_budget(story: Story) -> None:
    planned, step = told(story, "80%")
    expected, _ = told(story, None)
    assert same(planned, expected)
    assert step.plan is not None and step.plan.again, "and there was something to compute again"


def test_one_budget_in_bytes_for_two_shapes() -> None:
    model = net()
    optimizer = adam(model)
    mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer)(*batch())  # the optimizer's state is resident from here on
    probe = mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, memory_budget="80%")
    probe(*batch(64))
    assert probe.plan is not None
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, memory_budget=probe.plan.budget)
    plans = []
    for rows in (64, 32):
        step(*batch(rows))
        step(*batch(rows))
        plan = step.plan
        assert plan is not None and plan.budget == probe.plan.budget
        data = batch(rows)
        with peak() as measured:
            loss = step(*data)
        assert loss.isfinite() and plan.problem.resident + measured[0] <= plan.peak_bytes <= plan.budget
        plans.append(plan)
    assert plans[0].again and not plans[1].again, "half the rows fit as they are"


def test_a_share_is_one_number_of_bytes() -> None:
    """A last, smaller batch may use as much as the others; a larger one has its own share."""
    step = told(shapes, "80%")[1]
    step(*batch(64))
    budget = step.plan.budget if step.plan else 0
    step(*batch(48))
    assert step.plan is not None and step.plan.budget == budget and not step.plan.again
    step(*batch(80))
    assert step.plan.budget == int(step.plan.unplanned_bytes * 0.8) > budget


def lstm() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(16, 16, batch_first=True)
            self.head = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(torch.tanh(self.rnn(x.unflatten(1, (4, 4)).repeat(1, 1, 4))[0])).flatten(0, 1))

    torch.manual_seed(0)
    return Last()


def test_a_fused_lstm() -> None:
    """oneDNN's kernel keeps a workspace that the graph knows nothing of."""

    def story(step: mg.TrainStep, *_: Any) -> list[Any]:
        x, y = batch(128)
        return [step(x, y.repeat(4)) for _ in range(3)]

    expected, _ = told(story, None, lstm)
    full = told(story, "100%", lstm)[1].plan
    assert full is not None
    with pytest.raises(mg.BudgetInfeasibleError) as error:
        told(story, 1, lstm)
    for budget in (error.value.floor_bytes, full.unplanned_bytes):
        planned, step = told(story, budget, lstm)
        assert same(planned, expected) and step.plan is not None
        x, y = batch(128)
        y = y.repeat(4)
        with peak() as measured:
            step(x, y)
        assert step.plan.problem.resident + measured[0] <= step.plan.peak_bytes <= budget


def test_a_batch_of_nothing() -> None:

    def trained(budget: str | None) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
        step = mg.TrainStep(model, lambda out, y: (out - y).sum(), adam(model), memory_budget=budget, backend="eager")
        return [step(torch.zeros(0, 16), torch.zeros(0, 4)), model.state_dict()]

    assert same(trained("100%"), trained(None))


def test_a_plan_from_a_file_is_trained_with(tmp_path: Path) -> None:
    def story(step: mg.TrainStep, *_: Any) -> list[Any]:
        return [step(*batch()) for _ in range(3)]

    expected, step = told(story, "80%")
    assert step.plan is not None
    path = tmp_path / "plan.json"
    path.write_text(step.plan.to_json())
    again, loaded = told(story, Plan.from_json(path.read_text()))  # pyright: ignore[reportArgumentType]
    assert same(again, expected) and loaded.plan == step.plan
    with pytest.raises(mg.PlanViolationError, match="another graph"):
        loaded(*batch(32))


# -- epochs ------------------------------------------------------------------------------------------------------------


def trained(folder: Path | None, epochs: int, budget: int | str | None, resume: bool = False) -> tuple[Any, Any]:
    """Epochs over 100 samples in batches of 32: the last one has 4."""
    model = net()
    optimizer = adam(model)
    torch.manual_seed(3)
    data = TensorDataset(torch.randn(100, 16), torch.randint(0, 4, (100,)))
    loader = DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    kept = {"checkpoint": folder, "resume": resume} if folder else {}
    history = mg.train_model(
        model, nn.CrossEntropyLoss(), optimizer, loader, epochs, memory_budget=budget, backend="auto", **kept
    )
    return [model.state_dict(), optimizer.state_dict()["state"], history["loss"]], history


def eager(epochs: int) -> Any:
    model = net()
    optimizer = adam(model)
    torch.manual_seed(3)
    data = TensorDataset(torch.randn(100, 16), torch.randint(0, 4, (100,)))
    loader = DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    history = mg.train_model(model, nn.CrossEntropyLoss(), optimizer, loader, epochs, backend="eager")
    return [model.state_dict(), optimizer.state_dict()["state"], history["loss"]]


def test_a_run_within_a_budget_stopped_and_resumed(tmp_path: Path) -> None:
    expected = eager(4)
    whole, history = trained(None, 4, "80%")
    assert same(whole, expected)
    assert history.backend == "eager" and "memory budget" in history.backend_reason
    assert history.plan is not None and history.plan.again and history.plan.peak_bytes <= history.plan.budget
    trained(tmp_path / "run", 2, "80%")
    resumed, _ = trained(tmp_path / "run", 4, "80%", resume=True)
    assert same(resumed, expected)
    assert json.dumps(resumed[2]) == json.dumps(expected[2])


def test_a_budget_may_change_between_a_run_and_its_resumption(tmp_path: Path) -> None:
    trained(tmp_path / "run", 2, "80%")
    resumed, history = trained(tmp_path / "run", 3, "100%", resume=True)
    assert same(resumed, eager(3)) and history.plan is not None and not history.plan.again
    assert trained(None, 1, None)[1].plan is None


def test_an_impossible_budget_stops_the_run_before_anything_is_trained() -> None:
    model = net()
    before = deepcopy(model.state_dict())
    loader = [batch()]
    with pytest.raises(mg.BudgetInfeasibleError, match="not enough"):
        mg.train_model(model, nn.CrossEntropyLoss(), adam(model), loader, 1, memory_budget="3KiB")
    assert same(model.state_dict(), before)
