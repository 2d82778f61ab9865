"""Modules as people write them: state, shared parts and random numbers. Two steps of SGD against plain PyTorch."""

import pytest
import torch
from idioms.agreement import check_step
from torch import nn
from torch.nn import functional as F

Z = {"dtype": torch.float64}
X = torch.tensor([[0.3, -1.2, 2.0, 0.7], [1.1, 0.4, -0.6, -1.5], [-0.2, 0.9, 1.7, 0.5]], **Z)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("count", torch.tensor(0))


class RunningMean(Base):
    def forward(self, x):
        y = self.lin(x)
        self.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
        return ((y - self.mean) ** 2).mean()


class RunningMeanUnderNoGrad(Base):
    def forward(self, x):
        y = self.lin(x)
        with torch.no_grad():
            self.mean.lerp_(y.mean(0), 0.1)
            self.count += 1
        return (y / (1 + self.count)).tanh().sum() + (y * self.mean).sum()


class WritesAtTheCounter(Base):
    def forward(self, x):
        y = self.lin(x)
        self.mean[1:] = y.data[0, 1:]
        self.count.add_(2)
        return (y * self.mean).sum() / self.count


class ReplacesItsBuffer(Base):
    def forward(self, x):
        y = self.lin(x)
        self.mean.copy_(0.5 * self.mean + y.detach().amax(0))
        return (y.cumsum(0) * self.mean).mean()


class Tied(Base):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 4)
        self.out.weight = self.lin.weight

    def forward(self, x):
        return F.cross_entropy(self.out(self.lin(x).tanh()), torch.arange(3))


class OneLayerThreeTimes(Base):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([self.lin] * 3)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x).relu()
        return x.square().mean()


class Drops(Base):
    def forward(self, x):
        h = F.dropout(self.lin(x), 0.5, self.training)
        return (h + 0.1 * torch.randn_like(h)).square().mean()


class NormsAndStates(Base):
    def __init__(self):
        super().__init__()
        self.norm, self.cell = nn.BatchNorm1d(4), nn.GRUCell(4, 4)

    def forward(self, x):
        h, out = x.new_zeros(3, 4), torch.zeros(3, 4, 3)
        for k in range(3):
            h = self.cell(self.norm(self.lin(x)), h)
            out[:, :, k] = h
        return out.pow(2).sum()


class Cache(Base):
    def forward(self, x):
        keys = torch.zeros(3, 4)
        total = torch.tensor(0.0)
        for t, row in enumerate(x):
            keys[t] = self.lin(row)
            total += (keys[: t + 1].clone() @ row).softmax(0).log().sum()
        return total


class EarlyReturn(Base):
    def forward(self, x, labels=None):
        y = self.lin(x)
        if labels is None:
            return y.square().mean()
        return F.cross_entropy(y, labels)


MODULES = [RunningMean, RunningMeanUnderNoGrad, WritesAtTheCounter, ReplacesItsBuffer, Tied, OneLayerThreeTimes]
MODULES += [Drops, NormsAndStates, Cache, EarlyReturn]


@pytest.mark.parametrize("make", MODULES, ids=lambda m: m.__name__)
def test_modules(make):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        check_step(make(), X, steps=3)
    finally:
        torch.set_default_dtype(before)
