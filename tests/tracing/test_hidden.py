"""Tensors of a capture are found in what a program leaves, however much else is there."""

import pytest
import torch
from torch import nn

import memograd as mg
from memograd.tracing import hidden


class Leaves(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.linear, self.count, self.items = nn.Linear(3, 2), count, None

    def forward(self, x):
        h = self.linear(x)
        self.items = iter([*([] for _ in range(self.count)), [h]])
        return h


def test_behind_many_objects():
    with pytest.raises(mg.CaptureError, match="leaves a tensor in"):
        mg.wrap(Leaves(20_000))(torch.ones(2, 3))


def test_it_is_said_where_there_are_too_many_to_look_at(monkeypatch):
    monkeypatch.setattr(hidden, "_MOST", 100)
    with pytest.warns(UserWarning, match="more than 100 objects"):
        mg.wrap(Leaves(200))(torch.ones(2, 3))
