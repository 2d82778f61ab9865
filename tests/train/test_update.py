"""The optimizer stays torch.optim's: its learning rate and its state are read and made as it does. Witness: itself."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

import memograd as mg

X, Y = torch.ones(4, 3), torch.linspace(0, 1, 8).reshape(4, 2)


def train_by_torch(model: nn.Module, optimizer: optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.mse_loss(model(X), Y).backward()
    optimizer.step()


def pair(make):
    torch.manual_seed(0)
    ours = nn.Linear(3, 2)
    theirs = copy.deepcopy(ours)
    return ours, make(ours.parameters()), theirs, make(theirs.parameters())


@pytest.mark.parametrize(
    "make",
    [lambda p: optim.SGD(p, lr=torch.tensor(0.1)), lambda p: optim.AdamW(p, lr=torch.tensor([0.1]), foreach=False)],
    ids=["sgd", "adamw"],
)
def test_a_rate_that_is_a_tensor_is_followed_when_it_changes_in_place(make) -> None:
    """As schedulers change it."""
    ours, our_optimizer, theirs, their_optimizer = pair(make)
    step = mg.TrainStep(ours, F.mse_loss, our_optimizer, backend="eager")
    schedulers = [optim.lr_scheduler.ExponentialLR(o, 0.1) for o in (our_optimizer, their_optimizer)]
    for _ in range(3):
        step(X, Y)
        train_by_torch(theirs, their_optimizer)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
        for scheduler in schedulers:
            scheduler.step()


def test_a_rate_may_become_a_tensor_and_a_number_again() -> None:
    ours, our_optimizer, theirs, their_optimizer = pair(lambda p: optim.SGD(p, lr=0.1))
    step = mg.TrainStep(ours, F.mse_loss, our_optimizer, backend="eager")
    for rate in (0.1, torch.tensor(0.5), 0.1, 0.5):
        for optimizer in (our_optimizer, their_optimizer):
            optimizer.param_groups[0]["lr"] = copy.copy(rate)
        step(X, Y)
        train_by_torch(theirs, their_optimizer)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [False, True])
def test_step_counters_are_made_as_torch_makes_them(default: torch.dtype, fused: bool) -> None:
    ours, our_optimizer, theirs, their_optimizer = pair(lambda p: optim.AdamW(p, fused=fused))
    torch.set_default_dtype(default)
    try:
        mg.TrainStep(ours, F.mse_loss, our_optimizer, backend="eager")(X, Y)
        train_by_torch(theirs, their_optimizer)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(our_optimizer.state[a], their_optimizer.state[b])
    train_by_torch(ours, our_optimizer)  # torch's own kernel goes on from our state


@pytest.mark.parametrize("options", [{"ema_decay": 0.5}, {"accumulate": 2}, {}], ids=str)
def test_a_parameter_of_one_number_is_updated_in_its_own_precision(options) -> None:
    """Its update has a learning rate in float64 beside it, which no dimension makes the lesser of the two."""
    results = []
    for step in (False, True):
        w = torch.nn.Parameter(torch.tensor(0.7))
        model = torch.nn.Module()
        model.w = w
        model.forward = lambda x, w=w: (w * x).square().sum()
        optimizer = torch.optim.AdamW([w], lr=0.1)
        x = torch.ones(3)
        if step:
            run = mg.TrainStep(model, None, optimizer, check="never", **options)
            for _ in range(4 * options.get("accumulate", 1)):
                run(x)
        else:
            for _ in range(4):
                optimizer.zero_grad()
                (w * x).square().sum().backward()
                optimizer.step()
        results.append(w.detach().clone())
    torch.testing.assert_close(*results)
    assert results[1].dtype == torch.float32


class Tied(nn.Module):
    """An autoencoder whose decoder has the weight of the encoder, transposed: two parameters in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 2), nn.Linear(2, 4)
        self.decoder.weight = nn.Parameter(self.encoder.weight.t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.decoder(self.encoder(x).sigmoid()) - x).square().mean()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_parameters_in_the_same_memory_are_updated_one_after_the_other(kind, accumulate) -> None:
    runs = []
    for ours in (False, True):
        torch.manual_seed(0)
        model = Tied().double()
        model.decoder.weight = nn.Parameter(model.encoder.weight.t())
        optimizer = kind(model.parameters(), lr=0.1)
        step = mg.TrainStep(model, None, optimizer, accumulate=accumulate) if ours else None
        for k in range(4):
            x = torch.linspace(-1, 1 + k, 12, dtype=torch.float64).view(3, 4)
            if step is not None:
                step(x)
                continue
            (model(x) / accumulate).backward()
            if k % accumulate == accumulate - 1:
                optimizer.step()
                optimizer.zero_grad()
        if step is not None:
            assert "two parameters lie in the same memory" in step.backend_reason
        runs.append(model.state_dict())
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-10, atol=1e-12)
