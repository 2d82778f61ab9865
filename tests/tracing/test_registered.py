"""Hooks that the forward of a wrapped model registers on what it was given: they hear what PyTorch's hear, also from
the loop around the model, and stay with the tensor."""

import functools

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64


class Model(nn.Module):
    """``hook`` is called with the model, its argument and what it has computed."""

    def __init__(self, hook):
        super().__init__()
        self.linear, self.hook = nn.Linear(3, 3, dtype=F64), hook
        self.seen, self.handles, self.left = [], [], None

    def forward(self, x):
        y = self.linear(x).tanh()
        self.hook(self, x, y)
        return y


def double(gradient):
    return 2 * gradient


def changing(model, x, y):
    x.register_hook(double)


def looking(model, x, y):
    x.register_hook(lambda g: model.seen.append(float(g.norm())))


def keeping(model, x, y):
    x.register_hook(model.seen.append)


def writing(model, x, y):
    x.register_hook(lambda g: g.mul_(2))


def several(model, x, y):
    first, _ = x.register_hook(double), x.register_hook(lambda g: g + 1)
    x.register_hook(double)
    first.remove()


def removed(model, x, y):
    with x.register_hook(double):
        pass


def removing_itself(model, x, y):
    handles = []

    def once(gradient):
        handles[0].remove()
        return 2 * gradient

    handles.append(x.register_hook(once))


def of_results(model, x, y):
    z, total = y.detach(), y.detach().sum()

    def scaled(gradient, shift=total):
        return gradient * z + shift

    x.register_hook(scaled)
    x.register_hook(functools.partial(torch.mul, z))


def of_the_argument(model, x, y):
    x.register_hook(lambda g: g * x)


def counting_anew(model, x, y):
    count = 1

    def grow(gradient):
        nonlocal count
        count *= 3
        return count * gradient

    x.register_hook(grow)
    x.register_hook(lambda g: g + count)


def recursive(model, x, y):
    def times(gradient, n):
        return times(gradient * y.detach(), n - 1) if n else gradient

    x.register_hook(lambda g: times(g, 2))


def leaving_a_list(model, x, y):
    own = []
    x.register_hook(own.append)
    model.left = own
    model.seen.append(own)


def on_a_parameter(model, x, y):
    model.linear.weight.register_hook(double)


HOOKS = [changing, looking, keeping, writing, several, removed, removing_itself, of_results, of_the_argument]
HOOKS += [counting_anew, recursive, leaving_a_list, on_a_parameter]


def alone(model, x):
    return model(x).sum()


def elsewhere(model, x):
    return (model(x) * x).sum() + x.pow(3).sum()


def twice(model, x):
    y = 2 * x
    return model(y).sum() + model(y).square().sum()


def hooked_before(model, x):
    y = x.sin()
    y.register_hook(lambda g: g + 1)
    loss = (model(y) * y).sum()
    y.register_hook(torch.square)
    return loss


def of_a_view(model, x):
    y = x.exp()
    return model(y.t().contiguous().t()).sum() + model(y[:2]).sum() + y.sum()


def retained(model, x):
    y = 2 * x
    y.retain_grad()
    loss = (model(y) * y).sum()
    model.seen.append(y)
    return loss


USES = [alone, elsewhere, twice, hooked_before, of_a_view, retained]


def _run(wrapped, hook, use, calls=4):
    torch.manual_seed(0)
    model = wrapped(Model(hook))
    x, found = torch.randn(2, 3, dtype=F64, requires_grad=True), []
    for _ in range(calls):  # of the same tensor: hooks add up
        model.zero_grad()
        x.grad = None
        loss = use(model, x)
        loss.backward(retain_graph=True)
        loss.backward()
        found += [loss.detach(), x.grad, *[p.grad for p in model.parameters()]]
    kept = [s.grad if isinstance(s, torch.Tensor) and s.requires_grad else s for s in model.seen]
    return found, kept, len(x._backward_hooks or ())


@pytest.mark.one_in(3)
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("options", [{}, {"memory_budget": "1GiB"}], ids=["first", "budget"])
def test_hooks_on_arguments_hear_what_pytorchs_hear(options, hook, use):
    ours, theirs = (_run(w, hook, use) for w in (lambda m: mg.wrap(m, **options), lambda m: m))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def keep_the_handle(model, x, y):
    model.handles.append(x.register_hook(double))


@pytest.mark.parametrize("which", [0, 1])
def test_a_handle_that_is_left_removes_the_hook_of_its_call(which):
    def use(model, x):
        y = 2 * x
        loss = (model(y) * y).sum() + model(y).exp().sum()
        model.handles[which].remove()
        model.handles.clear()
        return loss

    ours, theirs = (_run(w, keep_the_handle, use) for w in (mg.wrap, lambda m: m))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


class Carrying(nn.Module):
    """Registers a hook on a state with a history, which it holds."""

    def __init__(self):
        super().__init__()
        self.linear, self.state = nn.Linear(3, 3, dtype=F64), None

    def forward(self, x):
        h = self.linear(x)
        if self.state is not None:
            self.state.register_hook(double)
            h = h * self.state
        self.state = h
        return h


def test_a_hook_on_a_state_hears_of_later_calls_too():
    found = []
    for wrapped in (mg.wrap, lambda m: m):
        torch.manual_seed(0)
        model, x = wrapped(Carrying()), torch.ones(2, 3, dtype=F64, requires_grad=True)
        loss = sum(model(x).square().sum() for _ in range(4))
        loss.backward()
        found.append([x.grad, *[p.grad for p in model.parameters()]])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


def test_second_derivatives_go_through_such_a_hook():
    def squared(model, x, y):
        x.register_hook(lambda g: g * g * y)

    found = []
    for wrapped in (mg.wrap, lambda m: m):
        torch.manual_seed(0)
        model, x = wrapped(Model(squared)), torch.randn(2, 3, dtype=F64, requires_grad=True)
        (gradient,) = torch.autograd.grad((model(x) * x).sum(), x, create_graph=True)
        gradient.square().sum().backward()
        found.append([gradient, x.grad, model.linear.weight.grad])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


def test_what_a_capture_and_a_comparison_register_is_gone():
    def raising(model, x, y):
        model.linear.weight.register_hook(double)
        if model.left:
            raise KeyError("the program's own")

    model, x = mg.wrap(Model(raising)), torch.ones(2, 3, dtype=F64)
    model(x).sum().backward()
    assert len(model.linear.weight._backward_hooks) == 1
    model.left = True
    with pytest.raises(KeyError):
        model(x)
    assert len(model.linear.weight._backward_hooks) == 2


def test_a_hook_on_an_argument_in_a_checkpoint_is_refused():
    class Checkpointed(Model):
        def forward(self, x):
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    with pytest.raises(mg.CaptureError, match="inside a checkpoint"):
        mg.wrap(Checkpointed(changing))(torch.ones(2, 3, dtype=F64, requires_grad=True))
