"""Activation checkpointing and saved_tensors_hooks, against PyTorch with the same seed."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import memograd as mg


class Network(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 6)
        self.reentrant = reentrant

    def part(self, x):
        return dropout(self.second(torch.tanh(self.first(dropout(x, 0.3)))), 0.4)

    def forward(self, x):
        h = self.second(self.first(x))
        h = checkpoint(self.part, h, use_reentrant=self.reentrant)
        return checkpoint(self.part, dropout(h, 0.2), use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_draws_and_gradients_are_those_of_pytorch(reentrant):
    torch.manual_seed(0)
    theirs, ours = Network(reentrant).double(), Network(reentrant).double()
    ours.load_state_dict(theirs.state_dict())
    x, y = torch.randn(2, 4, 6, dtype=torch.float64)
    torch.manual_seed(1)
    step = mg.TrainStep(ours, nn.MSELoss(), torch.optim.SGD(ours.parameters(), lr=0.1))
    losses = [step(x, y).clone() for _ in range(3)]
    after = torch.rand(2)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for loss in losses:
        optimizer.zero_grad()
        value = nn.MSELoss()(theirs(x), y)
        value.backward()
        optimizer.step()
        torch.testing.assert_close(loss, value.detach(), rtol=1e-12, atol=0)
    assert torch.equal(after, torch.rand(2))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


class OnFrozen(nn.Module):
    """As adapters are trained: what comes out of frozen layers is told to require a gradient, so that checkpoints with
    reentry run at all. No parameter lies in front of these."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.first, self.second = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        h = self.frozen(x).requires_grad_()
        h = checkpoint(self.first, h, use_reentrant=True)
        return self.last(checkpoint(self.second, h, use_reentrant=True))


class OnTheBatch(OnFrozen):
    def forward(self, x):
        return self.last(checkpoint(self.first, x.requires_grad_(), use_reentrant=True))


@pytest.mark.parametrize("kind", [OnFrozen, OnTheBatch])
@pytest.mark.parametrize("way", ["step", "wrap"])
def test_checkpoints_with_reentry_that_no_parameter_lies_in_front_of(kind, way):
    torch.manual_seed(0)
    theirs = kind().double()
    ours = copy.deepcopy(theirs)
    if way == "wrap":
        mg.wrap(ours)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    losses = []
    for model in (theirs, ours):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        step = mg.TrainStep(model, nn.MSELoss(), optimizer) if model is ours and way == "step" else None
        for _ in range(3):
            optimizer.zero_grad()
            if step is not None:
                losses.append(step(x.clone(), y).item())
                continue
            loss = nn.MSELoss()(model(x.clone()), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    torch.testing.assert_close(losses[3:], losses[:3])
    torch.testing.assert_close([*ours.parameters()], [*theirs.parameters()])


class Normed(nn.Module):
    """BatchNorm inside checkpoints, one in another, one block twice."""

    def __init__(self, reentrant):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Tanh()) for _ in range(2)]
        )
        self.reentrant = reentrant

    def inner(self, x):
        return self.blocks[1](self.part(self.blocks[0], x))

    def part(self, part, x):
        return checkpoint(part, x, use_reentrant=self.reentrant)

    def forward(self, x):
        x = self.first(x)
        x = self.part(self.blocks[0], x) if self.reentrant else self.part(self.inner, x)
        return self.last(self.part(self.blocks[1], x))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("way", ["step", "wrap"])
def test_what_a_checkpoint_writes_is_written_again_in_the_backward_pass(reentrant, way):
    torch.manual_seed(0)
    theirs, ours = Normed(reentrant).double(), Normed(reentrant).double()
    ours.load_state_dict(theirs.state_dict())
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    step = mg.TrainStep(ours, nn.MSELoss(), torch.optim.SGD(ours.parameters(), lr=0.1)) if way == "step" else None
    ours = ours if way == "step" else mg.wrap(ours)
    for model in (ours, theirs):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            if model is ours and step is not None:
                step(x, y)
                continue
            optimizer.zero_grad()
            nn.MSELoss()(model(x), y).backward()
            optimizer.step()
    for (name, p), q in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


class Counted(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.way = way
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("count", torch.zeros(()))

    def early(self, x):
        self.count += 1
        return (x * self.weight).sin()

    def late(self, x):
        x = (x * self.weight).sin()
        self.count += 1
        return x + 1

    def first_within(self, x):
        return checkpoint(self.early, x, use_reentrant=False).sin()

    def last_within(self, x):
        return checkpoint(self.early, x.sin(), use_reentrant=False)

    def forward(self, x):
        return checkpoint(getattr(self, self.way), x, use_reentrant=False).sum()


@pytest.mark.parametrize("way", ["early", "late", "first_within", "last_within"])
def test_writes_where_the_backward_pass_has_stopped_are_refused(way):
    theirs, ours, x = Counted(way), Counted(way), torch.randn(2, 3)
    theirs(x).backward()
    if way in ("late", "last_within"):
        with pytest.raises(mg.CaptureError, match="writes to a buffer behind the last operator"):
            mg.wrap(ours)(x)
    else:
        mg.wrap(ours)(x).backward()
        assert ours.count == theirs.count


def test_a_gradient_inside_the_program_draws_nothing_again():
    """Autograd computes the checkpointed part anew; the dropout in it has been drawn."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 6).double()
    x = torch.randn(4, 6, dtype=torch.float64)

    def f(x):
        y = checkpoint(lambda x: dropout(layer(x).sin(), 0.5), x, use_reentrant=False)
        (g,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
        return (g**2).sum() + torch.rand((), dtype=torch.float64)

    leaf = x.clone().requires_grad_()
    torch.manual_seed(2)
    value = f(leaf)
    (theirs,) = torch.autograd.grad(value, leaf)
    torch.manual_seed(2)
    ours, gradient = mg.value_and_grad(f)(x)[0], None
    torch.manual_seed(2)
    gradient = mg.grad(f)(x)
    torch.testing.assert_close(ours, value.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, theirs, rtol=1e-11, atol=1e-13)


def test_second_order():
    x = torch.randn(5, dtype=torch.float64)
    plain = lambda x: (x.sin() * x).sum()  # noqa: E731
    for reentrant in (True, False):
        f = lambda x: checkpoint(plain, x, use_reentrant=reentrant)  # noqa: B023, E731
        torch.testing.assert_close(mg.hessian(f)(x), torch.func.hessian(plain)(x), rtol=1e-12, atol=1e-14)


def test_without_an_argument_that_requires_a_gradient_nothing_inside_gets_one():
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    f = lambda x: (checkpoint(model[0], x, use_reentrant=True) + model[1](x)).sum()  # noqa: E731
    x = torch.randn(2, 3)
    with pytest.warns(UserWarning, match="None of the inputs"):
        f(x).backward()
    assert model[0].weight.grad is None
    graph = mg.pipeline.capture_for(f, (x,), {}, wrt=())
    joint = mg.differentiate(graph)
    gradients = joint(x)[1]
    assert gradients["model.0.weight"] is None
    torch.testing.assert_close(gradients["model.1.weight"], model[1].weight.grad)


def test_a_sequence_of_checkpoints():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 1)).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    f = lambda x: checkpoint_sequential(model, 2, x, use_reentrant=True).sum()  # noqa: E731
    torch.testing.assert_close(mg.grad(f)(x), torch.func.grad(lambda x: model(x).sum())(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_other_draws_in_the_backward_pass_are_refused(reentrant):
    f = lambda x: checkpoint(dropout, x, use_reentrant=reentrant, preserve_rng_state=False).sum()  # noqa: E731
    with pytest.raises(mg.CaptureError, match=r"random numbers inside a checkpoint.*preserve_rng_state=False"):
        mg.grad(f)(torch.randn(3))


def test_nothing_drawn_needs_no_state_of_the_generator():
    f = lambda x: checkpoint(torch.sin, x, use_reentrant=False, preserve_rng_state=False).sum()  # noqa: E731
    x = torch.randn(3)
    torch.testing.assert_close(mg.grad(f)(x), x.cos())


def half(tensor):
    return tensor.to(torch.float16)


def wide(tensor):
    return tensor.to(torch.float64)


@pytest.mark.parametrize(
    "hooks",
    [
        save_on_cpu,
        lambda: saved_tensors_hooks(lambda t: t, lambda t: t),
        lambda: saved_tensors_hooks(lambda t: [t.detach()], lambda packed: packed[0]),
        lambda: saved_tensors_hooks(lambda t: t.clone(), lambda t: t),
    ],
)
def test_hooks_that_give_back_what_they_got_make_no_difference(hooks):
    def f(x):
        with hooks():
            y = x.tanh() * x
        (g,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
        return (g * x).sum()

    x = torch.randn(5, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    ours = mg.differentiate(mg.capture(f, x))(x)[1]["x"]
    torch.testing.assert_close(ours, torch.autograd.grad(f(leaf), leaf)[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pack", [half, lambda t: t.detach().numpy(), lambda t: t + 1])
def test_hooks_that_give_back_another_tensor_are_refused(pack):
    def f(x):
        with saved_tensors_hooks(pack, lambda t: wide(torch.as_tensor(t))):
            return (x.tanh() * x).sum()

    with pytest.raises(mg.CaptureError, match=r"saved_tensors_hooks at .*test_checkpoints\.py:\d+"):
        mg.capture(f, torch.randn(3, dtype=torch.float64))


def test_hooks_outside_a_capture_are_as_ever():
    seen = []
    f = lambda x: (x.tanh() * x).sum()  # noqa: E731
    mg.grad(f)(torch.randn(3))
    with saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        f(torch.randn(3, requires_grad=True)).backward()
    assert seen
