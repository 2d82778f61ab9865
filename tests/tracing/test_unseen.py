"""What is shown of a tensor while a graph is made. Witness: what plain PyTorch shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import memograd as mg

Tensor = torch.Tensor


class Telling(nn.Module):
    def __init__(self, tell: Callable[[Tensor], str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.tell, self.told = nn.Linear(3, 2), tell, []

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        print(self.tell(y))
        return y


TENSORS: dict[str, Callable[[Tensor], str]] = {
    "str": str,
    "in a list": lambda y: str([y]),
    "of a number": lambda y: str(y.sum()),
    "formatted": lambda y: f"{y}",
}
NUMBERS: dict[str, Callable[[Tensor], str]] = {
    "formatted": lambda y: f"{y.sum()}",
    "with digits": lambda y: f"{y.sum():.3f}",
    "by %": lambda y: "%.3f" % y.sum().detach(),
}


@pytest.mark.parametrize("how", TENSORS)
def test_a_tensor_without_values_says_so(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = mg.wrap(Telling(TENSORS[how]), check="never")
    for _ in range(2):
        model(torch.ones(4, 3))
    (line,) = capsys.readouterr().out.splitlines()  # a call of what was captured prints nothing
    assert "no values yet" in line and "torch.float32" in line and "Fake" not in line


@pytest.mark.parametrize("how", NUMBERS)
def test_a_number_that_is_printed_is_that_of_the_call(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain, model = Telling(NUMBERS[how]), mg.wrap(Telling(NUMBERS[how]), check="never")
    printed = []
    for one in (plain, model):
        for k in range(3):
            one(torch.full((4, 3), float(k)))
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
