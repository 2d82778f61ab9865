"""``vjp`` against torch.func."""

import pytest
import torch

import memograd as mg
from memograd.pipeline import LOG

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


def test_a_second_call_captures_nothing():
    def f(x):
        return x.sin()

    def captures():
        return [s.name for s in LOG].count("capture")

    mg.vjp(f, X), mg.jvp(f, (X,), (X,)), mg.hvp(lambda x: f(x).sum(), X, X)
    g = lambda x: f(x).sum()  # noqa: E731
    mg.hvp(g, X, X)
    before = captures()
    mg.vjp(f, X), mg.jvp(f, (X,), (X,)), mg.hvp(g, X, X)
    assert captures() == before
