"""Parametrized weights inside and outside ``parametrize.cached()``: the witness is the same loop in plain PyTorch."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import memograd as mg
from memograd._torch import is_fake, parametrized_values

F64 = torch.float64


def network() -> nn.Module:
    torch.manual_seed(0)
    spectral = parametrizations.spectral_norm(nn.Linear(3, 3, dtype=F64))
    return nn.Sequential(spectral, nn.Tanh(), parametrizations.weight_norm(nn.Linear(3, 3, dtype=F64)))


def x(k: int) -> torch.Tensor:
    return torch.linspace(-1.0, 1.0 + k, 12, dtype=F64).reshape(4, 3)


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13, msg=name)


@pytest.mark.parametrize("check", ["first", "never"])
def test_calls_of_one_block_share_their_weights_and_others_do_not(check: Any) -> None:
    ours, theirs = network(), network()
    mg.wrap(ours, check=check)
    for k in range(4):
        for model in (ours, theirs):
            with parametrize.cached():
                h = model(model(x(k)).tanh())
                loss = h.square().sum() + model[0].weight.square().sum()  # pyright: ignore
            loss = loss + model(x(k)).sum()
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad  # pyright: ignore
        assert_same(ours, theirs)


def test_steps_inside_and_outside_of_a_block() -> None:
    ours, theirs = network(), network()
    step = mg.TrainStep(ours, nn.MSELoss(), torch.optim.SGD(ours.parameters(), lr=0.1))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for k in range(6):
        with parametrize.cached() if k % 2 else contextlib.nullcontext():
            step(x(k), x(0))
            assert not any(map(is_fake, (parametrized_values() or {}).values()))
        with parametrize.cached() if k % 2 else contextlib.nullcontext():
            loss = nn.functional.mse_loss(theirs(x(k)), x(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_same(ours, theirs)


def test_a_block_around_each_call_needs_no_capture_of_its_own() -> None:
    model = mg.wrap(network())
    for k in range(4):
        with parametrize.cached():
            model(x(k)).sum().backward()
    assert len(model.forward.captures) == 1  # pyright: ignore


def test_a_copy_is_another_model() -> None:
    ours = mg.wrap(network())
    other = copy.deepcopy(ours)
    with parametrize.cached():
        torch.testing.assert_close(ours(x(0)), other(x(0)), rtol=1e-12, atol=0)
