"""Optimizers of the user's in the graph of a step. Witness: the optimizer itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from plain_loop import batches, small
from torch import nn, optim

import memograd as mg
from memograd.train.update import RULES

DATA = batches(20)


class Lion(optim.Optimizer):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    if not state:
                        state["exp_avg"] = torch.zeros_like(p)
                    m = state["exp_avg"]
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_((beta1 * m + (1 - beta1) * p.grad).sign(), alpha=-group["lr"])
                    m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


@pytest.fixture
def entered():
    @mg.update_rule(Lion, start=lambda p, group: {"exp_avg": torch.zeros_like(p)})
    def lion(p, g, lr, state, group):
        beta1, beta2 = group["betas"]
        m = state["exp_avg"]
        p = p * (1 - lr * group["weight_decay"]) - lr * (beta1 * m + (1 - beta1) * g).sign()
        return p, {"exp_avg": beta2 * m + (1 - beta2) * g}

    yield lion
    del RULES[Lion]


def beside(make) -> mg.TrainStep:
    ours, theirs = small(), small()
    optimizers = [make(m.parameters()) for m in (ours, theirs)]
    step = mg.TrainStep(ours, nn.CrossEntropyLoss(), optimizers[0], backend="eager")
    for x, y in DATA:
        step(x, y)
        optimizers[1].zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward()
        optimizers[1].step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-12)
    found, expected = (o.state_dict()["state"] for o in optimizers)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    return step


def test_a_rule_of_the_users_is_part_of_the_graph(entered) -> None:
    step = beside(lambda p: Lion(p, lr=0.01, weight_decay=0.1))
    assert step.backend_reason == "asked for; one pass over each of 4 parameters updates it"


def test_without_a_rule_it_is_called() -> None:
    step = beside(lambda p: Lion(p, lr=0.01))
    assert "Lion.step() is called behind the graph: Lion has no update rule here" in step.backend_reason


def test_a_rule_that_is_not_the_optimizers_is_caught(entered) -> None:
    RULES[Lion] = copy.copy(RULES[optim.Adamax])
    model = small()
    with pytest.raises((mg.MemogradError, KeyError)):
        mg.TrainStep(model, nn.CrossEntropyLoss(), Lion(model.parameters(), lr=0.01))(*DATA[0])

    @mg.update_rule(Lion, start=lambda p, group: {"exp_avg": torch.zeros_like(p)})
    def wrong(p, g, lr, state, group):
        return p - lr * g, {"exp_avg": state["exp_avg"]}

    before = copy.deepcopy(model.state_dict())
    with pytest.raises(mg.GradientMismatchError):
        mg.TrainStep(model, nn.CrossEntropyLoss(), Lion(model.parameters(), lr=0.01))(*DATA[0])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def _writes(p, g, lr, state, group):
    state["exp_avg"].mul_(0.9)
    return p - lr * g, {}


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (lambda p, g, lr, state, group: p - lr * g, "not .new parameter"),
        (lambda p, g, lr, state, group: ((p - lr * g).mean(), {}), r"returned \(\) of torch.float64 for the parameter"),
        (lambda p, g, lr, state, group: (p - lr * g, {"exp_avg": g.sum()}), r"returned \(\) .* for 'exp_avg'"),
        (lambda p, g, lr, state, group: (p - lr * g, {"exp_avg": g + 0j}), "complex128 for 'exp_avg'"),
        (lambda p, g, lr, state, group: (p - lr * g, {"exp_avg": 0.5}), "returned float for 'exp_avg'"),
        (lambda p, g, lr, state, group: (p - lr * g, {"other": g}), "returned 'other', which it may not write"),
        (_writes, "writes to 'exp_avg' of the state"),
    ],
)
def test_what_a_rule_returns_must_be_what_is_updated_even_where_nothing_is_compared(
    entered, backend, rule, complaint
) -> None:
    mg.update_rule(Lion, RULES[Lion].start)(rule)
    model = small()
    optimizer, before = Lion(model.parameters(), lr=0.01), copy.deepcopy(model.state_dict())
    with pytest.raises(mg.GraphError, match=complaint):
        mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, backend=backend, check="never")(*DATA[0])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not optimizer.state


@pytest.mark.parametrize("backend", ["eager", "native"])
def test_a_state_in_a_wider_precision_than_it_is_kept_in_is_rounded_on_every_backend(entered, backend) -> None:
    rule = RULES[Lion].formula
    mg.update_rule(Lion, lambda p, group: {"exp_avg": torch.zeros_like(p)})(
        lambda p, g, lr, state, group: tuple_of_doubles(*rule(p, g, lr, state, group))
    )
    ours, theirs = (nn.Linear(2, 1) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = [Lion(m.parameters(), lr=0.01) for m in (ours, theirs)]
    step = mg.TrainStep(ours, nn.MSELoss(), optimizers[0], backend=backend)
    x, y = torch.rand(4, 2), torch.rand(4, 1)
    for _ in range(3):
        step(x, y)
        optimizers[1].zero_grad()
        nn.functional.mse_loss(theirs(x), y).backward()
        optimizers[1].step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(*(o.state_dict()["state"] for o in optimizers))


def tuple_of_doubles(p, state):
    return p.double(), {key: t.double() for key, t in state.items()}


def test_a_state_that_the_rule_does_not_know_is_refused() -> None:
    class Counting(optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step()
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["calls"] = torch.tensor(self.state[p].get("calls", 0) + 1)

    mg.update_rule(Counting)(lambda p, g, lr, state, group: (p - lr * g, {}))
    model = small()
    with pytest.raises(mg.GraphError, match=r"Counting.step\(\) keeps 'calls' in its state"):
        mg.TrainStep(model, nn.CrossEntropyLoss(), Counting(model.parameters(), lr=0.1))(*DATA[0])
    del RULES[Counting]


def test_a_rule_is_for_a_class_of_optimizers() -> None:
    with pytest.raises(mg.GraphError, match="for a class of optimizers, not for <built-in"):
        mg.update_rule(torch.sin)  # pyright: ignore[reportArgumentType]


class Scales(nn.Module):
    """Two parameters without dimensions, whose moments are equal before the first step only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(k, dtype=torch.float64)) for k in (1.0, 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.a * x).sum() + (self.b * self.b * x).mean()


@pytest.mark.parametrize("kind", [optim.Adam, optim.NAdam, optim.Adamax])
def test_parameters_without_dimensions_have_moments_of_their_own(kind) -> None:
    ours, theirs = Scales(), Scales()
    optimizers = [kind(m.parameters(), lr=0.1) for m in (ours, theirs)]
    step = mg.TrainStep(ours, None, optimizers[0], backend="eager")
    x = torch.linspace(0, 1, 5, dtype=torch.float64)
    for _ in range(5):
        step(x)
        optimizers[1].zero_grad()
        theirs(x).backward()
        optimizers[1].step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-12)
