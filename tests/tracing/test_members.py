"""Attributes of members of an ``Enum``, and how decimal numbers are computed: read, written and left as in PyTorch."""

import decimal
import enum

import pytest
import torch
from torch import nn

import memograd as mg


class Kind(enum.Enum):
    A = 1
    B = 2


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.linear, self.run = nn.Linear(3, 1, dtype=torch.float64), run

    def forward(self, x):
        return self.linear(x).mean() * self.run()


def counted():
    Kind.A.calls = getattr(Kind.A, "calls", 0) + 1
    return Kind.A.calls


def written():
    Kind.B.seen = True
    return 2.0


def thirds():
    return float(decimal.Decimal(1) / decimal.Decimal(3))


def more_digits():
    decimal.getcontext().prec += 1
    return thirds()


def _seen(run, way):
    torch.manual_seed(0)
    vars(Kind.A).pop("calls", None)
    vars(Kind.B).pop("seen", None)
    model = Program(run)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = mg.TrainStep(model, None, optimizer) if way == "step" else None
    if way == "wrap":
        mg.wrap(model)
    seen = []
    with decimal.localcontext() as context:
        for k, digits in enumerate((2, 3, 3, 5)):
            context.prec = digits + (context.prec if run is more_digits else 0)
            x = torch.full((2, 3), 1.0 + k, dtype=torch.float64)
            optimizer.zero_grad()
            loss = model(x) if step is None else step(x)
            if step is None:
                loss.backward()
                optimizer.step()
            left = getattr(Kind.A, "calls", 0), getattr(Kind.B, "seen", False), decimal.getcontext().prec
            seen += [float(loss.detach()), *left]
    return seen


@pytest.mark.parametrize("way", ["step", "wrap"])
@pytest.mark.parametrize("run", [counted, written, thirds, more_digits], ids=lambda f: f.__name__)
def test_as_in_pytorch(run, way):
    assert _seen(run, way) == pytest.approx(_seen(run, ""))
