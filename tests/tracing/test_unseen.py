"""What a tensor without data shows and is refused. Witness of what is shown: plain PyTorch."""

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
    "rounded": lambda y: f"{round(y.sum().item(), 3)}",
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


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nested": (lambda x: torch.nested.nested_tensor([x, x]).to_padded_tensor(0.0).sum(), "operators on dense tensors"),
    "compressed": (
        lambda x: x.sin().to_sparse_csr().to_dense().sum(),
        "layout torch.sparse_csr.*torch.sparse_coo_tensor",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_graph_takes_is_refused_with_what_to_do(name: str) -> None:
    f, words = REFUSED[name]
    with pytest.raises(mg.MemogradError, match=words):
        mg.grad(f)(torch.ones(2, 3))


def test_a_sparse_tensor_of_indices_and_values_has_gradients_by_the_values() -> None:
    values = torch.linspace(1, 2, 3, dtype=torch.float64)
    indices = torch.tensor([[0, 1, 1], [2, 0, 1]])
    ours = mg.grad(lambda v: torch.sparse_coo_tensor(indices, v.sin(), (2, 3)).to_dense().square().sum())(values)
    torch.testing.assert_close(ours, 2 * values.sin() * values.cos())
