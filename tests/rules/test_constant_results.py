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


@pytest.mark.parametrize("name", ["layer norm", "batch norm", "log sigmoid"])
def test_nothing_flows_through_a_constant_result(name: str) -> None:
    gradient = mg.grad(lambda x: PROGRAMS[name](x)[1].sum())(points())
    assert not gradient.any()
    assert not PROGRAMS[name](points().requires_grad_())[1].requires_grad
