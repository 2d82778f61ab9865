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


def forgotten(m, x):
    for p in m.parameters():
        p.grad = None
    return m.a(x)


def forgotten_by_deletion(m, x):
    del m.a.weight.grad
    return m.a(x)


def forgotten_and_asked(m, x):
    m.a.weight.grad = None
    return m.a(x) * (2 if m.a.weight.grad is None else 1)


def forgotten_of_the_argument(m, x):
    x.grad = None
    return m.a(x)


FORGET = [forgotten, forgotten_by_deletion, forgotten_and_asked, forgotten_of_the_argument]


@pytest.mark.parametrize("run", FORGET, ids=lambda f: f.__name__)
def test_a_gradient_that_the_program_sets_to_none_is_forgotten_at_each_call(run):
    def gradients(wrapped):
        torch.manual_seed(0)
        model, x = Program(run).double(), torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
        if wrapped:
            mg.wrap(model)
        for _ in range(3):
            model(x).square().sum().backward()
        return [t.grad for t in (*model.parameters(), x)]

    torch.testing.assert_close(gradients(wrapped=True), gradients(wrapped=False))


def test_a_step_that_adds_gradients_up_refuses_to_forget_them():
    model = Program(forgotten)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = mg.TrainStep(model, nn.functional.mse_loss, optimizer, accumulate=2)
    with pytest.raises(mg.CaptureError, match=r"sets model\.a\.weight\.grad to None"):
        step(torch.randn(4, 3), torch.zeros(4, 2))


def backward_on_an_argument(m, x):
    (x**3).sum().backward()
    return m.a(x)


def backward_for_an_argument(m, x):
    torch.autograd.backward([(x**3).sum()], inputs=[x])
    return m.a(x)


def kept_and_retained(m, x):
    m.h = m.a(x)
    m.h.retain_grad()
    return m.h


def returned_and_retained(m, x):
    h = m.a(x)
    h.retain_grad()
    return {"loss": h.square().sum(), "h": h}


def retained_of_an_argument(m, x):
    x.retain_grad()
    return m.a(x)


OF_HISTORIES = [
    *(backward_on_an_argument, backward_for_an_argument, kept_and_retained, returned_and_retained),
    retained_of_an_argument,
]


@pytest.mark.parametrize("run", OF_HISTORIES, ids=lambda f: f.__name__)
def test_gradients_of_what_has_a_history_are_refused_by_name(run):
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(mg.CaptureError, match=r"test_gradients.py:\d+ \(.*\.grad"):
        mg.wrap(Program(run))(x * 2)
    assert x.grad is None


def test_what_is_retained_and_read_by_the_program_alone_is_its_own():
    def run(m, x):
        h = x.detach().requires_grad_() * 2
        h.retain_grad()
        (h**2).sum().backward()
        return m.a(x + h.grad)

    x = torch.randn(4, 3)
    model = Program(run)
    expected = model.a(x + 4 * x)
    torch.testing.assert_close(mg.wrap(model)(x), expected)


def test_to_retain_the_gradient_of_a_leaf_changes_nothing():
    x = torch.randn(4, 3, requires_grad=True)
    mg.wrap(Program(retained_of_an_argument))(x).sum().backward()
    assert x.grad is not None
