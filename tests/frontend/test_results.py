"""What a program cannot hand out."""

import pytest
import torch
from torch import nn

import memograd as mg


def test_a_buffer_that_gets_a_history_is_refused():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            self.total.add_(self.w * x)
            return self.total.sum()

    with pytest.raises(mg.CaptureError, match=r"writes to 'self.total' what depends on its parameters"):
        mg.wrap(Sums())(torch.ones(3))
