"""Hooks whose result depends on how often they were called: as in PyTorch, with a comparison of the first step too."""

import itertools
import random

import pytest
import torch
from torch import nn

import memograd as mg


class Count:
    def __init__(self):
        self.n = 0

    def times(self, gradient):
        self.n += 1
        return gradient * self.n


def on_a_parameter(model, count):
    model[0].weight.register_hook(count.times)


def on_a_result(model, count):
    model[0].register_forward_hook(lambda module, given, out: (out.register_hook(count.times), None)[1])


def that_looks(model, count):
    def hook(gradient):
        return count.times(gradient) if gradient.abs().sum() > 0 else None

    model[0].register_forward_hook(lambda module, given, out: (out.register_hook(hook), None)[1])


def behind_a_module(model, count):
    model[2].register_full_backward_hook(lambda module, into, out: tuple(map(count.times, into)))


def in_front_of_one(model, count):
    model[2].register_full_backward_pre_hook(lambda module, out: tuple(map(count.times, out)))


def by_an_iterator(model, count):
    numbers = itertools.count(1)
    model[0].register_forward_hook(lambda module, given, out: (out.register_hook(lambda g: g * next(numbers)), None)[1])


def by_an_iterator_behind_a_module(model, count):
    numbers = itertools.count(1)
    model[2].register_full_backward_hook(lambda module, into, out: tuple(g * next(numbers) for g in into))


def by_chance(model, count):
    random.seed(0)
    model[2].register_full_backward_hook(lambda module, into, out: tuple(g * random.random() for g in into))


def by_a_draw(model, count):
    model[0].register_forward_hook(
        lambda module, given, out: (out.register_hook(lambda g: g * torch.rand(())), None)[1]
    )


HOOKS = [on_a_parameter, on_a_result, that_looks, behind_a_module, in_front_of_one]
HOOKS += [by_an_iterator, by_an_iterator_behind_a_module, by_chance, by_a_draw]


def _trained(hook, way, check):
    torch.manual_seed(0)
    model, count = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)).double(), Count()
    hook(model, count)
    x, y = torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    optimizer, criterion = torch.optim.SGD(model.parameters(), 0.1), nn.MSELoss()
    step = mg.TrainStep(model, criterion, optimizer, check=check) if way == "step" else None
    if way == "wrap":
        mg.wrap(model, check=check)
    for _ in range(3):
        if step is not None:
            step(x, y)
            continue
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    return [*(p.detach() for p in model.parameters()), torch.get_rng_state()], count.n


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("way", ["wrap", "step"])
@pytest.mark.parametrize("hook", HOOKS)
def test_they_are_called_once_for_each_step(hook, way, check):
    mine, theirs = _trained(hook, way, check), _trained(hook, None, None)
    torch.testing.assert_close(mine[0], theirs[0])
    assert mine[1] == theirs[1]


def test_an_iterator_that_is_met_too_late_is_refused():
    count = Count()
    count.numbers = itertools.count(1)

    def hook(model, _):
        model[0].register_forward_hook(
            lambda module, given, out: (out.register_hook(lambda g: g * next(count.numbers)), None)[1]
        )

    with pytest.raises(mg.CaptureError, match="takes from"):
        _trained(hook, "wrap", "first")
