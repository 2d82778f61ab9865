"""Whole functions against torch.autograd and torch.func: views of views, pytrees, argnums, Hessians of networks."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import memograd as mg
from memograd._torch import pytree


def numbers(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10, check_stride=False)


def views_of_views(x):
    y = x.transpose(0, 1)[1:].unfold(1, 2, 1).diagonal(0, 0, 1)
    return y.flip(0).expand(3, -1, -1).permute(2, 0, 1).reshape(-1)[::2].view(-1, 1).exp()


def views_that_overlap(x):
    windows = x.reshape(-1).unfold(0, 5, 2)
    return windows.T.unfold(0, 2, 1).sum(-1) * windows.as_strided((4, 2), (1, 3)).prod()


def repeated_indices(x):
    i, j = torch.tensor([0, 2, 2, 0, 0]), torch.tensor([[1], [1], [3], [1], [0]])
    y = x[i, j[:, 0]] * x[i].gather(1, j)[:, 0]
    return torch.zeros(4, 2, dtype=x.dtype).index_put((i[:3],), x[:, :2], accumulate=True).sum() + y.index_add(
        0, i[:2], y[3:]
    )


def written_through_views(x):
    y = x.clone()
    row = y[1]
    row.mul_(x[0])
    y.t()[2].add_(row[0])
    y[:, 1:3].copy_(x[:, :2].sin())
    y[y.shape[0] - 1 :, ::2] = row[::2] * 2
    y[:2, 1:].square_()
    return y * x


def a_view_read_before_and_after_a_write(x):
    y = x * 2
    diagonal = y.diagonal()
    before = diagonal + 1
    y[0].zero_()
    return before.sin() * diagonal.exp() + y[:, 0]


def nothing_at_all(x):
    empty = x[:, :0]
    total = torch.cat([empty, x, empty], 1).sum() + empty.sum() + empty.prod() + (empty @ empty.T).sum()
    return total * x[3:].reshape(0, 2, 2).sum((0, 1)).exp()


def chunks_and_stacks(x):
    a, b = torch.stack([x, x.sin(), x * 3]).unbind(0)[::2]
    c, *rest = torch.cat([a, b], 1).split([3, 2, 3], 1)
    return torch.einsum("ij,kj,ik->i", c, c, rest[0] @ rest[0].mT) + rest[1].logsumexp(1)


def branches_and_loops(x):
    h = x
    for k in range(4):
        h = torch.tanh(h @ x.T @ x) + (h if k % 2 else -h)
    return h.where(x.abs() > 0.5, h.square())


FUNCTIONS = [
    views_of_views,
    views_that_overlap,
    repeated_indices,
    written_through_views,
    a_view_read_before_and_after_a_write,
    nothing_at_all,
    chunks_and_stacks,
    branches_and_loops,
]


def layouts(rows, columns):
    """The same kind of argument, in memory row by row, column by column, with gaps."""
    return {
        "rows": numbers(rows, columns),
        "columns": numbers(columns, rows).T,
        "gaps": numbers(2 * rows, 3 * columns)[1::2, ::3],
    }


@pytest.mark.one_in(3)
@pytest.mark.parametrize("layout", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_first_and_second_derivative(f, layout):
    x = layouts(3, 4)[layout]
    if f is a_view_read_before_and_after_a_write:
        x = x[:, :3]
    if f is views_that_overlap and layout == "gaps":
        x = x.clone()  # it counts memory from the start
    leaf = x.detach().requires_grad_()
    out = f(leaf)
    u, v = numbers(*out.shape, seed=1), numbers(*x.shape, seed=2)
    (gradient,) = torch.autograd.grad(out, leaf, u, create_graph=True)
    value, pull = mg.vjp(f, x)
    equal(value, out.detach())
    equal(pull(u)[0], gradient.detach())
    (second,) = torch.autograd.grad(gradient, leaf, v)
    equal(mg.hvp(lambda x: (f(x) * u).sum(), x, v), second)


def test_repeated_argument():
    x = numbers(3)
    equal(mg.grad(lambda a, b: (a * b.exp()).sum(), argnums=(0, 1))(x, x), (x.exp(), x * x.exp()))


# -- containers --------------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["left", "right"])


def of_containers(p, q, scale):
    total = p["w"] @ q.left + p["more"][1] * scale
    return {"sum": total.sum(), "pair": Pair(total.sin(), (q.right, total * 2)), "flag": True, "none": None}


def arguments():
    return (
        {"w": numbers(2, 3), "more": [numbers(2, seed=1), numbers(2, seed=2)]},
        Pair(numbers(3, seed=3), numbers(1, seed=4)),
        numbers(seed=5),
    )


def tensors_only(out):
    return {"sum": out["sum"], "pair": out["pair"]}


def test_pytrees_in_and_out():
    def f(*args):
        return tensors_only(of_containers(*args))

    out, pull = mg.vjp(f, *arguments())
    theirs, their_pull = torch.func.vjp(f, *arguments())[:2]
    equal(out, theirs)
    assert isinstance(out["pair"], Pair)
    ones = {"sum": torch.ones_like(out["sum"]), "pair": Pair(out["pair"][0], (out["pair"][1][0], out["pair"][0]))}
    ours = pull(ones)
    equal(ours, their_pull(ones))
    assert isinstance(ours[1], Pair)


def test_jvp_of_pytrees():
    ways = pytree.tree_map(torch.ones_like, arguments())

    def f(*args):
        return tensors_only(of_containers(*args))

    equal(mg.jvp(f, arguments(), ways), torch.func.jvp(f, arguments(), ways))


def test_jacobians_of_pytrees():
    def f(*args):
        return tensors_only(of_containers(*args))

    equal(mg.jacrev(f, argnums=(0, 1))(*arguments()), torch.func.jacrev(f, argnums=(0, 1))(*arguments()))


@pytest.mark.parametrize("argnums", [0, 1, -1, -2, (0,), (2, 0), (-1, 1), (0, 1, 2)], ids=str)
def test_gradients_by_any_argnums_are_those_of_torch_func(argnums):
    def loss(p, q, scale):
        return of_containers(p, q, scale)["pair"].right[1].square().sum()

    equal(mg.grad(loss, argnums=argnums)(*arguments()), torch.func.grad(loss, argnums=argnums)(*arguments()))
    value, found = mg.value_and_grad(loss, argnums=argnums)(*arguments())
    expected, expected_value = torch.func.grad_and_value(loss, argnums=argnums)(*arguments())
    equal((value, found), (expected_value, expected))


def test_has_aux():
    def loss(x, y):
        hidden = x * y
        return hidden.sum(), {"hidden": hidden, "size": 3}

    x, y = numbers(3), numbers(3, seed=1)
    (_, aux), gradient = mg.value_and_grad(loss, argnums=(1, 0), has_aux=True)(x, y)
    equal(gradient, (x, y))
    equal(aux["hidden"], x * y)
    assert aux["size"] == 3 and not aux["hidden"].requires_grad


# -- nested transforms -------------------------------------------------------------------------------------------------


def wave(x):
    return (x.sin() * x.cumsum(0).exp()).sum()


def test_nested_gradients():
    def third(t, x):
        return t.grad(lambda x: t.grad(lambda x: (t.grad(wave)(x) * x).sum())(x)[1])(x)

    equal(third(mg, numbers(3)), third(torch.func, numbers(3)))


def test_a_gradient_inside_a_function():
    """As in gradient penalties: the loss contains a gradient with respect to another argument."""

    def penalty(t):
        return lambda w, x: t.grad(lambda x: (x @ w).tanh().sum())(x).square().sum()

    w, x = numbers(3, 2), numbers(4, 3, seed=1)
    equal(mg.grad(penalty(mg))(w, x), torch.func.grad(penalty(torch.func))(w, x))


def test_jvp_of_a_gradient_and_gradient_of_a_jvp():
    x, v = numbers(3), numbers(3, seed=1)
    equal(mg.jvp(mg.grad(wave), (x,), (v,))[1], torch.func.jvp(torch.func.grad(wave), (x,), (v,))[1])
    equal(
        mg.grad(lambda x: mg.jvp(wave, (x,), (v,))[1])(x),
        torch.func.grad(lambda x: torch.func.jvp(wave, (x,), (v,))[1])(x),
    )


# -- Hessians ----------------------------------------------------------------------------------------------------------


def attention(x):
    q, k, v = x.reshape(3, 1, 2, 3, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).square().sum()


def seeded(build):
    torch.manual_seed(0)
    return build().double()


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.GELU()), (2, 4)),
    "softmax": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)), (2, 4)),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 2)), (2, 4)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(2, 2, 2, padding=1), nn.Softplus(), nn.AvgPool2d(2)), (1, 2, 3, 3)),
    "batch norm": (lambda: nn.Sequential(nn.BatchNorm1d(3), nn.ELU(), nn.Linear(3, 2)), (3, 3)),
    "attention": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), (1, 3, 4)),
    "encoder": (lambda: nn.TransformerEncoderLayer(4, 2, 5, 0.0, "gelu", batch_first=True), (1, 3, 4)),
    "gru": (lambda: nn.GRU(2, 3, batch_first=True), (1, 3, 2)),
}


def loss_of(model):
    def loss(x):
        out = model(x, x, x) if isinstance(model, nn.MultiheadAttention) else model(x)
        out = out[0] if isinstance(out, tuple) else out
        return (out * torch.linspace(1, 2, out.numel()).reshape(out.shape)).square().sum()

    return loss


def hessian(f, x):
    """By autograd, which differentiates attention twice in this form only."""
    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(f, x)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", MODELS)
def test_hessian_with_respect_to_the_input(name):
    build, shape = MODELS[name]
    loss, x, v = loss_of(seeded(build)), numbers(*shape), numbers(*shape, seed=1)
    expected = hessian(loss, x)
    equal(mg.hessian(loss)(x), expected)
    equal(mg.hvp(loss, x, v), torch.tensordot(expected, v, x.dim()))


def test_hessian_by_parameter():
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    x, parameters = numbers(4, 2), dict(model.named_parameters())
    parameters = {name: p.detach() for name, p in parameters.items()}

    def loss(parameters):
        return functional_call(model, parameters, (x,)).square().mean()

    equal(mg.hessian(loss)(parameters), torch.func.hessian(loss)(parameters))
    ways = {name: torch.ones_like(p) for name, p in parameters.items()}
    expected = torch.func.jvp(torch.func.grad(loss), (parameters,), (ways,))[1]
    equal(mg.hvp(loss, (parameters,), (ways,))[0], expected)


def test_hessian_of_fused_attention():
    equal(mg.hessian(attention)(numbers(36)), hessian(attention, numbers(36)))


def test_a_generator_is_no_part_of_a_graph():
    with pytest.raises(mg.CaptureError, match=r"draws from a torch\.Generator"):
        mg.capture(lambda x: (x * numbers(3)).sum(), numbers(3))
    equal(mg.grad(lambda x: (x * numbers(3)).sum())(numbers(3)), numbers(3))
