"""Hooks on tensors, and detach_, against torch.autograd."""

import copy

import pytest
import torch
from torch import nn

import memograd as mg

W = torch.linspace(-1, 1, 6, dtype=torch.float64)


def scaled(x):
    y = x * W
    y.register_hook(lambda g: g * 0.1)
    return y.tanh() + y


def registered_late(x):
    y = x * W
    z = y.sin()
    y.register_hook(lambda g: g.clamp(-0.3, 0.3))
    return z + y**2


def several(x):
    y = x * W
    y.register_hook(lambda g: g.clamp(-0.3, 0.3))
    y.register_hook(lambda g: g * 3 + 1)
    return y.sin()


def with_a_mask(x):
    y = x * W
    mask = torch.sigmoid(x)
    y.register_hook(lambda g: g * mask)
    return y**2


def with_itself(x):
    y = x * W
    y.register_hook(lambda g: g * y)
    return y**2


def removed(x):
    y = x * W
    y.register_hook(lambda g: g * 5).remove()
    return y.sin()


def doubling(g):
    g.mul_(2)


def in_place(x):
    y = x * W
    y.register_hook(doubling)
    return y.sin()


def before_a_write(x):
    y = x * W
    y.register_hook(lambda g: g * 2)
    y.mul_(3)
    y.register_hook(lambda g: g + 1)
    return y.sin()


def on_a_view(x):
    y = x * W
    v = y[:3]
    v.register_hook(lambda g: g * 2)
    return y * torch.cat([v, v])


def on_an_argument(x):
    x.register_hook(lambda g: g * 7)
    return x.sin()


def retained(x):
    y = x * W
    y.retain_grad()
    return y.sin()


def detached(x):
    y = x * 2
    y.detach_()
    return y * x


def detached_after_use(x):
    y = x * 2
    z = y + y[:1]
    y.detach_()
    return y * z


def detached_and_written(x):
    y = x * 2
    torch.detach_(y)
    y.mul_(x)
    return y * x


def detached_leaf(x):
    y = (x * 2).detach_().requires_grad_()
    (g,) = torch.autograd.grad((y**3 * x.detach()).sum(), y, create_graph=True)
    return g * x


PROGRAMS = [
    scaled,
    registered_late,
    several,
    with_a_mask,
    with_itself,
    removed,
    in_place,
    before_a_write,
    on_a_view,
    on_an_argument,
    retained,
    detached,
    detached_after_use,
    detached_and_written,
    detached_leaf,
]


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_what_autograd_does(f):
    torch.manual_seed(0)
    x, way = torch.randn(2, 6, dtype=torch.float64)
    start = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(start * 1).sum(), start, create_graph=True)
    second = None
    if first.requires_grad:
        (second,) = torch.autograd.grad((first * way).sum(), start, allow_unused=True)
    loss = lambda x: f(x * 1).sum()  # noqa: E731
    torch.testing.assert_close(mg.grad(loss)(x), first.detach(), rtol=1e-12, atol=1e-14)
    again = mg.grad(lambda x: (mg.grad(loss)(x) * way).sum())(x)
    if f not in (in_place,):  # autograd lets a hook write to a gradient once only
        second = torch.zeros_like(x) if second is None else second
        torch.testing.assert_close(again, second, rtol=1e-11, atol=1e-13)


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        h = self.first(x)
        h.register_hook(lambda g: g / (g.norm() + 1))
        return self.second(h)


def test_in_a_step():
    torch.manual_seed(0)
    theirs, ours = Hooked().double(), Hooked().double()
    ours.load_state_dict(theirs.state_dict())
    x, y = torch.randn(2, 4, 6, dtype=torch.float64)
    step = mg.TrainStep(ours, nn.MSELoss(), torch.optim.SGD(ours.parameters(), lr=0.5))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.5)
    for _ in range(3):
        step(x, y)
        optimizer.zero_grad()
        nn.MSELoss()(theirs(x), y).backward()
        optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def several_tensors(x):
    y = x * W
    torch.autograd.graph.register_multi_grad_hook([y], lambda gradients: None)
    return y


def on_a_node(x):
    y = x * W
    y.grad_fn.register_hook(lambda before, behind: None)
    return y


def in_front_of_a_node(x):
    y = x * W
    y.grad_fn.register_prehook(lambda behind: None)
    return y


def too_late(x):
    y = x * W
    mask = torch.sigmoid(y)
    y.register_hook(lambda g: g * mask)
    return y


def on_a_parameter(x):
    PARAMETER.register_hook(lambda g: g * 2)
    return x * PARAMETER


def on_accumulation(x):
    PARAMETER.register_post_accumulate_grad_hook(lambda p: None)
    return x * PARAMETER


PARAMETER = nn.Parameter(torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (several_tensors, "register_multi_grad_hook"),
        (on_a_node, r"test_histories\.py:\d+ .*hook on a node of autograd's graph"),
        (in_front_of_a_node, "hook on a node of autograd's graph"),
        (too_late, "used before what the hook reads"),
        (on_a_parameter, "one more hook on a parameter each time"),
        (on_accumulation, r"hook on a gradient in \.grad"),
    ],
)
def test_what_a_graph_cannot_do_is_refused_by_name(f, why):
    with pytest.raises(mg.MemogradError, match=why):
        mg.grad(lambda x: f(x).sum())(torch.ones(6, dtype=torch.float64))
    assert not PARAMETER._backward_hooks


class Keeping(nn.Module):
    """Keeps the gradients of a hidden value, as saliency maps and logs do; the second hook also counts."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.kept, self.latest, self.count = [], None, 0

    def keep(self, gradient):
        self.kept.append(gradient)
        self.latest = gradient

    def scale(self, gradient):
        self.count += 1
        return gradient * 2

    def forward(self, x):
        h = self.first(x).tanh()
        h.register_hook(self.keep)
        h.register_hook(self.scale)
        return self.last(h).square().mean()


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("way", ["wrap", "step"])
def test_hooks_that_keep_gradients_are_called_once_a_run(way, check):
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.manual_seed(0)
    ours = Keeping().double()
    theirs = copy.deepcopy(ours)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    step = mg.TrainStep(ours, None, optimizers[0], check=check) if way == "step" else mg.wrap(ours, check=check)
    for _ in range(3):
        optimizers[1].zero_grad()
        theirs(x).backward()
        optimizers[1].step()
        if way == "wrap":
            optimizers[0].zero_grad()
            step(x).backward()
            optimizers[0].step()
        else:
            step(x)
    torch.testing.assert_close(ours.kept, theirs.kept, rtol=1e-9, atol=1e-12)
    assert ours.count == theirs.count == 3 and ours.latest is ours.kept[-1]
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-9, atol=1e-12)
    captures = step.captures if way == "step" else ours.forward.captures
    assert len(captures) == 1, captures


def test_a_removed_hook_on_a_module_is_not_run():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    plain = mg.grad(lambda x: model(x).sum())(x)
    model[1].register_full_backward_hook(lambda module, before, behind: (before[0] * 2,)).remove()
    assert torch.equal(mg.grad(lambda x: model(x).sum())(x), plain)


def fixed_point(w, x):
    """A deep equilibrium model: the hook solves for the gradient, with the history of one more iteration."""
    with torch.no_grad():
        z = torch.zeros_like(x)
        for _ in range(20):
            z = torch.tanh(z @ w + x)
    z = torch.tanh(z @ w + x)
    start = z.clone().detach().requires_grad_()
    after = torch.tanh(start @ w + x)

    def solve(g):
        y = g
        for _ in range(20):
            y = torch.autograd.grad(after, start, y, retain_graph=True)[0] + g
        return y

    z.register_hook(solve)
    return z.square().sum()


def test_a_hook_that_takes_a_gradient_of_what_came_of_its_tensor():
    torch.manual_seed(0)
    w, x = torch.randn(3, 3, dtype=torch.float64) * 0.1, torch.randn(4, 3, dtype=torch.float64)
    ours = mg.grad(fixed_point, argnums=(0, 1))(w, x)
    w.requires_grad_(), x.requires_grad_()
    torch.testing.assert_close(ours, torch.autograd.grad(fixed_point(w, x), (w, x)))
