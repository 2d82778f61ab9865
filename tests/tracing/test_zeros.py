"""``torch.func``'s forward mode inside a program, against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jvp, vmap

import memograd as mg

X, W = torch.randn(3, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
INFINITE = torch.tensor([0.0, -torch.inf], dtype=torch.float64)


def of_infinity(x: torch.Tensor) -> torch.Tensor:
    """The tangent of 2.0 is nothing, also times infinity."""
    return jvp(lambda v: (v + INFINITE) * 2.0, (x[0],), (x[1].sin(),))[1]


def by_dual_numbers(x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, 2 * torch.ones_like(x))
        return forward_ad.unpack_dual((dual * dual * 3).sin()).tangent


PROGRAMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "per sample": lambda x: vmap(jacfwd(lambda v: (v * 2).sin().cumsum(0)))(x),
    "Hessians per sample": lambda x: vmap(hessian(lambda v: (W @ v).tanh().sum() + 0.5 * (v @ v)))(x),
    "Laplacian": lambda x: vmap(lambda v: hessian(lambda u: (u**3).prod())(v).trace())(x),
    "of a gradient": lambda x: jvp(grad(lambda v: (W @ v).sin().prod()), (x[0],), (x[1],))[1],
    "of itself": lambda x: jvp(lambda v: jvp(lambda u: (W @ u).sin(), (v,), (2 * v,))[1], (x[0],), (x[1],))[1],
    "of infinity": of_infinity,
    "dual numbers": by_dual_numbers,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_through_forward_mode(name: str) -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        return PROGRAMS[name](x).square().sum() + x.sin().sum()

    x = X.clone().requires_grad_()
    torch.testing.assert_close(mg.grad(loss)(X), torch.autograd.grad(loss(x), x)[0])


def test_no_backend_is_asked_for_a_product_with_nothing() -> None:
    graph = mg.capture(of_infinity, X)
    products = [n for n in graph.nodes if n.target is torch.ops.aten.mul.Tensor]
    assert len(products) == 1
