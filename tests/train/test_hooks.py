"""Hooks under a training step: those on parameters run as PyTorch runs them, those on modules are traced or called."""

import pytest
import torch
from torch import nn, optim
from torch.nn.modules import module as every_module

import memograd as mg

SEEDED = torch.Generator().manual_seed(0)
X, Y = (
    torch.randn(8, 3, dtype=torch.float64, generator=SEEDED),
    torch.randn(8, 1, dtype=torch.float64, generator=SEEDED),
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def trained(register, ours, first=0, kind=optim.SGD):
    """What three steps leave; ``register(model, seen)`` is called before step ``first``, ``seen`` is for its hooks."""
    model, seen = network(), []
    optimizer = kind(model[2].parameters(), lr=0.1)
    step = mg.TrainStep(model, nn.MSELoss(), optimizer)
    for k in range(3):
        if k == first:
            register(model, seen)
        if ours:
            step(X, Y)
        else:
            optimizer.zero_grad()
            nn.MSELoss()(model(X), Y).backward()
            optimizer.step()
    return model, seen


def scales(model, _):
    model[2].weight.register_hook(lambda g: g * 0.5)
    model[2].weight.register_hook(lambda g: g + 1)


def looks(model, seen):
    for p in model.parameters():  # those of the first layer are in no optimizer
        p.register_hook(lambda g: seen.append(g.clone()))


def updates(model, seen):
    def update(p):
        seen.append(p.grad.clone())
        with torch.no_grad():
            p -= 0.01 * p.grad
        p.grad = None

    for p in model[2].parameters():
        p.register_post_accumulate_grad_hook(update)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.RMSprop])
@pytest.mark.parametrize("register", [scales, looks, updates])
def test_hooks_on_parameters_run_at_every_step(register, kind, first):
    (ours, seen), (theirs, expected) = trained(register, True, first, kind), trained(register, False, first, kind)
    assert len(seen) == len(expected)
    for a, b in zip([*ours.parameters(), *seen], [*theirs.parameters(), *expected], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_without_hooks_the_update_is_in_the_graph_again():
    model = network()
    handle = model[0].weight.register_hook(lambda g: g * 0)
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    before = model[0].weight.clone()
    step(X, Y)
    assert torch.equal(before, model[0].weight)
    handle.remove()
    step(X, Y)
    assert not torch.equal(before, model[0].weight)
    assert not step.graph.positions("gradient")


def doubles(model, _):
    model[0].register_forward_hook(lambda module, args, out: out * 2)
    model[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))


@pytest.mark.parametrize("first", [0, 1])
def test_forward_hooks_are_part_of_the_step(first):
    (ours, _), (theirs, _) = trained(doubles, True, first), trained(doubles, False, first)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_forward_hook_for_every_module_is_noticed():
    model = network()
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.0))
    plain = step(X, Y).clone()
    handle = every_module.register_module_forward_hook(lambda m, args, out: out * 2 if m is model else None)
    try:
        torch.testing.assert_close(step(X, Y), nn.MSELoss()(model(X), Y).detach(), rtol=1e-9, atol=0)
    finally:
        handle.remove()
    assert torch.equal(step(X, Y), plain)


def bounds(module, before, behind):
    return (before[0].clamp(-0.01, 0.01),)


BACKWARD_HOOKS = {
    "full": lambda m: m[2].register_full_backward_hook(lambda _, before, behind: (before[0] * 3 + behind[0].sum(),)),
    "pre": lambda m: m[1].register_full_backward_pre_hook(lambda module, behind: (behind[0] * 0.5,)),
    "several": lambda m: (
        m[1].register_full_backward_pre_hook(lambda module, behind: (behind[0] * 2,)),
        m[1].register_full_backward_hook(bounds),
        m[1].register_full_backward_hook(lambda module, before, behind: (before[0] * behind[0].norm(),)),
    ),
    "of the whole model": lambda m: m.register_full_backward_pre_hook(lambda module, behind: (behind[0] * 7,)),
}


@pytest.mark.parametrize("name", BACKWARD_HOOKS)
@pytest.mark.parametrize("first", [0, 1])
def test_backward_hooks_of_modules_change_gradients_as_in_pytorch(name, first):
    def register(model, _):
        BACKWARD_HOOKS[name](model)

    ours, theirs = everything_trained(register, True, first), everything_trained(register, False, first)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def everything_trained(register, ours, first):
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = mg.TrainStep(model, nn.MSELoss(), optimizer)
    for k in range(3):
        if k == first:
            register(model, None)
        if ours:
            step(X, Y)
        else:
            optimizer.zero_grad()
            nn.MSELoss()(model(X), Y).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_of_modules_that_only_look_see_each_gradient(register):
    def keeps(seen):
        return lambda model, _: getattr(model[1], register)(lambda *given: seen.append(given[-1][0].clone()))

    ours, theirs = [], []
    models = everything_trained(keeps(ours), True, 1), everything_trained(keeps(theirs), False, 1)
    assert len(theirs) == 2
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(*[list(m.parameters()) for m in models], rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_backward_hook_of_the_old_kind_is_refused():
    model = network()
    model[1].register_backward_hook(lambda module, before, behind: (before[0] * 2,))
    with pytest.raises(mg.CaptureError, match="hook on a node of autograd's graph"):
        mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))(X, Y)


def test_a_backward_hook_for_every_module_is_run():
    handle = every_module.register_module_full_backward_hook(
        lambda module, before, behind: None if before[0] is None else (before[0] * 2,)
    )
    try:
        models = [nn.Sequential(network(), nn.Tanh()) for _ in range(2)]
        step = mg.TrainStep(models[0], lambda out, y: (out**2).mean(), optim.SGD(models[0].parameters(), lr=0.1))
        step(X, Y)  # no input of the first layer requires a gradient
        optimizer = optim.SGD(models[1].parameters(), lr=0.1)
        (models[1](X) ** 2).mean().backward()
        optimizer.step()
        torch.testing.assert_close(*[list(m.parameters()) for m in models], rtol=1e-9, atol=1e-12)
        leaf = X.clone().requires_grad_()
        (theirs,) = torch.autograd.grad((models[1](leaf) ** 2).mean(), leaf)
        torch.testing.assert_close(mg.grad(lambda x: (models[0](x) ** 2).mean())(X), theirs, rtol=1e-9, atol=1e-12)
    finally:
        handle.remove()


class OnItsArgument(nn.Module):
    def __init__(self, kept):
        super().__init__()
        self.linear, self.kept = nn.Linear(3, 1), kept

    def forward(self, x):
        if self.kept is not None:
            x.register_hook(self.kept.append)
        return self.linear(x).square().mean()


def test_hooks_on_a_batch_are_refused_where_they_would_not_be_called():
    """A step computes the gradients of its parameters; PyTorch calls such hooks."""
    x = torch.ones(2, 3, requires_grad=True)
    for kept in ([], None):
        model = OnItsArgument(kept)
        step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.1))
        if kept is None:
            step(x)
            x.register_hook(lambda g: None)
        with pytest.raises(mg.MemogradError, match=r"hook .* of (the batch|an argument)|hook on an argument"):
            step(x)
    step(x.detach())


def test_a_batch_with_a_history_is_warned_of():
    model = OnItsArgument(None)
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match="computed of others that require a gradient"):
        step(torch.ones(2, 3, requires_grad=True) * 2)
