"""Step counters that somebody else writes to between steps: of one layer that begins anew. Witness: torch.optim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim

import memograd as mg

F64 = torch.float64
OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "Adam": lambda p: optim.Adam(p, 0.1),
    "Adam, fused": lambda p: optim.Adam(p, 0.1, fused=True),
    "AdamW, amsgrad": lambda p: optim.AdamW(p, 0.1, amsgrad=True),
    "NAdam": lambda p: optim.NAdam(p, 0.1),
    "RAdam": lambda p: optim.RAdam(p, 0.1),
    "Adamax": lambda p: optim.Adamax(p, 0.1),
    "Adagrad": lambda p: optim.Adagrad(p, 0.1, lr_decay=0.3),
}


def begun_anew(state: dict[str, Any]) -> None:
    state["step"].zero_()


def another_counter(state: dict[str, Any]) -> None:
    state["step"] = torch.zeros_like(state["step"])


def moments_too(state: dict[str, Any]) -> None:
    for tensor in state.values():
        tensor.zero_()


def batch(k: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(k)
    return torch.randn(4, 3, dtype=F64, generator=generator), torch.randn(4, 2, dtype=F64, generator=generator)


def made(kind: str) -> tuple[nn.Module, optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    return model, OPTIMIZERS[kind](model.parameters())


def trained(kind: str, change: Callable[[Any], None], how: str) -> list[torch.Tensor]:
    """The parameters behind seven updates, with a change before the fourth and the sixth."""
    model, optimizer = made(kind)
    step: Any = None
    if how != "plain":
        step = mg.TrainStep(model, nn.MSELoss(), optimizer, check="never", accumulate=2 if how == "accumulate" else 1)
    for k in range(7):
        if k in (3, 5):
            change(optimizer.state[list(model.parameters())[k % 2]])
        if how == "plain":
            optimizer.zero_grad()
            nn.functional.mse_loss(model(batch(k)[0]), batch(k)[1]).backward()
            optimizer.step()
        elif how == "run":
            step.run(*batch(k), steps=1)
        else:
            for _ in range(step._refinements.accumulate):
                step(*batch(k))
    return [p.detach() for p in model.parameters()]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("how", ["step", "run", "accumulate"])
@pytest.mark.parametrize("change", [begun_anew, another_counter, moments_too])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_one_parameter_begins_anew(kind: str, change: Callable[[Any], None], how: str) -> None:
    expected = trained(kind, change, "plain")
    torch.testing.assert_close(trained(kind, change, how), expected, rtol=1e-10, atol=1e-10)


def test_who_writes_the_same_to_all_makes_no_other_program() -> None:
    model, optimizer = made("Adam")
    step = mg.TrainStep(model, nn.MSELoss(), optimizer, check="never")
    for k in range(4):
        step(*batch(k))
        for p in model.parameters():
            optimizer.state[p]["step"].fill_(k)
    assert len(step.captures) == 1


def test_an_optimizer_that_is_called_after_the_graph_shares_none() -> None:
    model = nn.Linear(3, 2).double()
    optimizer = optim.Rprop(model.parameters(), 0.01)
    step = mg.TrainStep(model, nn.MSELoss(), optimizer, check="never")
    for k in range(2):
        step(*batch(k))
    assert float(optimizer.state[model.weight]["step"]) == 2
