"""Rectifiers behind the pooling that reads them: what PyTorch computes, untouched where others read them."""

import pytest
import torch
import torch.nn.functional as F

import memograd as mg
from memograd.lower.lower import lower
from memograd.pipeline import capture
from memograd.run.eager import Eager
from memograd.run.pool_first import pool_first

aten = torch.ops.aten
WINDOWS = [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": (3, 2), "dilation": 2}]


def order(graph) -> list[str]:
    names = {aten.relu.default: "relu", aten.max_pool2d_with_indices.default: "pool"}
    return [names[n.target] for n in graph.nodes if n.target in names]


def gradient(f, x):
    def both(x):
        return torch.autograd.grad(f(x), x)[0]

    return lower(capture(both, x.requires_grad_()))


@pytest.mark.parametrize("special", [None, torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_values_and_gradients_are_pytorchs(window, special) -> None:
    """Many elements are equal, windows overlap, and in some no element is positive."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-4, 2, (2, 3, 13, 12), generator=generator).float()
    x[0, 0] = -1
    if special is not None:
        x.view(-1)[::5] = special
    x.requires_grad_()

    def f(x):
        y = F.max_pool2d(F.relu(x), **window)
        weights = torch.arange(1.0, y.numel() + 1).view(y.shape)
        return (y * weights).sum()

    expected = torch.autograd.grad(f(x), x)[0]
    graph = gradient(f, x.detach().clone())
    assert order(pool_first(graph)) == ["pool", "relu"]
    assert torch.equal(Eager(graph).compute([x.detach()])[0], expected)


def test_the_rectifier_and_its_mask_see_the_small_image() -> None:
    graph = gradient(lambda x: F.max_pool2d(F.relu(x), 2).square().sum(), torch.randn(1, 2, 8, 8))
    assert order(graph) == ["relu", "pool"]
    ours = pool_first(graph).verify()
    assert order(ours) == ["pool", "relu"]
    masks = [n for n in ours.nodes if n.target is aten.threshold_backward.default]
    assert [tuple(n.meta["val"].shape) for n in masks] == [(1, 2, 4, 4)]


READ_ELSEWHERE = {
    "the image": lambda x: F.max_pool2d(r := F.relu(x), 2).sum() + r.square().sum(),
    "the places": lambda x: (p := F.max_pool2d(F.relu(x), 2, return_indices=True))[0].sum() * p[1].sum(),
    "two poolings": lambda x: F.max_pool2d(r := F.relu(x), 2).square().sum() + F.max_pool2d(r, 3).sum(),
    "as large": lambda x: F.max_pool2d(F.relu(x), 3, stride=1, padding=1).square().sum(),
    "a view": lambda x: F.max_pool2d(F.relu(x.view(2, 1, 8, 8)), 2).square().sum(),
}


@pytest.mark.parametrize("name", READ_ELSEWHERE)
def test_what_others_read_stays(name: str) -> None:
    graph = gradient(READ_ELSEWHERE[name], torch.randn(1, 2, 8, 8))
    assert order(pool_first(graph)) == order(graph)
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    expected = torch.autograd.grad(READ_ELSEWHERE[name](x), x)[0]
    assert torch.equal(Eager(graph).compute([x.detach()])[0], expected)


def test_a_step_trains_as_pytorch_does() -> None:
    def model():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
            torch.nn.Linear(4 * 16, 3),
        )  # fmt: skip

    ours, theirs = model(), model()
    x, y = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    loss = torch.nn.CrossEntropyLoss()
    step = mg.TrainStep(ours, loss, torch.optim.SGD(ours.parameters(), lr=0.1), backend="eager")
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(3):
        step(x, y)
        optimizer.zero_grad()
        loss(theirs(x), y).backward()
        optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
