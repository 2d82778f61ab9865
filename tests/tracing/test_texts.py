"""Texts of tensors that a program looks things up by, returns or leaves."""

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64
SCALES = {str(torch.tensor(k)): float(k) for k in (2, 3)}


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.weight, self.run = nn.Parameter(torch.ones(2, dtype=F64)), run

    def forward(self, n):
        return self.run(self.weight, n)


RUNS = [
    lambda w, n: w * SCALES.get(str(n), 1.0),
    lambda w, n: w * (2.0 if repr(n) == "tensor(3)" else 5.0),
]


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("run", RUNS)
def test_what_is_found_by_the_text_of_a_tensor_is_that_of_each_call(run, check):
    model, plain = mg.wrap(Program(run), check=check), Program(run)
    for k in (2, 3, 5, 2):
        n = torch.tensor(k)
        mine, theirs = (torch.autograd.grad(m(n).sum(), [m.weight])[0] for m in (model, plain))
        torch.testing.assert_close(mine, theirs)


def test_a_text_that_is_returned_is_that_of_each_call():
    model = mg.wrap(Program(lambda w, n: (w * n, str(n))))
    for k in (2, 3):
        text = model(torch.tensor(k))[1]
        assert (type(text), text) == (str, f"tensor({k})")


def test_a_text_cannot_be_left_behind():
    kept = []
    with pytest.raises(mg.CaptureError, match="leaves the text of a tensor"):
        mg.wrap(Program(lambda w, n: (kept.append(str(n)), w * n)[1]))(torch.tensor(2))
    assert not kept
