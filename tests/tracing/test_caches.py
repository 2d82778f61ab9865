"""Numbers that a ``functools.cache`` remembers, cleared and filled between calls: PyTorch's at each call."""

import functools

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64


class Scale:
    by = 2.0

    def of(self, n):
        return self.by * n


def a_method():
    scale, of = Scale(), functools.lru_cache(Scale.of)

    def between(k):
        scale.by = 2.0 + k
        if k % 2:
            of.cache_clear()

    return lambda x: x * of(scale, 2), between


def _filled_outside(cache, made=float):
    held = {"by": 1.0}

    @cache
    def scaled(n):
        return made(n * held["by"])

    def between(k):
        scaled.cache_clear()
        held["by"] = 1.0 + k
        scaled(2)
        held["by"] = 1.0

    return lambda x: x * scaled(2), between


def filled_outside():
    return _filled_outside(functools.cache)


def filled_outside_of_limited_size():
    return _filled_outside(functools.lru_cache(4))


def a_tensor_from_outside():
    return _filled_outside(functools.cache, lambda number: torch.full((2,), number, dtype=F64))


def counted():
    @functools.cache
    def scaled(n):
        return n * 2.0

    return lambda x: x * (scaled(2) + scaled.cache_info().hits), lambda k: None


PROGRAMS = [a_method, filled_outside, filled_outside_of_limited_size, a_tensor_from_outside, counted]


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.weight, self.run = nn.Parameter(torch.ones(2, dtype=F64)), run

    def forward(self, x):
        return self.run(self.weight * x)


def _gradients(make, way):
    run, between = make()
    model = Program(run)
    step = None
    if way == "step":
        step = mg.TrainStep(model, lambda y, _: y.sum(), torch.optim.SGD(model.parameters(), 1.0))
    elif way is not None:
        mg.wrap(model, check=way)
    gradients = []
    for k in range(4):
        between(k)
        x, before = torch.full((2,), 1.0 + k, dtype=F64), model.weight.detach().clone()
        if step is not None:
            step(x, x)
            gradients.append(before - model.weight.detach())
        else:
            gradients += torch.autograd.grad(model(x).sum(), [model.weight])
    return gradients


@pytest.mark.parametrize("way", ["first", "never", "step"])
@pytest.mark.parametrize("make", PROGRAMS, ids=lambda f: f.__name__)
def test_what_a_cache_remembers_is_that_of_each_call(make, way):
    torch.testing.assert_close(_gradients(make, way), _gradients(make, None))


def test_one_that_nobody_touches_asks_for_no_other_capture():
    scaled = functools.cache(lambda n: n * 2.0)
    model = mg.wrap(Program(lambda x: x * scaled(2)))
    for _ in range(3):
        model(torch.ones(2, dtype=F64)).sum().backward()
    assert len(model.forward.captures) == 1
