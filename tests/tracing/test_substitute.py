"""Stand-ins are used in place of the user's tensors, which stay where they are; the witness is torch.autograd."""

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64
X = torch.linspace(-1.0, 1.0, 12, dtype=F64).reshape(3, 4)


class Net(nn.Module):
    """Reaches its tensors in every way a program has: attributes, lists, closures, buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("scale", torch.full((4,), 2.0))
        self.plain = torch.linspace(0.0, 1.0, 4, dtype=F64)
        self.held = [self.linear.weight, (self.linear.bias,)]
        self.double()
        self.expected = list(self.parameters())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert all(p is q for p, q in zip(self.parameters(), self.expected, strict=True))
        y = nn.functional.linear(x, self.held[0] * 2, *self.held[1]) * self.scale * self.plain
        y = torch.cat([y, torch.stack((self.plain, self.scale)), self.linear.weight.T]) @ self.linear.weight[:, :2]
        return y.pow(2).sum() + sum(p.abs().sum() for p in self.parameters())


def test_programs_see_their_own_objects() -> None:
    net = Net()
    joint = mg.differentiate(mg.capture(net, X))
    value, ours = joint(X)
    loss = net(X)
    loss.backward()
    torch.testing.assert_close(value, loss.detach())
    assert set(ours) == {"linear.weight", "linear.bias"}
    torch.testing.assert_close(ours["linear.weight"], net.linear.weight.grad)
    torch.testing.assert_close(ours["linear.bias"], net.linear.bias.grad)


def test_nothing_of_the_users_is_written_to_or_given_a_history() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
    table = torch.zeros(4, dtype=F64)

    def f(x: torch.Tensor) -> torch.Tensor:
        table.add_(1).requires_grad_()
        net[0].weight.requires_grad_(False)
        net[0].bias.grad = None
        return (net(x) * table).sum()

    net[0].bias.grad = torch.ones(4, dtype=F64)
    versions = [t._version for t in (*net.parameters(), *net.buffers(), table)]
    mg.capture(f, X)
    assert [t._version for t in (*net.parameters(), *net.buffers(), table)] == versions
    assert net[0].weight.requires_grad and net[0].bias.grad is not None and not table.requires_grad
    assert not table.any() and net[1].num_batches_tracked == 0


@pytest.mark.parametrize("look", [lambda t: t.tolist(), lambda t: t.numpy(), float])
def test_the_numbers_of_a_buffer_are_not_taken_at_capture(look) -> None:
    net = nn.Module()
    net.register_buffer("scale", torch.ones(()))
    net.forward = lambda x: x * look(net.scale)
    with pytest.raises(mg.CaptureError):
        mg.capture(net, X)


def test_gradients_taken_inside_a_program_reach_its_parameters() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def f(x: torch.Tensor) -> torch.Tensor:
        inner = torch.autograd.grad(net(x).sum(), list(net.parameters()), create_graph=True)
        return sum(g.pow(2).sum() for g in inner)

    _, ours = mg.differentiate(mg.capture(f, X))(X)
    theirs = torch.autograd.grad(f(X), list(net.parameters()), allow_unused=True)
    for mine, autograd in zip(ours.values(), [*theirs, None], strict=False):
        torch.testing.assert_close(mine, autograd)


def test_torch_vmap_inside_a_program() -> None:
    w = torch.randn(4, dtype=F64, requires_grad=True)
    f = lambda x: torch.vmap(lambda row: (row * w).sin().sum())(x).pow(2).sum()  # noqa: E731
    _, ours = mg.differentiate(mg.capture(f, X))(X)
    torch.testing.assert_close(ours["w"], torch.autograd.grad(f(X), w)[0])


class Moves(nn.Module):
    """Moves its parts to where its input is, as mixtures of experts over processes do."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4)]).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part.to(x.device)(x).tanh()
        weight = self.parts[0].weight
        assert weight.to(x.dtype) is weight and weight.contiguous() is weight
        return x.square().sum()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_module_that_is_moved_to_where_it_is_stays_the_same(wrapped) -> None:
    torch.manual_seed(0)
    ours, theirs = Moves(), Moves()
    theirs.load_state_dict(ours.state_dict())
    parameters = list(ours.parameters())
    theirs(X).backward()
    if wrapped:
        mg.wrap(ours, backend="eager")(X).backward()
        for p, q in zip(parameters, theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
    else:
        optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
        mg.TrainStep(ours, None, optimizer, backend="eager")(X)
        torch.optim.SGD(theirs.parameters(), lr=0.1).step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert all(p is q for p, q in zip(parameters, ours.parameters(), strict=True))
