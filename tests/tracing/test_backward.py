"""Backwards that run autograd themselves, keep a history, use modules, or cannot be differentiated or traced."""

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

import memograd as mg
from memograd.tracing.backward import is_once_differentiable


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x * x


class OnceUnderAnother(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x * x


class OnceApart(torch.autograd.Function):
    """As ``torch.func`` wants it."""

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    backward = Once.backward


class IntoMemory(torch.autograd.Function):
    """``out=`` fails where gradients are wanted of it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.mul(g, 3 * x * x, out=torch.empty_like(x))


@pytest.mark.parametrize("function", [Once, OnceUnderAnother, IntoMemory])
def test_what_autograd_does_not_differentiate_twice_is_refused_by_name(function):
    x = torch.randn(4, dtype=torch.float64)
    first = mg.grad(lambda x: function.apply(x.sin()).sum())
    leaf = x.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(function.apply(leaf.sin()).sum(), leaf)
    torch.testing.assert_close(first(x), theirs, rtol=1e-12, atol=1e-14)
    with pytest.raises(mg.OpaqueBackwardError, match=rf"{function.__name__}, whose backward \(test_backward\.py:\d+\)"):
        mg.grad(lambda x: first(x).sum())(x)


def test_the_refusal_of_a_second_derivative_says_what_pytorch_says():
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    for library in (mg, torch.func):
        (gradient,) = library.vjp(OnceApart.apply, x)[1](torch.ones_like(x).requires_grad_())
        with pytest.raises(RuntimeError, match="marked with @once_differentiable"):
            gradient.sum().backward()


def test_the_decorator_is_found_under_others():
    assert is_once_differentiable(Once.backward) and is_once_differentiable(OnceUnderAnother.backward)
    assert not is_once_differentiable(IntoMemory.backward)


class Recomputed(torch.autograd.Function):
    """As checkpointing functions of many libraries have it."""

    @staticmethod
    def forward(ctx, f, *xs):
        ctx.f = f
        ctx.save_for_backward(*xs)
        with torch.no_grad():
            return f(*xs)

    @staticmethod
    def backward(ctx, *gs):
        xs = tuple(x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors)
        with torch.enable_grad():
            out = ctx.f(*xs)
        torch.autograd.backward((out,), gs)
        return (None, *[x.grad for x in xs])


class WithParameters(torch.autograd.Function):
    """As in guided diffusion: the parameters are arguments, and looked up through the module all the same."""

    @staticmethod
    def forward(ctx, f, count, *args):
        ctx.f, ctx.xs, ctx.parameters = f, list(args[:count]), list(args[count:])
        with torch.no_grad():
            return f(*ctx.xs)

    @staticmethod
    def backward(ctx, *gs):
        ctx.xs = [x.detach().requires_grad_(True) for x in ctx.xs]
        with torch.enable_grad():
            out = ctx.f(*[x.view_as(x) for x in ctx.xs])
        found = torch.autograd.grad(out, ctx.xs + ctx.parameters, gs, allow_unused=True)
        del ctx.xs, ctx.parameters
        return (None, None, *found)


class Kept(torch.autograd.Function):
    """Keeps the history of its forward, with the parameters in it."""

    @staticmethod
    def forward(ctx, x, module):
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.y = module(ctx.x)
        return ctx.y.detach()

    @staticmethod
    def backward(ctx, g):
        torch.autograd.backward(ctx.y, g)
        return ctx.x.grad, None


class Reversible(torch.autograd.Function):
    """The two halves of a Reformer or RevNet: the inputs are computed from the results."""

    @staticmethod
    def forward(ctx, x, f, g):
        a, b = x.chunk(2, -1)
        with torch.no_grad():
            a = a + f(b)
            b = b + g(a)
        ctx.save_for_backward(a.detach(), b.detach())
        ctx.f, ctx.g = f, g
        return torch.cat([a, b], -1)

    @staticmethod
    def backward(ctx, grad):
        grad_a, grad_b = grad.chunk(2, -1)
        a, b = ctx.saved_tensors
        with torch.enable_grad():
            a.requires_grad = True
            g_a = ctx.g(a)
            torch.autograd.backward(g_a, grad_b)
        with torch.no_grad():
            b = b - g_a
            grad_a = grad_a + a.grad
        with torch.enable_grad():
            b.requires_grad = True
            f_b = ctx.f(b)
            torch.autograd.backward(f_b, grad_a)
        with torch.no_grad():
            grad_b = grad_b + b.grad
        return torch.cat([grad_a, grad_b], -1), None, None


class Network(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first = nn.Linear(6, 6)
        self.f = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
        self.a, self.b = (nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 3)) for _ in range(2))

    def part(self, x):
        return self.f(x) + x

    def forward(self, x):
        h = self.first(x)
        if self.kind == "recomputed":
            return Recomputed.apply(self.f, Recomputed.apply(lambda x: self.f(x) * x, h))
        if self.kind == "with parameters":
            return WithParameters.apply(self.part, 1, h, *self.f.parameters())
        if self.kind == "kept":
            return Kept.apply(h, self.f)
        return Reversible.apply(Reversible.apply(h, self.a, self.b), self.b, self.a)


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("kind", ["recomputed", "with parameters", "kept", "reversible"])
def test_gradients_of_the_modules_inside_are_autograds(kind):
    torch.manual_seed(0)
    model = Network(kind).double()
    x, y = torch.randn(2, 4, 6, dtype=torch.float64)
    loss = lambda x: ((model(x) - y) ** 2).mean()  # noqa: E731
    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    theirs = {n: p.grad for n, p in model.named_parameters()}
    joint = mg.differentiate(mg.capture(loss, x))
    ours = {name.removeprefix("model."): g for name, g in joint(x)[1].items()}
    for name, gradient in theirs.items():
        if gradient is not None:
            torch.testing.assert_close(ours[name], gradient, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(mg.grad(loss)(x), leaf.grad, rtol=1e-10, atol=1e-13)
    assert all(p.grad is g for p, g in zip(model.parameters(), theirs.values(), strict=True))
    before = [p.detach().clone() for p in model.parameters()]
    mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=1.0))(x, y)
    for (name, p), old in zip(model.named_parameters(), before, strict=True):
        torch.testing.assert_close(old - p, torch.zeros_like(p) if theirs[name] is None else theirs[name])


class OfItsForward(torch.autograd.Function):
    """The gradient of an energy, in forward; its derivative by autograd once more, where autograd is asked for that."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            return torch.autograd.grad((inner**4).sum(), inner)[0]

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            y = 4 * x**3
            return torch.autograd.grad(y, x, g, create_graph=torch.is_grad_enabled())[0]


def test_gradients_in_forward_and_backward():
    x = torch.randn(5, dtype=torch.float64)
    f = lambda x: (OfItsForward.apply(x * 1) ** 2).sum()  # noqa: E731
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(mg.grad(f)(x), first.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(mg.grad(lambda x: mg.grad(f)(x).sum())(x), second, rtol=1e-11, atol=1e-13)


def test_a_kept_history_serves_several_derivatives():
    model = nn.Linear(3, 3).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    graph = mg.capture(lambda x: Kept.apply(x, model).sin().sum(), x)
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        (theirs,) = torch.autograd.grad(model(leaf).sin().sum(), leaf)
        torch.testing.assert_close(mg.differentiate(graph, ["x"])(x)[1]["x"], theirs, rtol=1e-12, atol=1e-14)


class TwoWays(torch.autograd.Function):
    """Keeps the history of its forward under ``torch.autograd.grad``."""

    @staticmethod
    def forward(ctx, x):
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            y = (inner.sin() * inner).tanh()
        ctx.save_for_backward(inner, y)
        return y.detach()

    @staticmethod
    def backward(ctx, g):
        inner, y = ctx.saved_tensors
        return torch.autograd.grad(y, inner, g, retain_graph=True)[0]


@pytest.mark.parametrize("looks", [False, True])
def test_a_kept_history_on_stand_ins_with_and_without_values(looks):
    x = torch.rand(5, dtype=torch.float64)
    f = lambda x: (TwoWays.apply(x * 2) * (3 if not looks or x.sum() > 0 else 4)).sum()  # noqa: E731
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(mg.grad(f)(x), torch.autograd.grad(f(leaf), leaf)[0], rtol=1e-12, atol=1e-14)


class Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2


class WrongShape(Nothing):
    @staticmethod
    def backward(ctx, g):
        return g.reshape(2, 2)


class TooFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        return x * scale

    @staticmethod
    def backward(ctx, g):
        return g


class NoTensor(Nothing):
    @staticmethod
    def backward(ctx, g):
        return 2.0


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (Nothing.apply, "Nothing .*NotImplementedError"),
        (WrongShape.apply, r"WrongShape .*gradient 0 has shape \(2, 2\), its input \(4,\)"),
        (lambda x: TooFew.apply(x, 2), "TooFew .*returned 1 gradients for 2 arguments"),
        (NoTensor.apply, "NoTensor .*expected a tensor or None as gradient 0, got float"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_name(f, why):
    x = torch.ones(4)
    graph = mg.capture(lambda x: f(x).sum(), x)
    with pytest.raises(mg.OpaqueBackwardError, match=why):
        mg.differentiate(graph)


def test_a_failed_attempt_draws_nothing():
    """The backward is tried with create_graph first, and leaves no operators behind when that fails."""

    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            noise = torch.rand_like(g)
            return torch.add(g, noise, out=torch.empty_like(g))

    x = torch.ones(4)
    torch.manual_seed(0)
    ours, after = mg.grad(lambda x: Noisy.apply(x).sum())(x), torch.rand(1)
    torch.manual_seed(0)
    leaf = x.clone().requires_grad_()
    assert torch.equal(ours, torch.autograd.grad(Noisy.apply(leaf).sum(), leaf)[0])
    assert torch.equal(after, torch.rand(1))


MASK = torch.tensor([0.0, 1.0, 2.0])


class Global(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * MASK


def test_a_tensor_that_only_the_backward_reads_is_an_input_of_the_graph():
    joint = mg.differentiate(mg.capture(lambda x: Global.apply(x).sum(), torch.ones(3)))
    assert joint(torch.ones(3))[1]["x"].tolist() == [0, 1, 2]
    assert [i.tensor is MASK for i in joint.inputs if i.kind == "constant"] == [True]


class Counting(torch.autograd.Function):
    """Its backward writes to a tensor that it did not make."""

    @staticmethod
    def forward(ctx, x, total, way):
        ctx.way, ctx.total = way, total
        ctx.save_for_backward(total)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        with torch.no_grad():
            {"saved": ctx.saved_tensors[0], "on ctx": ctx.total, "elsewhere": TOTAL}[ctx.way].add_(1)
        return g, None, None


TOTAL = torch.zeros(2, dtype=torch.float64)


@pytest.mark.parametrize("way", ["saved", "on ctx", "elsewhere"])
def test_a_backward_that_writes_to_what_is_not_its_own_is_refused(way):
    """pytorch#154820: the update of a buffer in a backward must not get lost, or happen in the forward pass."""
    total = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(mg.OpaqueBackwardError, match=r"Counting \(test_backward\.py:\d+\) writes to a tensor"):
        mg.grad(lambda x: Counting.apply(x, total[:2], way).sum())(torch.ones(2, dtype=torch.float64))
    assert not total.any() and not TOTAL.any()


class WritesToItsAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.sin()
        ctx.save_for_backward(y)
        return y.clone()

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        g += 1
        return y.mul_(g)


def test_a_backward_may_write_to_its_adjoint_and_to_what_forward_made():
    """pytorch#81417"""
    x = torch.linspace(-1, 1, 4, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad((WritesToItsAdjoint.apply(x) * x.cos()).sum(), x)[0]
    torch.testing.assert_close(mg.grad(lambda x: (WritesToItsAdjoint.apply(x) * x.cos()).sum())(x.detach()), expected)
