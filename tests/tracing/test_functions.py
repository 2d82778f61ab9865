"""Users' autograd.Functions with their own backward, against torch.autograd: gradients of first and second order."""

import gc
import math
import weakref
from typing import ClassVar

import pytest
import torch
from torch import nn

import memograd as mg
from memograd.rules import registry
from memograd.tracing.functions import CALLS


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Reverse(torch.autograd.Function):
    """Gradient reversal: forward returns its input, backward is not its derivative."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x

    @staticmethod
    def backward(ctx, g):
        return -ctx.scale * g, None


class Gelu(torch.autograd.Function):
    """In the form that Bloom has it: the saved tensors are passed on as a tuple."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 0.5 * (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))

    @staticmethod
    def backward(ctx, g):
        saved = ctx.saved_tensors
        x = saved[0]
        t = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
        return (0.5 * x * ((1 - t * t) * (0.79788456 + 0.1070322243 * x * x)) + 0.5 * (1 + t)) * g


class TripleExp(torch.autograd.Function):
    """Saves its result; its backward is three times the derivative, so that nobody else's can pass for it."""

    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return 3 * g * y


class OnAttributes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, options):
        y = x.exp()
        ctx.held = [y, {"x": x}]
        ctx.options = options
        return y

    @staticmethod
    def backward(ctx, g):
        y, held = ctx.held
        return 3 * g * y + held["x"] * g * ctx.options["scale"], None


class Intermediate(torch.autograd.Function):
    """Saves something that is neither argument nor result: a constant to autograd's second derivative."""

    @staticmethod
    def forward(ctx, x):
        m = x.sin()
        ctx.save_for_backward(m, None, x)
        return m * x

    @staticmethod
    def backward(ctx, g):
        m, none, x = ctx.saved_tensors
        assert none is None
        return g * (m + x * x.cos())


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        x.mul_(2).exp_()
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return 5 * g * y


class Sort(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        values, indices = x.sort(-1)
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(x, indices)
        return values, indices

    @staticmethod
    def backward(ctx, g, h):
        x, indices = ctx.saved_tensors
        assert h is not None
        return torch.zeros_like(x).scatter_add_(-1, indices, g)


class WithConstant(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        a, b = x.sin(), x.cos()
        ctx.mark_non_differentiable(b)
        ctx.save_for_backward(b)
        return a, b

    @staticmethod
    def backward(ctx, g, h):
        (b,) = ctx.saved_tensors
        return g * b + h


class Unmaterialized(torch.autograd.Function):
    """Several results, one of them no tensor, and None where there is no adjoint."""

    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x.sin(), x.cos(), 3

    @staticmethod
    def backward(ctx, g, h, n):
        (x,) = ctx.saved_tensors
        assert n is None
        parts = [] if g is None else [g * x.cos()]
        if h is not None:
            parts.append(-2 * h * x.sin())
        return sum(parts)


class Separate(torch.autograd.Function):
    """``setup_context`` in a method of its own, default arguments, and what torch.vmap needs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, k=2.0):
        return x**3 * k, x.sum()

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.k = inputs
        ctx.save_for_backward(x, output[0])

    @staticmethod
    def backward(ctx, g, h):
        x, y = ctx.saved_tensors
        return 3 * x * x * g * ctx.k + h + y * g, None

    @staticmethod
    def jvp(ctx, *tangents):
        raise AssertionError("there is no forward mode here")


class Views(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x[:, ::2], x.t()

    @staticmethod
    def backward(ctx, g, h):
        out = g.new_zeros(4, 6)
        out[:, ::2] = 2 * g
        return out + 3 * h.t()


class Some(torch.autograd.Function):
    @staticmethod
    def forward(ctx, n, *xs):
        return tuple(x * n for x in xs)

    @staticmethod
    def backward(ctx, *gs):
        return (None, *[3 * g for g in gs])


class Detaching(torch.autograd.Function):
    """What its backward detaches has no second derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        with torch.no_grad():
            half = x * 0.5
        return g * 1.5 * x.detach() + g * half


class Nested(torch.autograd.Function):
    """Another Function in forward and backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return TripleExp.apply(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * TripleExp.apply(x)


class Writing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        g = g.clone()
        g[x.abs() > 1] = 0
        g *= 2
        return g


class Vjp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def vjp(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * g * x.cos()


class Spectral(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(w)
        ctx.n = x.shape[-1]
        return torch.fft.irfft(torch.fft.rfft(x) * w, n=ctx.n)

    @staticmethod
    def backward(ctx, g):
        (w,) = ctx.saved_tensors
        return torch.fft.irfft(torch.fft.rfft(g) * w.conj(), n=ctx.n), None


class Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w if ctx.needs_input_grad[0] else None, g * x if ctx.needs_input_grad[1] else None


def in_no_grad(x):
    with torch.no_grad():
        y = TripleExp.apply(x)
    return y * x


def on_a_view(x):
    y = x * 0.3
    InPlace.apply(y[1])
    return y * x


def defined_inside(x):
    class Local(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z * x

        @staticmethod
        def backward(ctx, g):
            return 2 * g * x

    return Local.apply(x.sin())


def gradient_inside(x):
    (g,) = torch.autograd.grad((TripleExp.apply(x.sin()) ** 2).sum(), x, create_graph=True)
    return g * x


early = TripleExp.apply
W = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 6)
PROGRAMS = {
    "straight through": lambda x: StraightThrough.apply(x * 2) * x,
    "the input itself": lambda x: Reverse.apply(x.sin(), 0.3) * x,
    "an argument of the program itself": lambda x: Reverse.apply(x, 0.3) * x,
    "saved argument": lambda x: Gelu.apply(x * W) ** 2,
    "saved result": lambda x: early(x.sin()) * x,
    "attributes": lambda x: OnAttributes.apply(x.sin(), {"scale": 0.7}) * x,
    "saved intermediate": lambda x: Intermediate.apply(x.sin()) * x,
    "written in place": lambda x: InPlace.apply(x * 0.3) * x,
    "a view written in place": on_a_view,
    "indices": lambda x: Sort.apply(x)[0] * Sort.apply(x)[1] * x,
    "a constant result": lambda x: WithConstant.apply(x)[0] * WithConstant.apply(x)[1] * x,
    "no zeros": lambda x: Unmaterialized.apply(x)[0] ** 2 + Unmaterialized.apply(x)[1] ** 3,
    "a number": lambda x: math.prod(Unmaterialized.apply(x)),
    "setup_context": lambda x: Separate.apply(x)[0] ** 2 + Separate.apply(x, 3.0)[1],
    "keyword": lambda x: Separate.apply(x, k=5.0)[0] ** 2,
    "inside vmap": lambda x: torch.vmap(lambda row: Separate.apply(row)[0])(x) ** 2,
    "inside torch.func": lambda x: torch.func.grad(lambda r: Separate.apply(r)[0].sum())(x) ** 2,
    "views": lambda x: (Views.apply(x.sin())[0] ** 2).sum() + (Views.apply(x)[1] ** 3).sum(),
    "several": lambda x: Some.apply(3, x, x.sin())[1] * Some.apply(2, x)[0],
    "stops in the backward": lambda x: Detaching.apply(x) ** 2,
    "one in another": lambda x: Nested.apply(x) ** 2,
    "writes in the backward": lambda x: Writing.apply(x * 1.5) * x.sin(),
    "vjp": lambda x: Vjp.apply(x) ** 2,
    "complex": lambda x: Spectral.apply(x, torch.complex(W, W.cos())[:, :4]) ** 2,
    "some needed": lambda x: Masked.apply(x, W) ** 2,
    "all needed": lambda x: Masked.apply(x, x.sin()) ** 2,
    "no_grad": in_no_grad,
    "of a constant": lambda x: TripleExp.apply(W) * x,
    "defined inside": defined_inside,
    "a gradient inside": gradient_inside,
}


def both_orders(f, x, way):
    """The gradient of ``f(x).sum()``, and that of its product with ``way``."""
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(leaf).sum(), leaf, create_graph=True)
    if not first.requires_grad:
        return first, torch.zeros_like(x)
    (second,) = torch.autograd.grad((first * way).sum(), leaf, allow_unused=True)
    return first.detach(), torch.zeros_like(x) if second is None else second


def refused_by_pytorch(f, x, words):
    """Skips the test where this version of PyTorch cannot be the witness."""
    try:
        f(x)
    except TypeError as error:
        if words not in str(error):
            raise
        pytest.skip(f"PyTorch {torch.__version__}: {error}")


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_autograd_does(name):
    torch.manual_seed(0)
    x, way = torch.randn(2, 4, 6, dtype=torch.float64)
    f = PROGRAMS[name]
    if name == "keyword":
        refused_by_pytorch(f, x, "takes no keyword arguments")
    first, second = both_orders(f, x, way)
    value, ours = mg.value_and_grad(lambda x: f(x).sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(value, f(leaf).sum().detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours, first, rtol=1e-10, atol=1e-12)
    again = mg.grad(lambda x: (mg.grad(lambda x: f(x).sum())(x) * way).sum())(x)
    torch.testing.assert_close(again, second, rtol=1e-9, atol=1e-11)


def test_transforms_of_it():
    x = torch.randn(5, dtype=torch.float64)
    f = lambda x: TripleExp.apply(x.sin()) * x  # noqa: E731
    leaf = x.clone().requires_grad_()
    out, pull = mg.vjp(f, x)
    torch.testing.assert_close(pull(out)[0], torch.autograd.grad(f(leaf), leaf, out)[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(mg.jacrev(f)(x), torch.autograd.functional.jacobian(f, x), rtol=1e-12, atol=1e-14)
    theirs = torch.autograd.functional.hessian(lambda x: f(x).sum(), x)
    torch.testing.assert_close(mg.hessian(lambda x: f(x).sum())(x), theirs, rtol=1e-12, atol=1e-14)


def test_what_an_inner_transform_closes_over_is_differentiated():
    x = torch.randn(5, dtype=torch.float64)

    def theirs(x):
        z = x.sin()
        (g,) = torch.autograd.grad((Masked.apply(z, x.cos()) * z).sum(), z, create_graph=True)
        return (g**2).sum()

    ours = mg.grad(lambda x: (mg.grad(lambda z: (Masked.apply(z, x.cos()) * z).sum())(x.sin()) ** 2).sum())
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(ours(x), torch.autograd.grad(theirs(leaf), leaf)[0], rtol=1e-12, atol=1e-14)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(6, 6)

    def forward(self, x):
        return Masked.apply(Reverse.apply(self.scale(x), 0.5), self.scale.weight[0])


def test_in_a_step():
    torch.manual_seed(0)
    theirs, ours = Linear().double(), Linear().double()
    ours.load_state_dict(theirs.state_dict())
    x, y = torch.randn(2, 4, 6, dtype=torch.float64)
    step = mg.TrainStep(ours, nn.MSELoss(), torch.optim.SGD(ours.parameters(), lr=0.1))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(3):
        step(x, y)
        optimizer.zero_grad()
        nn.MSELoss()(theirs(x), y).backward()
        optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


class Asked(torch.autograd.Function):
    seen: ClassVar[list[tuple[bool, ...]]] = []

    @staticmethod
    def forward(ctx, x, n, w, b):
        return x * w + b * n

    @staticmethod
    def backward(ctx, g):
        Asked.seen.append(ctx.needs_input_grad)
        return g, None, g, g


def test_it_is_told_what_is_differentiated():
    x = torch.randn(3)
    Asked.seen.clear()
    f = lambda x, w: Asked.apply(x, 2, w, torch.ones(3)).sum()  # noqa: E731
    with mg.testing.check_transforms(False):  # every call counts
        mg.grad(f)(x, x)
        mg.grad(f, argnums=1)(x, x)
        mg.grad(f, argnums=(0, 1))(x, x)
    assert Asked.seen == [(True, False, False, False), (False, False, True, False), (True, False, True, False)]


def test_the_class_is_left_as_it_was():
    before = dict(vars(Reverse))
    mg.grad(lambda x: Reverse.apply(x, 1.0).sum())(torch.randn(2))
    assert vars(Reverse) == before
    assert "apply" not in vars(torch.autograd.Function.__mro__[1])


def test_calls_are_kept_for_as_long_as_a_graph_or_its_function_is():
    graph = mg.capture(lambda x: TripleExp.apply(x).sum(), torch.randn(2))
    joint = mg.differentiate(graph)
    call = weakref.ref(next(n.target for n in joint.nodes if hasattr(n.target, "number")))
    number = call().number
    scope = {}
    exec(joint.code, scope)
    assert scope["graph"](torch.zeros(2))[1].tolist() == [3, 3]
    function = joint.function
    del graph, joint, scope
    gc.collect()
    assert function(torch.zeros(2))[1].tolist() == [3, 3]
    del function
    gc.collect()
    assert call() is None and number not in CALLS


@torch.library.custom_op("memograd_test_functions::scaled_cube", mutates_args=())
def scaled_cube(x: torch.Tensor, k: float = 2.0) -> torch.Tensor:
    return x**3 * k


@torch.library.custom_op("memograd_test_functions::twice_each", mutates_args=())
def twice_each(xs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x * 2 for x in xs]


def keep_first(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.k = inputs[1]


scaled_cube.register_fake(lambda x, k=2.0: torch.empty_like(x))
scaled_cube.register_autograd(
    lambda ctx, g: (5 * g * ctx.saved_tensors[0] ** 2 * ctx.k, None), setup_context=keep_first
)
twice_each.register_fake(lambda xs: [torch.empty_like(x) for x in xs])
twice_each.register_autograd(
    lambda ctx, gs: [g * x for g, x in zip(gs, ctx.saved_tensors, strict=True)],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[0]),
)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: scaled_cube(x.sin(), 3.0) * x,
        lambda x: twice_each([x.sin(), x.cos()])[1] * twice_each([x])[0],
    ],
)
def test_the_registered_backward_of_a_custom_operator_is_used(f):
    x, way = torch.randn(2, 5, dtype=torch.float64)
    first, second = both_orders(f, x, way)
    torch.testing.assert_close(mg.grad(lambda x: f(x).sum())(x), first, rtol=1e-12, atol=1e-14)
    again = mg.grad(lambda x: (mg.grad(lambda x: f(x).sum())(x) * way).sum())(x)
    torch.testing.assert_close(again, second, rtol=1e-11, atol=1e-13)


def test_a_rule_goes_before_a_registered_backward():
    @torch.library.custom_op("memograd_test_functions::ruled", mutates_args=())
    def ruled(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    ruled.register_fake(torch.empty_like)
    ruled.register_autograd(lambda ctx, g: 3 * g)
    assert mg.grad(lambda x: ruled(x).sum())(torch.ones(2)).tolist() == [3, 3]
    mg.rule(torch.ops.memograd_test_functions.ruled.default)(lambda adjoint, y, x: 7 * adjoint)
    with mg.testing.check_transforms(False):  # the rule is not what is registered, on purpose
        assert mg.grad(lambda x: ruled(x).sum())(torch.ones(2)).tolist() == [7, 7]


class Rounded(torch.autograd.Function):
    """Two results, an index and a number among the arguments, and a backward that stops what rounding stops."""

    @staticmethod
    def forward(ctx, x, index, factor):
        return (x[index] * factor).round(), x.exp()

    @staticmethod
    def backward(ctx, first, second):
        raise AssertionError("the rule goes before it")


def test_a_rule_goes_before_the_backward_of_a_function(monkeypatch):
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))

    @mg.rule(Rounded)
    def straight_through(adjoint, y, x, index, factor):
        return torch.zeros_like(x).index_add(0, index, adjoint[0] * factor) + adjoint[1] * y[1]

    def f(x, ours=True):
        index = torch.tensor([0, 1, 1])
        first, second = Rounded.apply(x, index, 3.0) if ours else (x[index] * 3, x.exp())
        return first.sum() + (second * x).sum()

    x = torch.linspace(0.1, 2, 4, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(leaf, ours=False), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(mg.grad(lambda x: f(x))(x), first.detach())
    torch.testing.assert_close(mg.grad(lambda x: mg.grad(f)(x).sum())(x), second)
