"""Autograd goes through a transform as one step, whose derivative is ours; the witness is autograd alone."""

import pytest
import torch
from torch import nn

import memograd as mg


def standardized(x):
    """Layer normalization by its formula: PyTorch's own third derivative of ``layer_norm`` is wrong."""
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


LAYERS = {  # (what we differentiate, what autograd does)
    "layer_norm": (nn.LayerNorm(3).double(), standardized),
    "group_norm": (nn.GroupNorm(1, 3).double(), standardized),
    "softmax": (nn.Softmax(-1), nn.Softmax(-1)),
    "elu": (nn.ELU(), nn.ELU()),
}


def derivative(f, x):
    return torch.autograd.grad(f(x), x, create_graph=True)[0]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_third_derivative_by_autograd_of_the_second_by_us(layer):
    """Autograd takes the statistics that a normalization returns for constants: not so in a second derivative."""
    torch.manual_seed(0)
    module, witness = LAYERS[layer]
    x, way = torch.randn(2, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, dtype=torch.float64)

    def f(x):
        return module(x).pow(3).sum()

    def slope(x):
        return (derivative(lambda x: witness(x).pow(3).sum(), x) * way).sum()

    (ours,) = torch.autograd.grad(mg.grad(lambda x: (mg.grad(f)(x) * way).sum())(x).pow(2).sum(), x)
    (theirs,) = torch.autograd.grad(derivative(slope, x).pow(2).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_random_draws_are_not_drawn_again():
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    gradient = mg.grad(lambda x: (nn.functional.dropout(x, 0.5) ** 3).sum())(x)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert torch.equal(second != 0, gradient != 0)  # the same mask
    torch.testing.assert_close(second, 2 * gradient)


def test_parameters_that_are_closed_over_get_gradients():
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([1.0, 3.0], dtype=torch.float64)
    mg.jacrev(lambda x: (weight * x).sin())(x).sum().backward()
    expected = derivative(lambda w: torch.func.jacrev(lambda x: (w * x).sin())(x).sum(), weight)
    torch.testing.assert_close(weight.grad, expected)


def test_many_cotangents_at_once_keep_their_history():
    """``is_grads_batched`` with ``create_graph``: PyTorch itself keeps none through an ``autograd.Function``."""
    x = torch.linspace(-1, 1, 3, dtype=torch.float64, requires_grad=True)
    seen = []
    rows = torch.eye(3, dtype=torch.float64)
    for gradient in (mg.grad(lambda x: x.sin().prod()), lambda x: derivative(lambda x: x.sin().prod(), x)):
        (hessian,) = torch.autograd.grad(gradient(x), x, rows, is_grads_batched=True, create_graph=True)
        seen.append([hessian, *torch.autograd.grad(hessian.square().sum(), x)])
    torch.testing.assert_close(*seen)


LINEAR = nn.Linear(3, 2)
W = nn.Parameter(torch.linspace(1, 2, 3))
CLOSED_OVER = {
    "replaced": (
        lambda p: torch.func.functional_call(LINEAR, p, (torch.ones(4, 3),)).square().sum(),
        {"weight": torch.ones(2, 3), "bias": torch.ones(2)},
    ),
    "replaced in part": (
        lambda p: torch.func.functional_call(LINEAR, p, (torch.ones(4, 3),)).square().sum(),
        {"weight": torch.ones(2, 3)},
    ),
    "detached": (lambda x: (x * W.detach()).square().sum(), torch.ones(3)),
    "without gradients": (lambda x: (x * torch.no_grad()(W.exp)()).square().sum(), torch.ones(3)),
    "used": (lambda x: (x * W).exp().sum(), torch.ones(3)),
}


@pytest.mark.parametrize("transform", ["grad", "grad_and_value", "jacrev", "hessian", "vjp", "jvp"])
@pytest.mark.parametrize("name", CLOSED_OVER)
def test_what_depends_on_no_parameter_has_no_history(name, transform):
    f, x = CLOSED_OVER[name]

    def histories(library):
        apply = getattr(library, transform)
        if transform == "vjp":
            value, pull = apply(f, x)
            out = value, pull(torch.ones(()))
        else:
            ones = torch.utils._pytree.tree_map(torch.ones_like, x)
            out = apply(f, (x,), (ones,)) if transform == "jvp" else apply(f)(x)
        return [t.requires_grad for t in torch.utils._pytree.tree_leaves(out)]

    assert histories(mg) == histories(torch.func)


def test_a_derivative_that_nobody_goes_on_from_has_no_part_in_the_next() -> None:
    """A zero for a cotangent would make NaN of infinite derivatives: here those by an exponent, of a negative base."""

    class Power(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a**b

    def slopes(f, a, b):
        return torch.autograd.grad(f(a, b).sum(), (a, b), create_graph=True)

    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([-2.0, -3.0], [2.0, 3.0]))
    (expected,) = torch.autograd.grad(slopes(Power(), a, b)[0].sum(), a)
    assert expected.isfinite().all()
    ways = mg.grad(lambda a, b: (a**b).sum(), (0, 1))(a, b), slopes(mg.wrap(Power(), check="never"), a, b)
    for by_base, _ in ways:
        torch.testing.assert_close(torch.autograd.grad(by_base.sum(), a)[0], expected)


def test_what_a_program_leaves_detached_has_no_history() -> None:
    """As in ``torch.func``, also where the graph reads parameters that have one."""
    weight, kept = nn.Parameter(torch.tensor(2.0)), []

    def f(x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        kept[:] = [x.detach() * weight.detach(), x * weight]
        return (x * weight).sum(), (weight.detach() * 3, x * 1, x * weight)

    seen = []
    for library in (torch.func, mg):
        gradient, results = library.grad(f, has_aux=True)(torch.ones(3))
        seen.append([t.requires_grad for t in (gradient, *results, *kept)])
        assert torch.autograd.grad(gradient.sum(), weight)[0] == 3
    assert seen[1] == seen[0] == [True, False, False, True, False, True]
