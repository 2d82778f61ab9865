"""Training with convolutions by other algorithms is PyTorch's training, up to rounding."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn, optim

import memograd as mg
from memograd import c_compiler
from memograd.errors import GradientMismatchError
from memograd.lower.lower import lower
from memograd.run import choose as choosing
from memograd.run.convolutions import patches
from memograd.run.convolutions.backend import Convolutions
from memograd.run.convolutions.case import DIRECT, Case

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def a_machine_that_has_measured_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMOGRAD_CACHE", str(tmp_path))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 4, 5, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 12, 12, generator=generator), torch.randint(5, (4,), generator=generator)


def losses_of_pytorch(model, x, y, steps):
    optimizer, losses = optim.SGD(model.parameters(), lr=0.1), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def preferring(name):
    """``fastest`` that says ``name`` wherever that can do it."""

    def fastest(case: Case) -> str:
        return name if name in case._algorithms() else DIRECT

    return fastest


@pytest.mark.parametrize(("name", "least"), [("winograd", 2), ("patches", 5)])
def test_training_is_pytorchs(name, least, monkeypatch):
    """The first layer's input has no gradient, so it does two of its three convolutions."""
    monkeypatch.setattr(Case, "fastest", preferring(name))
    model, (x, y) = network(), batch()
    model(x)
    theirs = copy.deepcopy(model)
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1), backend="convolutions")
    losses = torch.stack([step(x, y).detach() for _ in range(5)])
    backend = step._required().choice.backend
    assert isinstance(backend, Convolutions) and backend.fastest.algorithms[name] == least
    assert f"{least} by {'patches' if name == 'patches' else 'Winograd'}" in step.backend_reason
    torch.testing.assert_close(losses, losses_of_pytorch(theirs, x, y, 5), rtol=1e-4, atol=1e-5)
    for (at, ours), other in zip(model.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4, msg=at)


def test_one_gradient_of_two(monkeypatch):
    """The other one stays PyTorch's."""
    monkeypatch.setattr(Case, "fastest", lambda case: "winograd" if case.kind == "filter_gradient" else DIRECT)
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)

    def loss(x, w, b):
        return nn.functional.conv2d(x, w, b, padding=1).sin().sum()

    graph = lower(mg.differentiate(mg.capture(loss, *(t.requires_grad_() for t in (x, w, b)))))
    backend = Convolutions(graph)
    assert backend.fastest.algorithms == {DIRECT: 2, "winograd": 1}
    inputs = [t.detach() for t in (x, w, b)]
    value, *gradients = backend.compute(graph.bind(inputs, {}))
    reference = loss(x, w, b)
    torch.testing.assert_close(value, reference.detach())
    for ours, theirs in zip(gradients, torch.autograd.grad(reference, (x, w, b)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_auto_tries_it_where_an_algorithm_differs(monkeypatch):
    offered = []

    def seconds(backends, flat):
        offered.append(sorted(backends))
        return {name: 1.0 if name == "convolutions" else 2.0 for name in backends}

    monkeypatch.setattr(choosing, "_seconds", seconds)
    for name in ("patches", DIRECT):
        monkeypatch.setattr(Case, "fastest", preferring(name))
        model, (x, y) = network(), batch()
        model(x)
        step = mg.TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
        step(x, y)
        assert step.backend_name == ("convolutions" if name == "patches" else "eager")
    assert offered == [["convolutions", "eager"]]


def bottleneck():
    """A normalization and a convolution without a bias, as in MobileNetV2: all means behind them are zero."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 32, 1, bias=False),
        nn.BatchNorm2d(32),
    )


@pytest.mark.parametrize("off", [1.0, 1.01])
def test_means_that_are_nothing_but_rounding_are_no_fault(off, monkeypatch):
    """They are other ones than PyTorch's. Where a convolution is wrong that is still found."""
    monkeypatch.setattr(Case, "fastest", preferring("patches"))
    theirs = patches.convolution
    monkeypatch.setattr(patches, "convolution", lambda *given: theirs(*given) * off)
    torch.manual_seed(1)
    model, x, y = bottleneck(), torch.randn(4, 3, 24, 24), torch.randn(4, 32, 24, 24)
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.01), backend="convolutions")
    with pytest.raises(GradientMismatchError) if off != 1 else nullcontext():
        step(x, y)
    assert 0 < model[3].running_mean.abs().max() < 1e-6 or off != 1
