"""What a program makes itself can be looked at while it is captured; what it is given cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

import memograd as mg
from memograd.errors import DataDependentError


class Masked(nn.Module):
    """The encoder looks at the mask to see whether it is causal."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x, mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]))


def test_a_mask_that_the_model_makes() -> None:
    torch.manual_seed(0)
    model = Masked().double()
    x, y = torch.randn(2, 5, 16, dtype=torch.float64), torch.randn(2, 5, 16, dtype=torch.float64)
    expected = torch.autograd.grad(nn.functional.mse_loss(model(x), y), list(model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=1.0))(x, y)
    for old, new, g in zip(before, model.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new, g, rtol=1e-9, atol=1e-12)


def test_decisions_on_constants_are_taken_at_capture() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        table = torch.empty(4).copy_(torch.arange(4)) * 2
        return x * table[2].item() if bool((table > 5).any()) else x

    x = torch.randn(3)
    assert torch.equal(mg.capture(f, x)(x), f(x)) and torch.equal(f(x), 4 * x)


@pytest.mark.parametrize("what", ["an argument", "a buffer", "random numbers", "a captured tensor", "unwritten"])
def test_what_may_be_different_next_time_is_refused(what: str) -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            looked = {"an argument": x, "a buffer": self.seen, "a captured tensor": outside}.get(what)
            looked = torch.empty(3) if what == "unwritten" else looked
            return x * 2 if (torch.rand(3) if looked is None else looked).sum() * torch.ones(()) > 0 else x

    outside = torch.ones(3)
    with pytest.raises(DataDependentError):
        mg.capture(Looks(), torch.randn(3))


def test_a_look_of_pytorch_at_its_own_number_of_samples():
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)

    def f(x):
        return (torch.corrcoef(torch.stack([x, x * x, x.exp()])) ** 2).sum()

    graph = mg.differentiate(mg.capture(f, x))
    leaf = (x * 2).requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(graph(x * 2)[1]["x"], expected)


def test_lengths_that_the_model_makes_for_a_packed_sequence():
    x = torch.rand(4, 6, 2, dtype=torch.float64, requires_grad=True)

    def f(x):
        lengths = torch.arange(len(x)) + 1
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return (packed.data**3).sum()

    (expected,) = torch.autograd.grad(f(x), x)
    torch.testing.assert_close(mg.grad(f)(x.detach()), expected)
