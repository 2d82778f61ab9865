"""Objects of Python classes on top of ones that a library has written in C. Witness: the same model, not wrapped."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg

X = torch.tensor([[0.3, -1.2, 2.0], [0.1, 0.7, -0.4]])


class Model(nn.Module):
    def __init__(self, table: Any) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(3, 3), table

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * float(self.table.loc["b", "gain"])


def test_a_number_in_a_table_of_pandas_is_that_of_each_call() -> None:
    pandas = pytest.importorskip("pandas")
    theirs = Model(pandas.DataFrame({"gain": [1.0, 2.0, 3.0]}, index=list("abc")))
    ours: Any = mg.wrap(copy.deepcopy(theirs), check="never")
    for number in (2.0, 5.0, 7.0, 7.0):
        for model in (ours, theirs):
            model.table.at["b", "gain"] = number
        torch.testing.assert_close(ours(X), theirs(X))
    assert len(ours.forward.captures) == 3
