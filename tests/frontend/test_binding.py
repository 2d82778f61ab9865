"""What libraries do to the forward of a model that they get. Witness: the same done to the model, not wrapped."""

import copy
import functools
import inspect
import pickle
import types

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import memograd as mg
from memograd.frontend.forward import Wrapped

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


class Net(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def step(model):
    """The loss and the gradients."""
    model.zero_grad()
    loss = model(X).square().mean()
    loss.backward()
    return [loss.detach(), *[p.grad.clone() for p in model.parameters()]]


def agree(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def decorated(model):
    """As accelerate does for mixed precision: the function behind the method is decorated and bound again."""
    function = getattr(model.forward, "__func__", model.forward)

    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    def outer(*args, **kwargs):
        return inner(*args, **kwargs) * 2

    outer.__wrapped__ = inner
    model.forward = types.MethodType(outer, model)
    return model


def undecorated(model):
    """As it takes that back."""
    forward = model.forward
    while hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
    model.forward = types.MethodType(forward, model)
    return model


def halved(model):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    return model


USES = {
    "decorated": decorated,
    "and taken back": lambda m: undecorated(decorated(m)),
    "twice": lambda m: decorated(decorated(m)),
    "a copy": lambda m: halved(copy.deepcopy(decorated(m))),
    "a copy of what is taken back": lambda m: halved(copy.deepcopy(undecorated(decorated(m)))),
    "a copy of a copy": lambda m: halved(copy.deepcopy(halved(copy.deepcopy(decorated(m))))),
    "a pickle of what is taken back": lambda m: pickle.loads(pickle.dumps(undecorated(decorated(m)))),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_forward_that_is_bound_again(use):
    agree(step(use(mg.wrap(Net()))), step(use(Net())))


def test_our_graphs_run_for_the_copy_with_its_own_parameters():
    model = decorated(mg.wrap(Net()))
    twin = halved(copy.deepcopy(model))
    agree(step(twin), step(halved(decorated(Net()))))
    assert all(p.grad is None for p in model.parameters())
    assert vars(twin)["_memograd_forward"].captures == ["the first call"]


def test_what_is_taken_back_is_the_wrapped_forward_again():
    model = undecorated(decorated(mg.wrap(Net())))
    step(model)
    assert type(model.forward) is Wrapped and model.forward.captures == ["the first call"]
    agree(step(pickle.loads(pickle.dumps(model))), step(Net()))


def test_a_method_made_of_the_wrapped_forward_itself():
    model = mg.wrap(Net())
    model.forward = types.MethodType(model.forward, model)
    agree(step(model), step(Net()))
    agree(step(halved(copy.deepcopy(model))), step(halved(Net())))


def test_unwrapping_under_a_decoration():
    model = mg.wrap(Net())
    wrapped = model.forward
    mg.unwrap(decorated(model))
    agree(step(model), step(decorated(Net())))
    assert wrapped.captures == []
    agree(step(mg.wrap(model)), step(decorated(Net())))
    assert wrapped.captures == [] and model.forward.captures == ["the first call"]


def test_who_reads_the_code_of_a_forward_gets_pytorchs_own():
    model = mg.wrap(Net())
    assert model.forward.__code__ is Net.forward.__code__ and model.forward.__name__ == "forward"
    assert str(inspect.signature(model.forward)) == str(inspect.signature(Net().forward))
    with pytest.raises(AttributeError, match="nonsense"):
        model.forward.nonsense  # noqa: B018


# -- who else may be at work -------------------------------------------------------------------------------------------


def test_other_tracers_see_pytorchs_own_forward():
    model, theirs = mg.wrap(Net()).eval(), Net().eval()
    agree([torch.export.export(model, (X,)).module()(X)], [theirs(X)])
    agree([make_fx(model)(X)(X)], [theirs(X)])
    assert model.forward.captures == []


def test_forward_mode():
    def tangent(model):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
            return [torch.autograd.forward_ad.unpack_dual(model(dual)).tangent]

    agree(tangent(mg.wrap(Net())), tangent(Net()))


def test_a_batch_of_gradients():
    def jacobian(model):
        x = X.clone().requires_grad_()
        ways = torch.eye(2)[:, None].expand(2, 6, 2)
        return torch.autograd.grad(model(x), x, ways, is_grads_batched=True)

    model = mg.wrap(Net())
    agree(jacobian(model), jacobian(Net()))
    agree(step(model), step(Net()))


def test_tensors_without_data():
    model = mg.wrap(Net().to("meta"))
    assert model(X.to("meta")).is_meta and model.forward.captures == []


def test_parameters_that_the_first_call_makes():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.LazyLinear(2)

        def forward(self, x):
            return self.layer(x).tanh()

    def steps(model):
        torch.manual_seed(1)
        return [*step(model), *step(model)]

    model = mg.wrap(Lazy())
    agree(steps(model), steps(Lazy()))
    assert model.forward.captures == ["the first call"]


def test_a_part_that_is_compiled():
    def partly(model):
        model[1] = torch.compile(nn.Tanh(), backend="eager")
        return model

    model = mg.wrap(partly(Net()))
    agree(step(model), step(Net()))
    assert model.forward.check_reason.startswith("agrees")
