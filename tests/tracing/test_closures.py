"""What a program closes over."""

from __future__ import annotations

import torch
from torch import nn

import memograd as mg

inner = nn.Linear(2, 2)  # another one than that of the model


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def test_a_global_that_is_called_like_an_attribute_is_no_part_of_the_program() -> None:
    model = Outer()
    names = [i.name for i in mg.capture(model.forward, torch.ones(4, 3)).inputs]
    assert len(names) == 3


def test_a_global_that_the_program_reads_is() -> None:
    graph = mg.capture(lambda x: inner(x).sum(), torch.ones(4, 2))
    assert {"inner.weight", "inner.bias"} <= set(graph.parameters)
