"""Public reports about unusual things, written anew: second derivatives in forward mode, mixed dtypes, padding, ties,
functions with results that have no derivative, layers whose other route went wrong. Expected is PyTorch's autograd, or
what the report says mathematics has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from idioms.agreement import by_autograd, check_function, close
from torch import nn
from torch.nn import functional as F

import memograd as mg

Z: dict[str, Any] = {"dtype": torch.float64}


def t(*values: float) -> torch.Tensor:
    return torch.tensor(list(values), **Z)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **Z)


X, A, V = numbers(2, 3), numbers(3, 3, seed=1), numbers(3, seed=2)
WORDS = torch.tensor([[0, 1, 1, 2]])
COMPLEX = torch.complex(numbers(3, 3, seed=6), numbers(3, 3, seed=7))


def diagonal_replaced(x, y):
    return (torch.diagonal_scatter(x, y) ** 2).sum()


def slice_replaced(x, y):
    return (torch.slice_scatter(x, y, dim=1, start=0, end=2).sum(dim=1) ** 2).sum()


def as_magnitude_and_phase(p):
    return (p[0] * torch.exp(1j * p[1])).real.pow(2).sum() + (p[0] * torch.exp(1j * p[1])).imag.sum()


def masked_spectrum(a):
    mask = torch.zeros(9, **Z)
    mask[:4] = 1
    return ((torch.fft.fftn(a).ravel() * mask).abs() ** 2).sum()


def written_from_a_magnitude(a):
    z = torch.view_as_complex(a)
    h = torch.ones_like(z)
    h[:1] = z[:1].abs().mean().to(h.dtype)
    return h.mean().abs() ** 2


def real_beside_complex(x):
    return torch.cat([x @ A, COMPLEX[:2]], dim=-1).abs().pow(2).sum()


def copied_between_views(x):
    y = x.clone()
    part = y[0]
    y.copy_(x.sin())
    return (part**2).sum() + y.prod()


def stepped_and_cropped(x):
    image = x.view(1, 1, 4, 4)
    return (image[:, :, ::2, ::2] ** 2).sum() + (image[:, :, 1:, 1:] ** 3).sum()


def unpooled(x):
    pooled, at = F.max_pool2d(x, 2, return_indices=True)
    return (F.max_unpool2d(pooled, at, [2, 2]) ** 2).sum()


def folded_twice(x):
    return (F.fold(F.unfold(x, 2) ** 2, (4, 4), 2) ** 2).sum()


def normalized_per_channel(t_):
    x = torch.stack([(i + 1) * t_ + (i % 3 - 1) * t_ * t_ + i for i in range(8)]).reshape(2, 2, 2)
    y = F.batch_norm(x, None, None, weight=t(1.5, -0.5), bias=t(0.25, 1), training=True, eps=0.25)
    return (y * torch.arange(1.0, 9, **Z).reshape(2, 2, 2)).sum()


def normalized_pair(t_):
    x = torch.stack((t_, torch.zeros((), **Z))).reshape(1, 2)
    return F.layer_norm(x, [2], weight=t(1, 2), bias=t(0, 0), eps=0.25).sum()


def masked_with_a_view(x):
    alias = x.clone()
    with torch.no_grad():
        alias.view(-1).mul_(2)
    return ((alias + 1) ** 2).sum()


def same_twice(x):
    with torch.no_grad():
        first = x + 1
    second = x + 1
    return (first * second).sum()


def chained_products(x):
    return torch.sum(torch.mm(torch.mm(torch.prod(x) + x, torch.sum(x) + x), torch.sum(x) + x))


def separate_from_equals(m):
    return torch.linalg.eigvalsh(m + m.T).pow(3).sum()


Case = tuple[Callable[..., torch.Tensor], Sequence[torch.Tensor]]
CASES: dict[str, Case] = {
    "pytorch#26302: embedding with padding": (
        lambda w: F.embedding(WORDS, w, padding_idx=0).pow(2).sum(),
        [numbers(4, 3)],
    ),
    "pytorch#28716: padding, many times": (
        lambda w: F.embedding(torch.zeros(1, 769, dtype=torch.long), w, padding_idx=0).sum() + w.pow(2).sum(),
        [numbers(4, 3)],
    ),
    "pytorch#151967: embedding by frequency": (
        lambda w: F.embedding(WORDS, w, padding_idx=0, scale_grad_by_freq=True).sum(),
        [numbers(4, 3)],
    ),
    "pytorch#182012: diagonal_scatter": (diagonal_replaced, [A, V]),
    "pytorch#180164: slice_scatter and a sum along": (slice_replaced, [X, X[:, :2]]),
    "pytorch#95738: take the same often": (
        lambda x: torch.take(x, torch.tensor([1, 1, 1, 5])).pow(2).sum(),
        [X],
    ),
    "pytorch#4320: standard deviation": (lambda x: x.std(0).sum() + x.var(1, unbiased=False).pow(2).sum(), [X]),
    "pytorch#46144: angle of a product": (
        lambda a: (torch.view_as_complex(a) * COMPLEX[0]).angle().pow(2).sum(),
        [numbers(3, 2)],
    ),
    "pytorch#43349: magnitude and phase": (as_magnitude_and_phase, [X]),
    "HIPS/autograd#185: half of a spectrum": (masked_spectrum, [A]),
    "locuslab/pytorch_fft#13: there, back and there": (
        lambda x: torch.fft.fft(torch.fft.ifft(torch.fft.fft(x))).abs().pow(2).sum(),
        [X],
    ),
    "locuslab/pytorch_fft#28: two spectra added": (
        lambda x, y: (torch.fft.rfft(x) + torch.fft.rfft(y)).abs().pow(2).sum(),
        [X, X.flip(0)],
    ),
    "pytorch#80275: written from a magnitude": (written_from_a_magnitude, [numbers(3, 2)]),
    "pytorch#51627: real beside complex": (real_beside_complex, [X]),
    "pytorch#36323: sgn of complex numbers": (
        lambda a: torch.view_as_real(torch.sgn(torch.view_as_complex(a))).pow(3).sum(),
        [numbers(3, 2)],
    ),
    "pytorch/functorch#999: copied between views": (copied_between_views, [X]),
    "pytorch/functorch#105: every second of an image": (stepped_and_cropped, [numbers(16)]),
    "pytorch/functorch#842: covariance": (lambda x: torch.cov(x).pow(2).sum(), [X]),
    "pytorch/functorch#247: clamp between tensors": (
        lambda x, low: x.clamp(min=low, max=low + 1).pow(2).sum(),
        [X, X.flip(0)],
    ),
    "pytorch#67660: max_unpool2d": (unpooled, [numbers(1, 1, 4, 4)]),
    "pytorch#36376: fold and unfold, twice": (folded_twice, [numbers(1, 1, 4, 4)]),
    "pytorch#85347: pixel_shuffle and back": (
        lambda x: (F.pixel_unshuffle(F.pixel_shuffle(x, 2).sin(), 2) ** 2).sum(),
        [numbers(1, 4, 2, 2)],
    ),
    "pytorch#117011: interpolate by nearest": (
        lambda x: F.interpolate(x, (5, 7), mode="nearest").pow(2).sum(),
        [numbers(1, 2, 2, 3)],
    ),
    "pytorch#196699: batch_norm, twice": (normalized_per_channel, [torch.tensor(-6.0, **Z)]),
    "pytorch#196700: layer_norm, twice": (normalized_pair, [torch.tensor(0.7, **Z)]),
    "pytorch#122436: a view written under no_grad": (masked_with_a_view, [X]),
    "pytorch#114344: the same under no_grad and not": (same_twice, [X]),
    "pytorch#194706: chained products": (chained_products, [torch.arange(1.0, 10, **Z).reshape(3, 3) / 10]),
    "pytorch#80926: softsign": (lambda x: F.softsign(x).pow(2).sum(), [t(-2, -0.3, 0.4, 3)]),
    "pytorch#1712: index_select, take_along_dim and masks": (
        lambda x: (
            (x.index_select(1, torch.tensor([2, 0, 2])) ** 2).sum() + x.take_along_dim(x.argsort(1), 1)[:, 0].prod()
        ),
        [X],
    ),
    "pytorch#18215: ctc loss of an empty target": (
        lambda x: F.ctc_loss(
            x.log_softmax(-1),
            torch.tensor([[0, 0], [1, 2]]),
            torch.tensor([5, 5]),
            torch.tensor([0, 2]),
            reduction="sum",
        ),
        [numbers(5, 2, 3)],
    ),
    "rwth-i6/returnn#1835: ctc loss without an alignment": (
        lambda x: F.ctc_loss(
            x.log_softmax(-1),
            torch.tensor([[1, 1], [1, 2]]),
            torch.tensor([2, 2]),
            torch.tensor([2, 2]),
            reduction="sum",
            zero_infinity=True,
        ),
        [numbers(2, 2, 3)],
    ),
    "HIPS/autograd#242: einsum with sums inside": (
        lambda x: torch.einsum("abcd->bd", x).pow(2).sum(),
        [numbers(2, 2, 2, 2)],
    ),
    "apache/mxnet#18102: einsum in batches": (
        lambda a, b: torch.einsum("bnij,bnjc->bnic", a, b).sin().sum(),
        [numbers(1, 1, 3, 2), numbers(1, 1, 2, 2, seed=1)],
    ),
    "jax#21896: logarithm of equal eigenvalues": (
        lambda m: torch.linalg.eigvalsh(m + torch.eye(2, **Z)).log().sum(),
        [torch.eye(2, **Z)],
    ),
    "jax#8732: singular values that are equal": (lambda m: torch.linalg.svdvals(m).sum(), [2 * torch.eye(3, **Z)]),
    "tinygrad#441: product with the identity": (lambda e, y: (y @ e).sum(), [torch.eye(3, **Z), t(2, 0, -2)[None]]),
}
ONCE = (  # PyTorch's own second derivative is nan, or there is none
    "pytorch#4320",
    "jax#21896",
    "jax#8732",
    "pytorch#18215",
    "rwth-i6",
)


@pytest.mark.parametrize("source", CASES)
def test_derivatives_of_unusual_programs(source: str) -> None:
    f, points = CASES[source]
    check_function(f, points, ways=("grad", "vjp") if source.startswith(ONCE) else ("grad", "vjp", "hvp"))


@pytest.mark.parametrize("f", [normalized_per_channel, normalized_pair])
def test_second_derivatives_of_norms_in_forward_mode(f: Callable[..., torch.Tensor]) -> None:
    """pytorch#196699, pytorch#196700: torch.func's second jvp is another number; these are the reports' exact ones."""
    at, expected = {
        "normalized_per_channel": (torch.tensor(-6.0, **Z), -0.20703015646993195),
        "normalized_pair": (torch.tensor(0.7, **Z), 0.7749142079590942),
    }[f.__name__]
    one = torch.ones((), **Z)

    def slope(x):
        return mg.jvp(f, (x,), (one,))[1]

    with mg.testing.check_transforms(False):  # PyTorch's is the wrong one
        torch.testing.assert_close(mg.jvp(slope, (at,), (one,))[1], torch.tensor(expected, **Z))


def test_deviation_of_equal_numbers() -> None:
    """pytorch#4320: whatever PyTorch has there, nan or not"""
    x = torch.ones(3, **Z)
    _, expected, _, _ = by_autograd(lambda x: x.std(), [x])
    torch.testing.assert_close([mg.grad(lambda x: x.std())(x)], expected, equal_nan=True)


def test_the_distance_of_complex_from_real_numbers() -> None:
    """pytorch#76785: PyTorch has no gradient of ``dist`` there, but of what it computes."""
    _, expected, _, _ = by_autograd(lambda y: (COMPLEX - y).abs().pow(2).sum().sqrt(), [A])
    torch.testing.assert_close([mg.grad(lambda y: torch.dist(COMPLEX, y))(A)], expected)


def test_sums_that_are_asked_for_as_complex() -> None:
    """pytorch#192719: PyTorch has no backward of it; by hand, the real part of the cotangent."""
    x = X.clone()
    f = lambda x: torch.sum(x.to(torch.complex128) * (1 + 2j)).real  # noqa: E731
    torch.testing.assert_close(mg.grad(f)(x), torch.ones_like(x))


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> Any:
        whole = x.round()
        ctx.mark_non_differentiable(whole)
        ctx.save_for_backward(x)
        return x * x, whole

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * x * cotangents[0]


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        return cotangents[0] * 5, None


def test_a_function_with_a_result_that_has_no_derivative() -> None:
    """pytorch#134087"""
    check_function(lambda x: (lambda y: (y[0] * y[1]).sum() + y[1].pow(2).sum())(Rounded.apply(2 * x)), [X])


def test_one_tensor_in_two_places_of_a_function() -> None:
    """pytorch#181146: the share of one place got lost."""
    check_function(lambda x: Scaled.apply(x, x).sum() + Scaled.apply(2 * x, x).sum(), [X], ways=("grad", "vjp"))


def test_views_of_one_base_that_are_written_to() -> None:
    """pytorch#139789: a program made for separate arguments met some that share memory."""

    def f(x, y):
        x = x * 1
        x.mul_(2)
        return (x * y).sum()

    gradient = mg.grad(f, argnums=(0, 1))
    for x, y in [(numbers(4), numbers(4, seed=1)), ((base := numbers(8))[:4], base[2:6])]:
        close("shared", gradient(x, y), by_autograd(f, [x, y])[1], 1e-12)


@pytest.mark.parametrize("route", ["step", "wrap"])
def test_attention_where_a_row_sees_nothing(route: str) -> None:
    """pytorch#41508: nan or numbers, as PyTorch has it, at each parameter."""
    torch.manual_seed(0)
    model = nn.MultiheadAttention(4, 2).double()
    x = numbers(3, 2, 4)
    padding = torch.tensor([[False, False, False], [True, False, False]])
    causal = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)

    def loss(model):
        return model(x, x, x, key_padding_mask=padding, attn_mask=causal, need_weights=False)[0][1:].pow(2).sum()

    expected = torch.autograd.grad(loss(model), list(model.parameters()))
    if route == "wrap":
        wrapped = mg.wrap(model)
        loss(wrapped).backward()
        found = [p.grad for p in model.parameters()]
    else:
        parameters = {n: p.detach() for n, p in model.named_parameters()}

        def of(parameters):
            out, _ = torch.func.functional_call(
                model, parameters, (x, x, x), {"key_padding_mask": padding, "attn_mask": causal, "need_weights": False}
            )
            return out[1:].pow(2).sum()

        found = list(mg.grad(of)(parameters).values())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_what_a_mask_hides_in_attention() -> None:
    """pytorch#101967: a nan in a hidden value goes through, as in PyTorch."""
    v = numbers(2, 2)
    v[1, 0] = math.nan
    mask = torch.tensor([[True, False], [True, False]])
    f = lambda q: F.scaled_dot_product_attention(q[None], A[None, :2, :2], v[None], attn_mask=mask).nansum()  # noqa: E731
    _, expected, _, _ = by_autograd(f, [A[:2, 1:]])
    torch.testing.assert_close([mg.grad(f)(A[:2, 1:])], expected, equal_nan=True)


def test_losses_of_numbers_of_two_precisions() -> None:
    """pytorch#94086: each gradient in the precision of its argument."""
    x, y = torch.tensor([0.5, 2.0]), t(1, -1)
    gradients = mg.grad(lambda x, y: ((x - y) ** 2).mean(), argnums=(0, 1))(x, y)
    torch.testing.assert_close(gradients, ((x - y).float(), y - x))


def test_eigenvectors_of_large_eigenvalues() -> None:
    """jax#40141: nan for eigenvalues beyond the integers that floats hold."""
    m = torch.diag(torch.tensor([2.0**24, 2.0**24 + 2, 2.0**24 + 4]))
    f = lambda m: torch.linalg.eigh(m)[1].abs().sum()  # noqa: E731
    _, expected, _, _ = by_autograd(f, [m])
    torch.testing.assert_close([mg.grad(f)(m)], expected)
