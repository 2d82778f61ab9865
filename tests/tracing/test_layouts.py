"""Strides of traced results are those of kernels; and where they are not, a step is right all the same."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memograd as mg
from memograd._torch import FAKE, fake_like
from memograd.errors import CaptureError
from memograd.lower.lower import lower
from memograd.pipeline import capture, differentiate
from memograd.run.eager import Eager
from memograd.tracing import layouts, shapes_seen
from memograd.verify.layouts import LAYOUTS, unlike

T = torch.Tensor


def random(*shape: int) -> T:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


LINEAR = nn.Linear(5, 4).double()
TARGET = random(3, 4, 6)

# What people write between a transposed activation and the end of a model.
PROGRAMS: dict[str, Callable[[T], T]] = {
    "mse": lambda h: F.mse_loss(h, TARGET),
    "smooth l1": lambda h: F.smooth_l1_loss(h, TARGET),
    "huber": lambda h: F.huber_loss(h, TARGET),
    "l1": lambda h: F.l1_loss(h, TARGET),
    "bce": lambda h: F.binary_cross_entropy_with_logits(h, TARGET.sigmoid()),
    "cross entropy": lambda h: F.cross_entropy(h, TARGET.argmax(1)),
    "log softmax": lambda h: (h.log_softmax(1).transpose(1, 2) * h.transpose(1, 2).contiguous()).sum(),
    "layer norm": lambda h: (F.layer_norm(h, (6,)).transpose(1, 2) ** 3).sum(),
    "batch norm": lambda h: (F.batch_norm(h, None, None, training=True).transpose(1, 2) ** 3).sum(),
    **{
        f.__name__: lambda h, f=f: (f(h.transpose(1, 2)).transpose(1, 2) * TARGET).sum()
        for f in (
            F.softplus, F.elu, F.hardswish, F.hardtanh, F.hardsigmoid, F.leaky_relu, F.logsigmoid, F.silu, F.gelu,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_loss_of_a_transposed_activation_has_autograds_gradients(name: str) -> None:
    def loss(x: T) -> T:
        return PROGRAMS[name](LINEAR(x).transpose(1, 2))

    x = random(3, 6, 5).requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(mg.grad(loss)(x.detach()), expected)

    def slope(x: T) -> T:
        return mg.grad(loss)(x).pow(2).sum()

    (inner,) = torch.autograd.grad(loss(x), x, create_graph=True)
    if inner.requires_grad and name != "hardsigmoid":  # whose second derivative autograd does not have
        (expected,) = torch.autograd.grad(inner.pow(2).sum(), x, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(mg.grad(slope)(x.detach()), expected)


def test_attention_with_weights_trains() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
    x = random(2, 5, 8)

    def loss(x: T) -> T:
        y, weights = attention(x, x, x, need_weights=True)
        return F.mse_loss(y.transpose(1, 2), x.transpose(1, 2)) + weights.pow(2).sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(mg.grad(loss)(x), expected)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: F.logsigmoid(x.t()).view(-1),
        lambda x: torch.pow(2.0, x.t()).view(-1),
        lambda x: F.batch_norm(x.t().unsqueeze(0), None, None, training=True).view(-1),
        lambda x: torch.slice_scatter(x[:1].expand(3, 4), x[:, :1], 1, 1, 2).view(-1),
        lambda x: torch.select_scatter(x[:1].expand(3, 4), x[:, 0], 1, 1).view(-1),
        lambda x: torch.diagonal_scatter(x[:1].expand(3, 4), x[:, 0]).view(-1),
    ],
)
def test_a_view_that_exists_for_the_kernels_result_exists_in_a_capture(f: Callable[[T], T]) -> None:
    x = random(3, 4)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf).pow(2).sum(), leaf)
    torch.testing.assert_close(mg.grad(lambda x: f(x).pow(2).sum())(x), expected)


OF_TWO = """complex floor_divide hardsigmoid_backward hardswish_backward heaviside logaddexp logaddexp2 logical_and
    logical_or logical_xor logit_backward polar softplus_backward special_xlog1py xlogy isin _weight_norm_interface"""
OF_THREE = "log_sigmoid_backward rrelu_with_noise_backward"


@pytest.mark.parametrize("name", [*OF_TWO.split(), *OF_THREE.split(), "_standard_gamma", "poisson", "uniform"])
def test_a_kernel_of_operands_that_lie_in_different_ways(name: str) -> None:
    overload = {"isin": "Tensor_Tensor", "xlogy": "Tensor"}.get(name, "default")
    operator = getattr(getattr(torch.ops.aten, name), overload)
    numbers = {"softplus_backward": (1.0, 20.0), "rrelu_with_noise_backward": (0.1, 0.3, True, False)}.get(name, ())
    count = 2 if name in OF_TWO.split() else 3 if name in OF_THREE.split() else 1
    base = random(4, 4).sigmoid()
    for ways in itertools.product(("plain", "reversed", "expanded", "gaps, reversed"), repeat=count):
        operands = [LAYOUTS[way](base) for way in ways]
        real = operator(*operands, *numbers)
        with FAKE:
            fakes = [fake_like(x) for x in operands]
            traced = shapes_seen.result_of(operator, (*fakes, *numbers), {})
        first, said = (y[0] if isinstance(y, tuple) else y for y in (real, traced))
        assert first.stride() == said.stride(), ways


def written(z: T) -> T:
    """A write to half of each row of complex numbers, in one of two slices of them."""
    z = z.clone()
    z[:, :2][:1].mul_(2)
    return z[:, :2]


@pytest.mark.parametrize(
    "f", [lambda z: z.t().angle(), lambda z: written(z).real, lambda z: torch.fft.irfft2(z.expand(2, 3, 4))]
)
def test_complex_numbers_lie_as_traced(f: Callable[[T], T]) -> None:
    z = torch.complex(random(3, 4), random(3, 4).flip(0))
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf).pow(2).sum(), leaf)
    torch.testing.assert_close(mg.grad(lambda z: f(z).pow(2).sum())(z), expected)
    graph = differentiate(capture(lambda z: f(z).pow(2).sum(), z), ["z"])
    assert not list(unlike(graph, graph.bind((z,), {})))


def test_where_strides_are_not_as_traced_views_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device whose kernels nobody has compared, say."""
    monkeypatch.setattr(layouts, "_EVERYWHERE", {})
    monkeypatch.setattr(shapes_seen, "_ANSWERS", {})
    x = random(3, 6, 5)

    def loss(x: T) -> T:
        return F.mse_loss(LINEAR(x).transpose(1, 2), TARGET)

    graph = differentiate(capture(loss, x), ["x"])
    flat = graph.bind((x,), {})
    assert list(unlike(graph, flat)), "the traced strides are not the kernel's: that is the point"
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(Eager(lower(graph)).compute([t.detach() for t in flat])[-1], expected)
    torch.testing.assert_close(mg.grad(loss)(x), expected)


@pytest.mark.parametrize("budget", [None, "100%"])
@pytest.mark.parametrize("known", [True, False])
def test_a_step_on_transposed_activations(monkeypatch: pytest.MonkeyPatch, known: bool, budget: str | None) -> None:
    if not known:
        monkeypatch.setattr(layouts, "_EVERYWHERE", {})
        monkeypatch.setattr(layouts, "_CPU", {})
        monkeypatch.setattr(shapes_seen, "_ANSWERS", {})

    class Transposed(nn.Sequential):
        def forward(self, x: T) -> T:
            return F.hardswish(super().forward(x)).transpose(1, 2)

    torch.manual_seed(0)
    model = Transposed(nn.Linear(5, 16), nn.BatchNorm1d(6), nn.ELU(), nn.Linear(16, 4)).double()
    theirs = copy.deepcopy(model)
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), memory_budget=budget)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    x = random(3, 6, 5)
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(theirs(x), TARGET).backward()
        optimizer.step()
        step(x, TARGET)
    for p, q in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_two_operands_that_disagree_follow_the_first_as_in_the_kernel() -> None:
    g, x = random(4, 5).t(), random(5, 4)
    graph = capture(lambda g, x: torch.ops.aten.hardswish_backward(g, x), g, x)
    assert not list(unlike(graph, graph.bind((g, x), {})))
    assert graph.results[0].meta["val"].stride() == (1, 5)


def test_a_graph_of_an_expanded_argument_refuses_one_that_is_not() -> None:
    graph = capture(lambda x: x * x, random(3, 1).expand(3, 4))
    torch.testing.assert_close(graph(random(3, 1).expand(3, 4)), random(3, 1).expand(3, 4) ** 2)
    with pytest.raises(CaptureError, match="capture again"):
        graph(random(3, 4))
