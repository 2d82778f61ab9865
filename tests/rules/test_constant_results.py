"""Results that autograd calls constants: what a program makes of them gets no gradient, and second derivatives of the
operators that make them are still whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import memograd as mg

T = torch.Tensor
W = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)

PROGRAMS: dict[str, Callable[[T], tuple[T, ...]]] = {
    "layer norm": lambda x: torch.native_layer_norm(x, (4,), W, None, 1e-5),
    "batch norm": lambda x: torch.native_batch_norm(x, W, None, None, None, True, 0.1, 1e-5),
    "batch norm with statistics": lambda x: torch.ops.aten._native_batch_norm_legit(
        x, W, None, torch.zeros_like(W), torch.ones_like(W), True, 0.1, 1e-5
    ),
    "batch norm with update": lambda x: torch.ops.aten._batch_norm_with_update(
        x, W, W, torch.zeros_like(W), torch.ones_like(W), 0.1, 1e-5
    )[:3],
    "group norm": lambda x: torch.native_group_norm(x[:, :, None], W, None, 3, 4, 1, 2, 1e-5),
    "weight norm": lambda x: torch.ops.aten._weight_norm_interface(x, x[:, :1] ** 2, 0),
    "lu": lambda x: torch.linalg.lu(x[:, :3]),
    "attention": lambda x: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        x[None, None], x[None, None].sin(), x[None, None].cos()
    ),
    "log sigmoid": lambda x: torch.ops.aten.log_sigmoid_forward(x),
    "determinant": lambda x: torch.ops.aten._linalg_det(x[:, :3])[:2],
}


def points() -> T:
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def total(results: tuple[T, ...]) -> T:
    """Each result in its own weight, so that one too many or too few shows."""
    return torch.stack([(k + 2.0) * y.sin().sum() for k, y in enumerate(results) if y.is_floating_point()]).sum()


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_are_autograds_and_their_derivatives_those_of_differences(name: str) -> None:
    """Of second derivatives differences are the witness: autograd's own of ``_weight_norm_interface`` is wrong, as it
    takes the norms for constants there as well."""

    def f(x: T) -> T:
        return total(PROGRAMS[name](x))

    def theirs(x: T) -> T:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(f(leaf), leaf)[0]

    x, along, step = points(), points().cos(), 1e-6
    torch.testing.assert_close(mg.grad(f)(x), theirs(x))
    with mg.testing.check_transforms(False):
        ours = mg.grad(lambda x: mg.grad(f)(x).sin().sum())(x)
    ahead, behind = (theirs(x + h * along).sin().sum() for h in (step, -step))
    torch.testing.assert_close((ours * along).sum(), (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)


NORMS = [name for name in PROGRAMS if "norm" in name and name != "weight norm"]


@pytest.mark.parametrize("name", NORMS)
def test_a_gradient_that_the_program_takes_itself_depends_on_the_statistics(name: str) -> None:
    """The backward kernel takes mean and 1/σ, which are constants where the program reads them, and not here."""

    def f(x: T) -> T:
        y = x * 1.0
        (g,) = torch.autograd.grad(PROGRAMS[name](y)[0].sin().sum(), y, create_graph=True)
        return (g * g.sin()).sum()

    leaf = points().requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(mg.grad(f)(points()), expected, rtol=1e-9, atol=1e-9)


def test_so_does_one_in_the_backward_of_a_function_that_was_given_them() -> None:
    class Normalized(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y, mean, rstd = torch.native_layer_norm(x, (4,), None, None, 1e-5)
            ctx.save_for_backward(x, mean, rstd)
            return y

        @staticmethod
        def backward(ctx, g):
            x, mean, rstd = ctx.saved_tensors
            mask = [True, False, False]
            return torch.ops.aten.native_layer_norm_backward(g, x, (4,), mean, rstd, None, None, mask)[0]

    def f(x: T) -> T:
        y = x * 1.0
        (g,) = torch.autograd.grad(Normalized.apply(y).sin().sum(), y, create_graph=True)
        return (g * g.sin()).sum()

    leaf = points().requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf), leaf)
    torch.testing.assert_close(mg.grad(f)(points()), expected, rtol=1e-9, atol=1e-9)
    with mg.testing.check_transforms(False):
        second = mg.grad(lambda x: mg.grad(lambda x: Normalized.apply(x).sin().sum())(x).sin().sum())(points())
    leaf = points().requires_grad_()
    (g,) = torch.autograd.grad(Normalized.apply(leaf).sin().sum(), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(g.sin().sum(), leaf)
    torch.testing.assert_close(second, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["layer norm", "batch norm", "log sigmoid"])
def test_nothing_flows_through_a_constant_result(name: str) -> None:
    gradient = mg.grad(lambda x: PROGRAMS[name](x)[1].sum())(points())
    assert not gradient.any()
    assert not PROGRAMS[name](points().requires_grad_())[1].requires_grad
