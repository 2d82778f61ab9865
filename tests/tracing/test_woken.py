"""``x.requires_grad_()`` in a program lasts: gradients are left there later, as in plain PyTorch."""

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64


class Energy(nn.Module):
    """``run(self, x)``, with a buffer and a plain tensor besides."""

    def __init__(self, run):
        super().__init__()
        self.linear, self.run = nn.Linear(3, 3, dtype=F64), run
        self.register_buffer("grid", torch.ones(3, dtype=F64))
        self.table = torch.ones(3, dtype=F64)

    def forward(self, x):
        return self.run(self, x)


def by_method(m, x):
    x.requires_grad_()
    return m.linear(x).square().sum()


def by_assignment(m, x):
    x.requires_grad = True
    return m.linear(x).square().sum()


def with_forces(m, x):
    x.requires_grad_()
    energy = m.linear(x).square().sum()
    (force,) = torch.autograd.grad(energy, x, create_graph=True)
    return energy + force.square().sum()


def used_before(m, x):
    h = m.linear(x).square().sum()
    x.requires_grad_()
    return h * x.square().sum()


def marked_last(m, x):
    h = m.linear(x).square().sum()
    x.requires_grad_()
    return h


def unless_marked(m, x):
    if not x.requires_grad:
        x.requires_grad_()
    return m.linear(x).square().sum()


def marked_on_a_branch(m, x):
    if m.linear(x).sum() > 0:
        x.requires_grad_()
    return m.linear(x).square().sum()


def on_what_it_holds(m, x):
    m.grid.requires_grad_()
    m.table.requires_grad_()
    return (m.linear(x) * m.grid * m.table).square().sum()


RUNS = [
    *(by_method, by_assignment, with_forces, used_before, marked_last, unless_marked, marked_on_a_branch),
    on_what_it_holds,
]


def _trained(run, wrapped, check):
    torch.manual_seed(0)
    model = Energy(run)
    if wrapped:
        mg.wrap(model, check=check)
    inputs = [torch.randn(2, 3, dtype=F64) for _ in range(3)]
    for x in (inputs[0], inputs[0], inputs[1], inputs[2]):
        model(x).backward()
    tensors = [*inputs, *model.parameters(), model.grid, model.table]
    return [(t.requires_grad, t.grad) for t in tensors]


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("run", RUNS, ids=lambda f: f.__name__)
def test_in_a_wrapped_model(run, check):
    for (marked, gradient), (expected_mark, expected) in zip(
        _trained(run, True, check), _trained(run, False, check), strict=True
    ):
        assert marked == expected_mark
        if expected is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("run", RUNS, ids=lambda f: f.__name__)
def test_in_a_step(run):
    def train(step_of):
        torch.manual_seed(0)
        model = Energy(run)
        step = step_of(model, torch.optim.SGD(model.parameters(), lr=0.01))
        inputs = [torch.randn(2, 3, dtype=F64) for _ in range(2)]
        losses = [float(step(x)) for x in (inputs[0], *inputs)]
        return losses, [t.requires_grad for t in (*inputs, model.grid, model.table)]

    def plain(model, optimizer):
        def step(x):
            optimizer.zero_grad()
            loss = model(x)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    losses, marks = train(lambda model, optimizer: mg.TrainStep(model, None, optimizer))
    expected, expected_marks = train(plain)
    assert losses == pytest.approx(expected)
    assert marks == expected_marks


@pytest.mark.parametrize("end", [lambda x: x.detach_(), lambda x: x.requires_grad_(False)])
def test_an_argument_that_is_detached_for_the_caller_too_is_refused(end):
    def run(m, x):
        end(x)
        return m.linear(x).square().sum()

    with pytest.raises(mg.CaptureError, match="argument"):
        mg.wrap(Energy(run))(torch.ones(2, 3, dtype=F64, requires_grad=True))
