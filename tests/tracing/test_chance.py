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


def behind_a_seed(x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    return x * torch.randn(3) + nn.functional.dropout(x, 0.5) * torch.randn_like(x)


def forked(x: torch.Tensor) -> torch.Tensor:
    before = torch.rand(3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        inside = torch.empty(3).normal_()
    return x * before * inside + x.sin() * torch.rand(3)


def from_there_again(x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = torch.rand(3)
    torch.set_rng_state(state)
    return x * first * torch.rand(3)


def by_values(x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(int(x.abs().sum() * 10))
    return x.sin() * torch.multinomial(x.abs().sum(0), 2)[:1] * (2 if x.sum() > 0 else 3)


def around_values(x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(3)
    return x.sin() * torch.normal(x.detach(), 1.0) + x * torch.zeros(3).bernoulli_(x.detach().sum(0).sigmoid())


def around_values_from_a_generator_of_its_own(x: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return x * torch.poisson(x.detach().exp(), generator) * torch.normal(x.detach(), 1.0, generator=generator)


AROUND = [around_values, around_values_from_a_generator_of_its_own]
SEEDING = [behind_a_seed, forked, from_there_again, by_values, *AROUND]


@pytest.mark.parametrize("f", SEEDING)
def test_what_is_drawn_behind_a_seed_is_what_pytorch_draws(f) -> None:
    gradient = mg.grad(lambda x: f(x).pow(2).sum())
    for k, x in enumerate((X + 2, X * 3, X)):
        torch.manual_seed(k)
        mine, after = gradient(x), torch.rand(2)
        torch.manual_seed(k)
        point = x.clone().requires_grad_()
        torch.testing.assert_close(mine, torch.autograd.grad(f(point).pow(2).sum(), point)[0])
        assert torch.equal(after, torch.rand(2))
    assert type(torch.random.default_generator) is torch.Generator  # pyright: ignore[reportPrivateImportUsage]


class Seeding(nn.Module):
    def __init__(self, f) -> None:
        super().__init__()
        self.w, self.f = nn.Parameter(torch.linspace(-1.0, 2.0, 3, dtype=torch.float64)), f

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f(x * self.w)


@pytest.mark.parametrize("f", SEEDING)
def test_steps_and_wrapped_models_that_seed_train_as_in_pytorch(f) -> None:
    left = []
    for way in ("pytorch", "step", "wrap"):
        model = Seeding(f)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        step = mg.TrainStep(model, lambda y, _: y.pow(2).sum(), optimizer) if way == "step" else None
        torch.manual_seed(0)
        model = mg.wrap(model) if way == "wrap" else model
        for x in (X, X * 2, X):
            if step is not None:
                step(x, torch.zeros(1))
            else:
                optimizer.zero_grad()
                model(x).pow(2).sum().backward()
                optimizer.step()
        left.append([model.w.detach(), torch.rand(2)])
    torch.testing.assert_close(left[1], left[0])
    torch.testing.assert_close(left[2], left[0])


STATE = torch.get_rng_state()


def drawn_twice() -> None:
    with torch.random.fork_rng():
        torch.rand(3)


@pytest.mark.parametrize("do", [torch.seed, torch.initial_seed, lambda: torch.set_rng_state(STATE), drawn_twice])
def test_what_a_graph_cannot_do_to_the_generator_is_refused(do) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        do()
        return (x * torch.randn(3)).sum()

    with pytest.raises(mg.CaptureError, match="random generator"):
        mg.grad(f)(X)
    assert type(torch.random.default_generator) is torch.Generator  # pyright: ignore[reportPrivateImportUsage]


class Keeping(nn.Module):
    def __init__(self, keep) -> None:
        super().__init__()
        self.w, self.keep, self.kept = nn.Parameter(torch.ones(3)), keep, []

    def forward(self, x: torch.Tensor):
        return self.keep(self, x * self.w)


@pytest.mark.parametrize(
    "keep",
    [
        lambda self, h: setattr(self, "state", torch.get_rng_state()) or h,
        lambda self, h: self.kept.append({"state": torch.get_rng_state()}) or h,
        lambda self, h: (h, torch.get_rng_state()),
        lambda self, h: h * torch.get_rng_state()[8:11],
    ],
)
def test_the_state_of_the_generator_is_not_kept_from_the_capture(keep) -> None:
    """Each call would leave that of the first."""
    with pytest.raises(mg.CaptureError, match="keeps the state of PyTorch's random generator"):
        mg.wrap(Keeping(keep), check="never")(torch.ones(2, 3))
