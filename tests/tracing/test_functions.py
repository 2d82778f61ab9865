"""Users' autograd.Functions with their own backward, against torch.autograd."""

import pytest
import torch

import memograd as mg


@mg.rule
class Reverse(torch.autograd.Function):
    """Gradient reversal: forward returns its input, backward is not its derivative."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x

    @staticmethod
    def backward(ctx, g):
        return -ctx.scale * g, None


class Exp(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.exp(), x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        (x,) = inputs
        ctx.save_for_backward(output[0])
        ctx.x = x

    @staticmethod
    def backward(ctx, g, h):
        (y,) = ctx.saved_tensors
        return 7 * g * y + h * ctx.x.cos()


mg.rule(Exp)
apply_exp = Exp.apply


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (Reverse.apply(x * x, 3.0) * x).sum(),
        lambda x: (apply_exp(x.sin())[0] * x).sum(),
        lambda x: (apply_exp(x.sin())[0] * apply_exp(x)[1]).sum(),
    ],
)
def test_own_backward(f):
    x = torch.randn(4, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(mg.grad(f)(x), theirs, rtol=1e-12, atol=1e-12)
    value = mg.value_and_grad(f)(x)[0]
    torch.testing.assert_close(value, f(x))


def test_inside_another_transform():
    x = torch.randn(4, dtype=torch.float64)
    f = mg.grad(lambda x: Reverse.apply(x.sin() * x, 2.0).sum())
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(Reverse.apply(leaf.sin() * leaf, 2.0).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(mg.grad(lambda x: f(x).sum())(x), second, rtol=1e-12, atol=1e-12)


def test_the_class_is_left_as_it_was():
    before = dict(vars(Reverse))
    mg.capture(lambda x: Reverse.apply(x, 1.0), torch.randn(2))
    assert {k: vars(Reverse)[k] for k in ("forward", "backward")} == {k: before[k] for k in ("forward", "backward")}
