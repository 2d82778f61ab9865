"""What a lowered graph holds on to, and that its results are PyTorch's to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from memograd.lower.lower import lower
from memograd.pipeline import capture
from memograd.run.eager import Eager
from memograd.train.step import TrainStep

LOSSES = {
    "mse": F.mse_loss,
    "smooth l1": F.smooth_l1_loss,
    "soft margin": F.soft_margin_loss,
    "cross entropy": F.binary_cross_entropy,
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_does_not_keep_the_single_losses(name: str, reduction: str) -> None:
    loss: Callable[..., torch.Tensor] = LOSSES[name]
    x, y = torch.rand(64, 32), torch.rand(64, 32)
    graph = capture(lambda a, b: loss(a, b, reduction=reduction), x.clone().requires_grad_(), y)
    (ours,) = Eager(lower(graph)).compute([x, y])
    assert torch.equal(ours, loss(x, y, reduction=reduction))
    assert ours.untyped_storage().nbytes() == 4


def test_single_losses_stay() -> None:
    x, y = torch.rand(64, 32), torch.rand(64, 32)
    (ours,) = Eager(lower(capture(lambda a, b: F.mse_loss(a, b, reduction="none"), x, y))).compute([x, y])
    assert torch.equal(ours, F.mse_loss(x, y, reduction="none"))


def test_the_loss_of_a_step_is_one_number() -> None:
    model = torch.nn.Linear(64, 64)
    step = TrainStep(model, torch.nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), memory_budget="100%")
    assert step(torch.randn(32, 64), torch.randn(32, 64)).untyped_storage().nbytes() == 4


def test_a_write_into_the_batch_does_not_copy_the_data_set() -> None:
    """The result of a scatter has the storage of what it was written into: of the batch, not of all the data."""

    def f(x: torch.Tensor) -> torch.Tensor:
        x[:, :3] = 0
        x.t()[5:9][1].mul_(0.5)
        return x

    data = torch.randn(10000, 64)
    batch, expected = data[512:768], f(data[512:768].clone())
    graph = capture(f, batch.clone())
    results = Eager(lower(graph)).compute(graph.bind((batch,), {}))
    assert all(torch.equal(r, expected) for r in results)
    assert all(r.untyped_storage().nbytes() <= batch.numel() * 4 for r in results)
