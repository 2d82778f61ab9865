"""Autocast acts on the program alone. Witness: autograd, called behind the ``with`` block as PyTorch's manual says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import memograd as mg
from memograd import autocast


class PartlySingle(nn.Module):
    """A matrix product that autocast must not touch, behind one that it casts."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.randn(16, 16))
        self.exact = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.low @ x
        with torch.autocast("cpu", enabled=False):
            return (self.exact @ y.float().tanh()).tanh().square().mean()


def gradients_by_autograd(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(x)
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, [*parameters.values()]), strict=True))


def test_gradients_are_computed_in_the_precision_of_the_forward_pass() -> None:
    torch.manual_seed(0)
    model, x = PartlySingle(), torch.randn(16, 16)
    expected = gradients_by_autograd(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, found = mg.differentiate(mg.capture(model, x))(x)
    torch.testing.assert_close(found["exact"], expected["exact"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found["low"], expected["low"], rtol=1e-2, atol=1e-4)  # a product in bfloat16


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_updates_are_computed_in_the_precision_of_the_parameters(make: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    ours, theirs = PartlySingle(), PartlySingle()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(16, 16)
    step = mg.TrainStep(ours, None, make(ours.parameters(), lr=0.1), backend="eager")  # pyright: ignore[reportCallIssue]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step(x)
    for name, gradient in gradients_by_autograd(theirs, x).items():
        theirs.get_parameter(name).grad = gradient
    make(theirs.parameters(), lr=0.1).step()  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(ours.exact, theirs.exact, rtol=1e-5, atol=1e-6)


def test_off_and_on_again() -> None:
    nothing = (None,) * len(autocast.DEVICES)
    assert autocast.state() == nothing
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast.state()[autocast.DEVICES.index("cpu")] == torch.bfloat16
        with autocast.off():
            assert autocast.state() == nothing
        assert torch.is_autocast_enabled("cpu")
