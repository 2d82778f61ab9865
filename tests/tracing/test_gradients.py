"""What a program does to ``.grad`` of what it was given is refused by name; its own tensors' is its own."""

import pytest
import torch
from torch import nn

import memograd as mg


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.a, self.run = nn.Linear(3, 2), run
        self.register_buffer("b", torch.ones(2))

    def forward(self, x):
        return self.run(self, x)


def backward(m, x):
    m.a(x).sum().backward()
    return m.a(x)


def backward_of_several(m, x):
    torch.autograd.backward([m.a(x).sum()])
    return m.a(x)


def assigned(m, x):
    m.a.weight.grad = torch.ones_like(m.a.weight)
    return m.a(x)


def assigned_to_a_buffer(m, x):
    m.b.grad = torch.ones(2)
    return m.a(x)


def left_on_the_argument(m, x):
    x.requires_grad_()
    (x**3).sum().backward()
    return m.a(x.detach())


LEAVE = [backward, backward_of_several, assigned, assigned_to_a_buffer, left_on_the_argument]


@pytest.mark.parametrize("way", ["step", "wrap"])
@pytest.mark.parametrize("run", LEAVE, ids=lambda f: f.__name__)
def test_gradients_that_a_program_leaves_are_refused_by_name(run, way):
    model, x = Program(run), torch.randn(4, 3)
    before = [p.detach().clone() for p in model.parameters()]
    f = model
    if way == "step":
        step = mg.TrainStep(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1))
        f = lambda x: step(x, torch.zeros(4, 2))  # noqa: E731
    else:
        mg.wrap(model)
    with pytest.raises(mg.CaptureError, match=r"leaves a gradient in .*\.grad"):
        f(x)
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(model.parameters(), before, strict=True))


def test_the_refusal_says_on_which_line():
    with pytest.raises(mg.CaptureError, match=r"a\.weight\.grad at .*test_gradients.py:\d+ \(m\.a\.weight\.grad = "):
        mg.wrap(Program(assigned))(torch.randn(4, 3))


def test_gradients_of_tensors_of_its_own_are_the_programs():
    def own(m, x):
        z = x.detach().clone().requires_grad_()
        (z**3).sum().backward()
        return m.a(x + z.grad)

    x = torch.randn(4, 3)
    model = Program(own)
    expected = model.a(x + 3 * x**2)
    torch.testing.assert_close(mg.wrap(model)(x), expected)
