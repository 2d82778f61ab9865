"""``vjp`` against torch.func."""

import pytest
import torch

import memograd as mg
from memograd import pipeline
from memograd.tracing.capture import trace

X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_has_aux():
    f = lambda x: (x.sin(), {"cos": x.cos()})  # noqa: E731
    out, pull, aux = mg.vjp(f, X, has_aux=True)
    theirs, pull_theirs, aux_theirs = torch.func.vjp(f, X, has_aux=True)
    close((out, aux, pull(X)), (theirs, aux_theirs, pull_theirs(X)))


def test_results_that_have_no_derivative_may_be_aux():
    with pytest.raises(mg.GraphError, match="floating-point or complex"):
        mg.vjp(lambda x: x.argmax(), X)
    out, pull, aux = mg.vjp(lambda x: (x.sin(), x.argmax()), X, has_aux=True)
    close(pull(out), (out * X.cos(),))
    assert aux == X.argmax()


def test_a_cotangent_of_another_precision_is_converted():
    close(mg.vjp(torch.sin, X)[1](X.float())[0], torch.func.vjp(torch.sin, X)[1](X.float())[0])
    for other in (X.long(), X * 1j, None):
        with pytest.raises(mg.GraphError, match="cotangent"):
            mg.vjp(torch.sin, X)[1](other)


def test_the_vjp_function_says_whether_autograd_may_go_on():
    x = X.clone().requires_grad_()
    for library in (mg, torch.func):
        pull = library.vjp(lambda x: x**3, x)[1]
        assert pull(X)[0].requires_grad
        assert not pull(X, create_graph=False)[0].requires_grad
        with torch.no_grad():
            assert not pull(X)[0].requires_grad
    ours, theirs = (library.vjp(lambda x: x**3, x)[1](X)[0] for library in (mg, torch.func))
    close(torch.autograd.grad(ours.sum(), x), torch.autograd.grad(theirs.sum(), x))


def test_retain_graph_false_makes_it_the_last_call():
    pull = mg.vjp(torch.sin, X)[1]
    close(pull(X, retain_graph=False), (X * X.cos(),))
    with pytest.raises(mg.GraphError, match="retain_graph"):
        pull(X)


@pytest.mark.parametrize(("returned", "message"), [(None, "non-empty"), ((), "non-empty"), (1.0, "only tensors")])
def test_only_tensors_are_differentiated(returned, message):
    for transform in (lambda f: mg.vjp(f, X), lambda f: mg.jacrev(f)(X), lambda f: mg.jvp(f, (X,), (X,))):
        with pytest.raises(mg.GraphError, match=message):
            transform(lambda x: returned)
        with pytest.raises(mg.GraphError, match="only tensors"):
            transform(lambda x: (x, None))


def test_a_second_call_captures_nothing(monkeypatch):
    def f(x):
        return x.sin()

    traced = []
    monkeypatch.setattr(pipeline, "trace", lambda *args: traced.append(args) or trace(*args))
    mg.vjp(f, X), mg.jvp(f, (X,), (X,)), mg.hvp(lambda x: f(x).sum(), X, X)
    g = lambda x: f(x).sum()  # noqa: E731
    mg.hvp(g, X, X)
    before = len(traced)
    mg.vjp(f, X), mg.jvp(f, (X,), (X,)), mg.hvp(g, X, X)
    assert len(traced) == before > 0


@pytest.mark.parametrize("f", [torch.square, lambda x: x.sin() * x])
def test_a_vjp_made_under_no_grad_is_followed_where_its_function_is_called_with_gradients_on(f):
    x = X.clone().requires_grad_()
    with torch.no_grad():
        out, pull = mg.vjp(f, x)
        assert not pull(X)[0].requires_grad
    assert not out.requires_grad
    gradient, theirs = pull(X)[0], torch.func.vjp(f, x)[1](X)[0]
    close(gradient, theirs)
    close(torch.autograd.grad(gradient.sum(), x), torch.autograd.grad(theirs.sum(), x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("made", [lambda f, x: mg.vjp(f, x)[1], lambda f, x: mg.linearize(f, x)[1]])
def test_a_point_that_was_written_to_since_is_not_computed_from(mode, made):
    x = X.clone().requires_grad_()
    with mode():
        linear = made(lambda x: x**3, x)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(mg.GraphError, match="'x' has been modified by an inplace operation"):
        linear(X)


def test_what_the_function_itself_writes_to_is_computed_from_as_it_was():
    def f(x, y):
        z = x * y
        y.add_(1)
        return z * y

    x, y = X.clone().requires_grad_(), X.clone()
    with torch.no_grad():
        pull = mg.vjp(f, x, y)[1]
    close(y, X + 1)
    close(pull(X), torch.func.vjp(lambda x, y: x * y * (y + 1), x, X)[1](X))
