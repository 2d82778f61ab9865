"""What PyTorch makes past its dispatcher out of a program's tensor is that tensor, not a constant of the first call."""

import pytest
import torch
from idioms.agreement import check_function
from torch import nn, optim

import memograd as mg

X = torch.linspace(-1, 2, 9, dtype=torch.float64).view(3, 3).sin()
NAMES = {
    "Parameter": nn.Parameter,
    "Buffer": nn.Buffer,
    "_make_subclass": lambda y: torch.Tensor._make_subclass(torch.Tensor, y),
    "as_subclass": lambda y: y.as_subclass(torch.Tensor),
    "from_numpy": lambda y: torch.from_numpy(y.detach().numpy()),
    "as_tensor": torch.as_tensor,
}


class Looks(nn.Module):
    def __init__(self, name, looks=True):
        super().__init__()
        self.w, self.name, self.looks = nn.Parameter(X.clone()), name, looks

    def forward(self, x):
        y = x * self.w
        if self.looks and y.sum() > 1e9:
            y = y * 2
        return (self.name(y) * y).sum()


@pytest.mark.parametrize("name", NAMES)
def test_steps_on_other_batches_see_other_values(name):
    batches = [X * k for k in (1, -2, 3)]
    ours, theirs = Looks(NAMES[name]), Looks(NAMES[name])
    plain = optim.SGD(theirs.parameters(), lr=0.1)
    step = mg.TrainStep(ours, None, optim.SGD(ours.parameters(), lr=0.1), backend="eager")
    for x in batches:
        plain.zero_grad()
        loss = theirs(x)
        loss.backward()
        plain.step()
        torch.testing.assert_close(step(x), loss.detach())
    torch.testing.assert_close(ours.w, theirs.w)


def test_a_plain_subclass_keeps_its_history():
    def f(x):
        y = x * 1
        if y.sum() > 1e9:
            y = y * 2
        return (y.as_subclass(torch.Tensor).sin() * X).sum()

    check_function(f, [X])
