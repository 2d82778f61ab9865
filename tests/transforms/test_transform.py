"""Transforms against torch.func."""

import pytest
import torch
from torch import nn

import memograd as mg

SEEDED = torch.Generator().manual_seed(0)
X = torch.randn(4, dtype=torch.float64, generator=SEEDED)
Z = torch.randn(4, dtype=torch.float64, generator=SEEDED)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def f(x, z):
    return (x.sin() * x * z).sum()


@pytest.mark.parametrize("argnums", [0, 1, -1, (0,), (0, 1), (1, 0)])
def test_grad_argnums(argnums):
    close(mg.grad(f, argnums)(X, Z), torch.func.grad(f, argnums)(X, Z))


def test_value_and_grad():
    value, gradient = mg.value_and_grad(f)(X, Z)
    close(value, f(X, Z))
    close(gradient, torch.func.grad(f)(X, Z))


def test_has_aux_and_pytrees():
    def g(p, scale):
        y = p["a"] * p["b"][0] * scale
        return y.sum(), {"y": y, "note": "text"}

    p = {"a": X, "b": [Z]}
    (_, aux), ours = mg.value_and_grad(g, has_aux=True)(p, 2.0)
    theirs, aux_theirs = torch.func.grad(lambda p: (g(p, 2.0)[0], g(p, 2.0)[1]["y"]), has_aux=True)(p)
    close(ours["a"], theirs["a"])
    close(ours["b"][0], theirs["b"][0])
    close(aux["y"], aux_theirs)
    assert aux["note"] == "text"


@pytest.mark.parametrize("other", [1, 1.0, "abc", None])
@pytest.mark.parametrize("api", ["grad", "grad_and_value", "jacrev", "jacfwd", "vjp", "jvp"])
def test_an_aux_that_holds_no_tensors_is_refused_where_torch_func_does(api, other):
    def f(x):
        return x.sum(), [x, other]

    calls = {"vjp": lambda m: m.vjp(f, X, has_aux=True), "jvp": lambda m: m.jvp(f, (X,), (X,), has_aux=True)}
    call = calls.get(api, lambda m: getattr(m, api)(f, has_aux=True)(X))
    for module in (torch.func, mg):
        with pytest.raises(RuntimeError, match="Expected tensors, got unsupported type"):
            call(module)


def test_unused_argument_gets_zeros():
    close(mg.grad(lambda x, z: x.sum(), argnums=1)(X, Z), torch.zeros_like(Z))


def test_vjp_pulls_cotangents_back_as_torch_func_does():
    ours, pull = mg.vjp(lambda x, z: (x * z, x.exp()), X, Z)
    theirs, pull_theirs = torch.func.vjp(lambda x, z: (x * z, x.exp()), X, Z)
    close(ours, theirs)
    close(pull((Z, X)), pull_theirs((Z, X)))
    close(pull((X, X)), pull_theirs((X, X)))


def test_cotangents_may_have_other_strides_than_the_results():
    """The rule of ``reshape`` takes a view of the cotangent; results lie transposed, cotangents do not, and back."""
    x = torch.randn(4, 3, 2)

    def f(x):
        return x.transpose(0, 1)

    def g(x):
        return x.reshape(12, 2).t().reshape(2, 4, 3)

    for h, shape in ((f, (3, 4, 2)), (g, (2, 4, 3))):
        dense = torch.randn(shape)
        for seed in (dense, dense.transpose(1, 2).contiguous().transpose(1, 2), dense[:, :, :1].expand(shape)):
            expected = torch.func.vjp(h, x)[1](seed)
            torch.testing.assert_close(mg.vjp(h, x)[1](seed), expected)
        tangent = torch.randn(2, 4, 3).permute(1, 2, 0)
        torch.testing.assert_close(mg.jvp(h, (x,), (tangent,))[1], h(tangent))


def test_jvp_and_adjoint_identity():
    def g(x):
        return (x.sin() * x).cumsum(0)

    _, pushed = mg.jvp(g, (X,), (Z,))
    close(pushed, torch.func.jvp(g, (X,), (Z,))[1])
    u = torch.randn(4, dtype=torch.float64)
    (pulled,) = mg.vjp(g, X)[1](u)
    close((u * pushed).sum(), (pulled * Z).sum())


def test_jacrev_and_hessian():
    def g(x):
        return (x.sin() * x * x[0]).pow(2).sum()

    close(mg.jacrev(lambda x: x.sin() * x[0])(X), torch.func.jacrev(lambda x: x.sin() * x[0])(X))
    close(mg.hessian(g)(X), torch.func.hessian(g)(X))
    close(mg.hvp(g, (X,), (Z,))[0], torch.func.hessian(g)(X) @ Z)
    close(mg.hvp(g, X, Z), torch.func.hessian(g)(X) @ Z)


def test_nesting_over_a_closed_over_value():
    def outer(transform):
        return lambda x: (transform(lambda y: (x * y.sin() * y).sum())(Z) * x).sum()

    close(mg.grad(outer(mg.grad))(X), torch.func.grad(outer(torch.func.grad))(X))


def test_three_times():
    def g(x):
        return x.sin() * x**3

    x = torch.tensor(0.7, dtype=torch.float64)
    close(mg.grad(mg.grad(mg.grad(g)))(x), torch.func.grad(torch.func.grad(torch.func.grad(g)))(x))


def test_cache_follows_what_the_function_sees():
    scale = 2.0

    def g(x):
        return (x * scale).sum()

    gradient = mg.grad(g)
    close(gradient(X), torch.full_like(X, 2.0))
    scale = 3.0
    close(gradient(X), torch.full_like(X, 3.0))
    close(gradient(X.float()), torch.full_like(X.float(), 3.0))
    drop = nn.Dropout(0.5)
    through = mg.grad(lambda x: drop(x).sum())
    assert set(through(torch.ones(100)).unique().tolist()) == {0.0, 2.0}
    drop.eval()
    assert set(through(torch.ones(100)).unique().tolist()) == {1.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mg.grad(lambda x: x)(X), "one real number"),
        (lambda: mg.grad(lambda x: x.sum())(torch.arange(3)), "int64"),
        (lambda: mg.grad(f, argnums=5)(X, Z), "argnums"),
        (lambda: mg.grad(lambda x: x.sum(), has_aux=True)(X), "pair"),
        (lambda: mg.vjp(lambda x: x * 2, X)[1](torch.randn(3)), "cotangent"),
        (lambda: mg.jvp(lambda x: x * 2, (X,), (torch.randn(3),)), "tangent"),
        (lambda: mg.grad(3), "expected a function"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(mg.GraphError, match=message):
        call()


TRANSFORMS = {
    "grad": lambda library, f, x: library.grad(lambda x: f(x).sum())(x),
    "vjp": lambda library, f, x: library.vjp(f, x)[1](x),
    "jvp": lambda library, f, x: library.jvp(f, (x,), (x,)),
    "linearize": lambda library, f, x: library.linearize(f, x)[1](x),
    "jacrev": lambda library, f, x: library.jacrev(f)(x),
    "jacfwd": lambda library, f, x: library.jacfwd(f)(x),
    "hessian": lambda library, f, x: library.hessian(lambda x: f(x).sum())(x),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_follows_what_the_function_reads_and_leaves_in_objects(name):
    x = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
    state = {library: _State() for library in (mg, torch.func)}
    functions = {library: _left_in(own) for library, own in state.items()}
    for calls, scale in enumerate((2.0, 5.0, 5.0), 1):
        results = []
        for library, own in state.items():
            own.scale = scale
            results.append((TRANSFORMS[name](library, functions[library], x), own.last))
        assert state[mg].calls == calls
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


class _State:
    scale, calls, last = 1.0, 0, None


def _left_in(own):
    def f(x):
        own.calls += 1
        own.last = own.scale * torch.ones(2)
        return (own.scale * x).sin()

    return f
