"""A program that reads where a generator stands, and draws nothing, goes by that. Witness: plain PyTorch."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import memograd as mg

Case = tuple[Callable[[], float], Callable[[int], Any]]  # a number; what happens in front of call k


def of_python() -> Case:
    return lambda: random.getstate()[1][-1] + 1.0, lambda k: [random.random() for _ in range(k)]


def drawn_and_put_back() -> Case:
    def number() -> float:
        state = random.getstate()
        drawn = random.random()
        random.setstate(state)
        return drawn

    return number, random.seed


def held() -> Case:
    own = random.Random(3)
    return lambda: own.getstate()[1][-1] + 1.0, lambda k: [own.random() for _ in range(k)]


def copied() -> Case:
    own = random.Random(3)
    return lambda: copy.deepcopy(own).random(), lambda k: [own.random() for _ in range(k)]


def of_numpy() -> Case:
    return lambda: np.random.get_state()[2] + 1.0, lambda k: (np.random.seed(k), np.random.rand(k))  # pyright: ignore


def new_of_numpy() -> Case:
    own = np.random.default_rng(3)
    return lambda: own.bit_generator.state["state"]["state"] % 7 + 1.0, own.random


def of_torch() -> Case:
    own = torch.Generator()
    return lambda: own.initial_seed() + 1.0, own.manual_seed


class Program(nn.Module):
    def __init__(self, number: Callable[[], float]) -> None:
        super().__init__()
        self.weight, self.number = nn.Parameter(torch.tensor(1.5, dtype=torch.float64)), number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * x).sin() * self.number()


@pytest.mark.parametrize("make", [of_python, drawn_and_put_back, held, copied, of_numpy, new_of_numpy, of_torch])
@pytest.mark.parametrize("check", ["first", "never"])
def test_the_state_is_that_of_each_call(make: Callable[[], Case], check: Any) -> None:
    def gradients(turn: Callable[[nn.Module], nn.Module]) -> list[float]:
        random.seed(0)
        number, change = make()
        model: Any = turn(Program(number))
        found = []
        for k in range(4):
            change(k)
            model.zero_grad()
            model(torch.tensor(0.3, dtype=torch.float64)).backward()
            found.append(float(model.weight.grad))
        return found

    expected = gradients(lambda model: model)
    assert len({*expected}) > 1
    assert gradients(lambda model: mg.wrap(model, check=check)) == pytest.approx(expected)


def test_the_numbers_of_others_make_no_other_program_where_nobody_asks() -> None:
    model: Any = mg.wrap(Program(lambda: 2.0 if random else 3.0))
    for _ in range(3):
        random.random()
        model(torch.tensor(0.3, dtype=torch.float64))
    assert len(model.forward.captures) == 1
