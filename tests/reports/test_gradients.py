"""More public reports of gradients that went wrong, silently or as nan, written anew: functions and their points.
Expected, in first and second order, is torch.autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from idioms.agreement import check_function
from torch.nn import functional as F

import memograd as mg

Z: dict[str, Any] = {"dtype": torch.float64}


def t(*values: float) -> torch.Tensor:
    return torch.tensor(list(values), **Z)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **Z)


LENGTHS = torch.tensor([5, 2])
X, A, V = numbers(2, 3), numbers(3, 3, seed=1), numbers(3, seed=2)
NAN = math.nan
THERE = torch.tensor([[NAN, 1, 2], [0, NAN, 3]], **Z)
KERNELS = numbers(2, 1, 3, 3, seed=9)
DIRECTIONS, TABLE = numbers(4, 3, seed=5), numbers(2, 12, seed=3)
GRID = F.affine_grid(torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], **Z), [1, 1, 3, 3], align_corners=True).contiguous()
AROUND = F.affine_grid(
    torch.tensor([[[1.1, 0, 0.1], [0, 1.2, 0]]], **Z), [1, 1, 3, 3], align_corners=False
).contiguous()


def written_twice(x):
    y = torch.zeros_like(x)
    y[:, 0] += x[:, 2].abs()
    y[:, 0] += x[:, 2].abs()
    return (y**2).sum()


def two_writes(x):
    y = x * 1
    y.add_(1)
    y.mul_(2)
    return (y**2).sum()


def detached_in_place(x):
    y = x * 2
    y.detach_()
    return ((y + x) ** 2).sum() * (2 if y.requires_grad else 1)


def gradient_in_a_loss(w):
    x = X.clone().requires_grad_()
    out = torch.tanh(x @ w)
    (g,) = torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True)
    return torch.stack([torch.dot(g[j], X[j]) - 1 for j in range(2)]).pow(2).sum()


def loop_with_a_condition(x):
    v = torch.ones((), **Z)
    for _ in range(4):
        v = torch.where(torch.tensor(True), v * x, v)
    return v.sum()


def scan(steps):
    x, seen = torch.zeros((), **Z), []
    for step in steps:
        x = x + 2 * step * x.cos()
        seen.append(x)
    return (torch.stack(seen) * V).sum()


def carried_dict(p):
    carry = {"a": p, "b": torch.zeros((), **Z)}
    for _ in range(2):
        carry = {name: value + carry["a"] for name, value in carry.items()}
    return (carry["a"] * p * carry["b"]).sum()


def chain_of_norms(x, table):
    a, b, c, d = table.chunk(4, -1)
    y = F.layer_norm(x, (3,)) * (1 + a) + b
    return ((F.layer_norm(y, (3,)) * (1 + c) + d) ** 3).sum()


def interpolated(x):
    y = F.interpolate(x, scale_factor=(1.5, 1.25), mode="bilinear", align_corners=False)[:, :, 1:7, 1:8]
    convolved = F.conv2d(y, KERNELS, padding=1)
    pooled = F.max_pool2d(convolved, 3, 1, 1)
    return torch.where(convolved > pooled.mean((2, 3), keepdim=True), convolved, pooled).pow(2).sum()


def signed_qr(a):
    q, r = torch.linalg.qr(a)
    return (q * r.diagonal().sign() * torch.arange(9.0, **Z).reshape(3, 3)).sum()


def separate_eigenvectors(x):
    _, u = torch.linalg.eigh(x[:, None] * x[None, :] + torch.diag(t(1, 2, 4)))
    return (u.abs() @ x).sum()


def parts(x):
    a, b = x.unbind(0)
    c, d = x.split([1, 2], 1)
    return (a * b).sum() + (c.sum() * d).pow(2).sum()


def every_second_written(x):
    y = x * 1
    part = y[0::2]
    part.mul_(2).add_(x[0])
    return (y**2).sum()


def gated_in_place(x, w):
    y = x @ w
    y.mul_(y.sigmoid())
    y.add_(x)
    return (y @ w.T).pow(2).sum()


def copied_through_a_view(x):
    y = (x * 2).clone()
    y.view(2, 3).copy_(x.sin())
    return (y**2).sum()


def fully_masked(q):
    mask = torch.tensor([[True, False, False], [False, False, False], [True, True, False]])
    return F.scaled_dot_product_attention(q[None], A[None], 2 * A[None], attn_mask=mask).pow(2).sum()


def expanded_einsum(x):
    return torch.einsum("...x,xy->...y", x.expand(2, -1), A).pow(2).sum()


def padded_and_permuted(x):
    big = F.pad(x.reshape(1, 2, 3).permute(2, 1, 0), (0, 0, 1, 1, 1, 1))
    return F.fold(big.reshape(1, 4, -1).sum(-1, keepdim=True).expand(1, 4, 9), (4, 4), (2, 2)).pow(2).sum()


Case = tuple[Callable[..., torch.Tensor], Sequence[torch.Tensor]]
CASES: dict[str, Case] = {
    "pytorch#136662: a column written to twice": (written_twice, [X]),
    "pytorch#110337: two writes to one tensor": (two_writes, [X]),
    "pytorch#176854: detached in place": (detached_in_place, [X]),
    "pytorch#47870: a gradient in a loss": (gradient_in_a_loss, [A]),
    "pytorch#89543: squares of what is there": (
        lambda x: torch.where(THERE.isnan(), torch.zeros((), **Z), x - THERE).pow(2).sum(),
        [X],
    ),
    "pytorch#8940: powers of nought": (lambda x: (x**0).sum() + (x**1).sum() + (x**2).sum(), [t(0, 1, -2)]),
    "pytorch#10729: clamp of an exponential": (lambda x: x.exp().clamp(max=1).sum(), [t(-5, -1, 3, 50)]),
    "pytorch#37154: distances of rows with themselves": (lambda x: torch.cdist(x, x.detach()).sum(), [X]),
    "pytorch#69997: distances of rows that lie apart": (
        lambda x: torch.cdist(x[:, 0], x[:, 1]).pow(2).sum(),
        [numbers(4, 2, 3)],
    ),
    "pytorch#18250: cosine with zero": (lambda x: F.cosine_similarity(x, torch.zeros(3, **Z), 0), [V]),
    "pytorch#30303: einsum of an expanded row": (expanded_einsum, [X[:1]]),
    "pytorch#32705: pad and permute": (padded_and_permuted, [X]),
    "pytorch#103963: attention that sees nothing": (fully_masked, [A.flip(0)]),
    "pytorch#168358: largest by index, without the old": (
        lambda x, s: x.scatter_reduce(0, torch.tensor([0, 0, 0]), s, "amax", include_self=False).pow(2).sum(),
        [t(1, 2, 3), t(4, 5, 1)],
    ),
    "pytorch#76523: product by index with zeros": (
        lambda x, s: x.scatter_reduce(0, torch.tensor([0, 0, 1]), s, "prod").pow(2).sum(),
        [t(1, 2, 3), t(0, 4, 0)],
    ),
    "pytorch#77382: index_reduce by product with zeros": (
        lambda x, s: x.index_reduce(0, torch.tensor([0, 0, 1]), s, "prod").pow(2).sum(),
        [t(0, 2, 3), t(2, 4, 0)],
    ),
    "pytorch#23925: grid_sample at the border": (
        lambda x, g: F.grid_sample(x, g, padding_mode="border", align_corners=True).pow(2).sum(),
        [numbers(1, 1, 3, 3), GRID],
    ),
    "pytorch#23925: grid_sample, reflected": (
        lambda x, g: F.grid_sample(x, g, padding_mode="reflection", align_corners=False).pow(2).sum(),
        [numbers(1, 1, 3, 3), AROUND],
    ),
    "pytorch#11750: ctc loss by a factor": (
        lambda x: 2 * F.ctc_loss(x.log_softmax(-1), torch.tensor([[1, 2]]), LENGTHS[:1], LENGTHS[1:2], reduction="sum"),
        [numbers(5, 1, 3)],
    ),
    "pytorch#25057: ctc losses of several lengths": (
        lambda x: F.ctc_loss(
            x.log_softmax(-1),
            torch.tensor([[1, 2], [2, 2]]),
            torch.tensor([5, 4]),
            torch.tensor([2, 1]),
            zero_infinity=True,
        ),
        [numbers(5, 2, 3)],
    ),
    "pytorch#65466: kl divergence by its target": (
        lambda a, b: F.kl_div(a.log_softmax(0), b.softmax(0), reduction="sum"),
        [V, 2 * V.flip(0)],
    ),
    "pytorch#185509: interpolate, convolve, pool, select": (interpolated, [numbers(1, 1, 6, 7)]),
    "pytorch#193061: norms in a chain with one table": (chain_of_norms, [X, TABLE]),
    "pytorch#60180: square of a complex number": (
        lambda a: torch.view_as_complex(a).pow(2).abs().sum(),
        [numbers(3, 2)],
    ),
    "pytorch#47200: an imaginary part in two ways": (
        lambda a: (lambda z: (z - z.conj()).abs().pow(2).sum() + z.imag.pow(3).sum())(torch.view_as_complex(a)),
        [numbers(3, 2)],
    ),
    "pytorch#44444: angles of complex and of real numbers": (
        lambda a: torch.view_as_complex(a).angle().sum() + a.angle().sum(),
        [numbers(3, 2)],
    ),
    "pytorch#47599: eigenvalues, whatever the basis": (
        lambda a: torch.linalg.eigvalsh(a @ a.T + torch.eye(3, **Z)).log().sum(),
        [A],
    ),
    "pytorch#118336: qr with its signs": (signed_qr, [A]),
    "pytorch#72203: determinant of a singular matrix": (lambda a: torch.linalg.det(torch.cat([a[:2], a[:1]])), [A]),
    "pytorch/functorch#597: residuals": (lambda a: ((X - (a @ X.T).T) ** 2).sum(), [A]),
    "pytorch/functorch#1097: a kernel at equal points": (
        lambda a: torch.exp(-((a[:, None] - a[None]) ** 2).sum(-1) / 2).sum(),
        [X],
    ),
    "pytorch/functorch#501: trace": (lambda a: torch.trace(a @ a) ** 2, [A]),
    "pytorch/functorch#977: slogdet": (lambda a: torch.linalg.slogdet(a)[1], [A]),
    "pytorch#31258: parts of unbind and split": (parts, [X]),
    "pytorch#93363: every second element written to": (every_second_written, [V]),
    "pytorch#184113: in place between products": (gated_in_place, [X, A]),
    "pytorch#136064: copied through a view": (copied_through_a_view, [X]),
    "jax#5900: a loop with a condition": (loop_with_a_condition, [torch.tensor(3.0, **Z)]),
    "jax#753: a scan by its sequence": (scan, [numbers(3, seed=4)]),
    "jax#1082: a loop that carries a dict": (carried_dict, [torch.tensor(0.7, **Z)]),
    "jax#2107: softplus at zero": (lambda x: F.softplus(x).sum(), [t(0, -50, 50)]),
    "jax#2140: log of a sigmoid at zero": (lambda x: F.logsigmoid(x).sum(), [t(0, -800, 800)]),
    "jax#22398: logarithm of a sum with a zero weight": (
        lambda b: (b * torch.zeros(3, **Z).exp()).sum().log(),
        [t(2, 0, 5)],
    ),
    "jax#23842: logsumexp of what is there": (
        lambda a: a.masked_fill(torch.tensor([False, True]), -math.inf).logsumexp(0),
        [t(0, 100)],
    ),
    "jax#15798: angle between nearly equal vectors": (
        lambda p: (p.softmax(0) * t(0.1, 0.2, 0.7)).sqrt().sum().clamp(max=1 - 1e-9).arccos(),
        [t(0, 0.3, 1)],
    ),
    "jax#10527: eigenvectors of separate eigenvalues": (separate_eigenvectors, [V]),
    "HIPS/autograd#384: broadcast": (lambda x: (torch.broadcast_to(x, (4, 3)) * DIRECTIONS).sin().sum(), [V]),
    "HIPS/autograd#560: two products of one vector": (lambda x: (A @ x).sum() + (2 * A @ x).pow(2).sum(), [V]),
    "lightning-thunder#1892: sigmoid far out": (lambda x: torch.sigmoid(x).sum(), [t(-800, -100, 0, 100, 800)]),
    "tinygrad#9597: two equal constants": (lambda a, b: (a.add(b) * a).sum(), [t(3), t(3)]),
    "tinygrad#3037: masked by a comparison": (lambda x: (x * (x < 0) + x**2 * (x == 0)).sum(), [t(-1, 0, 2)]),
    "tinygrad#155: power of a negative base": (lambda x: (x**3.0).sum() + (x**2).sum(), [t(-1.5, 2, 0.3)]),
}


@pytest.mark.parametrize("source", CASES)
def test_first_and_second_derivatives(source: str) -> None:
    check_function(*CASES[source], ways=("grad", "hvp"))


ONCE: dict[str, Case] = {  # the second derivative of a norm at zero is nan in torch.autograd
    "HIPS/autograd#586: square of a norm at zero": (lambda x: torch.linalg.norm(x) ** 2, [t(0, 0)]),
    "HIPS/autograd#183: exponential of a norm at zero": (lambda x: (-(torch.linalg.norm(x) ** 2)).exp(), [t(0, 0)]),
}


@pytest.mark.parametrize("source", ONCE)
def test_first_derivatives(source: str) -> None:
    check_function(*ONCE[source], ways=("grad",))


def test_the_largest_of_many_in_half_precision() -> None:
    """tinygrad#12296: each of 70,000 equal numbers gets its share, which a count in half precision does not hold."""
    x = torch.ones(70_000, dtype=torch.float16)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(mg.grad(lambda x: x.amax())(x), torch.autograd.grad(leaf.amax(), leaf)[0])


@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp"])
def test_transforms_in_inference_mode(transform: str) -> None:
    """pytorch#177318: zeros"""
    with torch.inference_mode():
        if transform == "grad":
            found = mg.grad(lambda x: (x**3).sum())(X)
        elif transform == "vjp":
            found = mg.vjp(lambda x: x**3, X)[1](torch.ones_like(X))[0]
        else:
            found = mg.jvp(lambda x: x**3, (X,), (torch.ones_like(X),))[1]
    torch.testing.assert_close(found, 3 * X**2)


toy = None
region: Any = None


def test_a_global_function_that_is_replaced() -> None:
    """pytorch#93782"""
    global toy
    toy = lambda x: (x**2).sum()  # noqa: E731
    gradient = mg.grad(lambda x: sum(toy(x) for _ in range(3)))  # pyright: ignore[reportOptionalCall, reportArgumentType]
    torch.testing.assert_close(gradient(X), 6 * X)
    toy = lambda x: (x**3).sum()  # noqa: E731
    torch.testing.assert_close(gradient(X), 9 * X**2)


def test_a_global_that_a_loop_replaces() -> None:
    """pytorch#191821"""

    def f(x):
        global region
        for _ in range(2):
            region = [x]
            x = region[0] * 2 + region[0] ** 2
        return x.sum()

    leaf = X.clone().requires_grad_()
    torch.testing.assert_close(mg.grad(f)(X), torch.autograd.grad(f(leaf), leaf)[0])


LISTED = [1.0, 2.0, 3.0]


def test_a_list_that_is_an_argument_and_a_global() -> None:
    """pytorch#120861"""
    gradient = mg.grad(lambda values, x: (x**2 * LISTED[-1] * values[-1]).sum(), argnums=1)
    for values in (LISTED, list(reversed(LISTED)), [1.0, 2.0], [1.0, 2.0, 3.0, 2.0]):
        torch.testing.assert_close(gradient(values, X), 2 * X * LISTED[-1] * values[-1])


def test_a_random_activation_that_is_checkpointed_is_the_same_in_both_passes() -> None:
    """pytorch#193671: there the slopes of the backward pass are whatever was in memory. Each slope is that of its
    value, whichever it is."""
    from torch.utils.checkpoint import checkpoint

    activation = torch.nn.RReLU()
    x = -X.abs()
    _, pull = mg.vjp(lambda x: checkpoint(activation, x, use_reentrant=False), x)
    torch.manual_seed(3)
    value, slope = mg.vjp(lambda x: checkpoint(activation, x, use_reentrant=False), x)
    torch.testing.assert_close(slope(torch.ones_like(x))[0], value / x)
    assert pull is not slope
