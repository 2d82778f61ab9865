"""Operators that return nothing and raise are in the graph."""

import pytest
import torch
from torch import nn

import memograd as mg

SINGULAR = torch.zeros(3, 3, dtype=torch.float64)
CHECKED = {
    "inv": torch.linalg.inv,
    "solve": lambda x: torch.linalg.solve(x, torch.ones(3, dtype=x.dtype)),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.T),
    "assert": lambda x: (torch._assert_async((x.diagonal() > 0.5).all()), x)[1],
}


@pytest.mark.parametrize("name", CHECKED)
def test_operators_that_only_raise_stay_checks(name):
    """A graph raises PyTorch's error where PyTorch does, and a step has written nothing then."""
    operator = CHECKED[name]
    with pytest.raises(RuntimeError) as expected:
        operator(SINGULAR)
    gradient = mg.grad(lambda x: operator(x).sum())
    regular = torch.eye(3, dtype=torch.float64) * 2
    assert torch.isfinite(gradient(regular)).all()
    with pytest.raises(RuntimeError) as ours:
        gradient(SINGULAR)
    assert str(ours.value) == str(expected.value)


@pytest.mark.parametrize("budget", [None, "100%"])
def test_a_step_that_fails_a_check_has_written_nothing(budget):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
            self.norm = nn.BatchNorm1d(3).double()

        def forward(self, x):
            return (torch.linalg.inv(x) @ self.norm(self.weight)).sum()

    model = Model()
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), memory_budget=budget)
    step(torch.eye(3, dtype=torch.float64) * 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(torch.linalg.LinAlgError):
        step(SINGULAR)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
