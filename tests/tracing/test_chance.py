"""Random numbers of Python's and NumPy's decide anew at each call, as in the plain program."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import memograd as mg

X = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(4, 3)
OWN = np.random.default_rng(0)


def python(x: torch.Tensor) -> torch.Tensor:
    return (x**2 * random.random()).sum()


def numpy(x: torch.Tensor) -> torch.Tensor:
    return (x**2 * float(np.random.rand())).sum() if np.random.rand() < 0.5 else (x**3).sum()


def own(x: torch.Tensor) -> torch.Tensor:
    return (x**2 * float(OWN.random())).sum()


def by_value(x: torch.Tensor) -> torch.Tensor:
    scale = random.random()
    return (x**2 * scale).sum() if x.sum() < 5 else x.sum()


def seeded() -> None:
    random.seed(3)
    np.random.seed(3)
    OWN.bit_generator.state = np.random.default_rng(3).bit_generator.state


@pytest.mark.parametrize("f", [python, numpy, own, by_value])
def test_transforms_draw_as_the_plain_function(f) -> None:
    gradient = mg.grad(f)
    seeded()
    ours = [gradient(X) for _ in range(4)]
    after = random.random(), np.random.rand(), OWN.random()
    seeded()
    for mine in ours:
        x = X.clone().requires_grad_()
        torch.testing.assert_close(mine, torch.autograd.grad(f(x), x)[0])
    assert after == (random.random(), np.random.rand(), OWN.random())


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)]).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if random.random() < 0.7:
                x = x + layer(x).tanh() * float(np.random.rand())
        return x.sum() + self.layers[0](x).sum()


def test_steps_draw_as_the_plain_model() -> None:
    ours = Dropping()
    theirs = copy.deepcopy(ours)
    a, b = (torch.optim.SGD(m.parameters(), 0.01) for m in (ours, theirs))
    step = mg.TrainStep(ours, None, a, backend="eager")
    seeded()
    losses = [step(X) for _ in range(4)] + list(step.run(X, steps=2))
    after = random.random(), np.random.rand()
    seeded()
    for loss in losses:
        b.zero_grad()
        expected = theirs(X)
        expected.backward()
        b.step()
        torch.testing.assert_close(loss, expected.detach())
    assert after == (random.random(), np.random.rand())


@pytest.mark.parametrize("seed", [lambda: torch.manual_seed(0), torch.seed, lambda: torch.set_rng_state(STATE)])
def test_a_program_that_seeds_is_refused(seed) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        seed()
        return (x * torch.randn(3)).sum()

    with pytest.raises(mg.CaptureError, match=r"random generator at .*test_chance\.py:\d+"):
        mg.grad(f)(X)
    assert type(torch.random.default_generator) is torch.Generator


STATE = torch.get_rng_state()


def test_a_program_that_forks_the_generator_is_refused() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng():
            return (x * torch.randn(3)).sum()

    with pytest.raises(mg.CaptureError, match="random generator"):
        mg.grad(f)(X)
