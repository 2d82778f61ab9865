"""``jvp``, ``linearize``, ``hvp`` against torch.func."""

import pytest
import torch

import memograd as mg

X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
T = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_strict_refuses_results_that_do_not_depend_on_the_primals():
    f = lambda x: (x.sin(), T)  # noqa: E731
    close(mg.jvp(f, (X,), (T,)), torch.func.jvp(f, (X,), (T,)))
    with pytest.raises(mg.GraphError, match="strict"):
        mg.jvp(f, (X,), (T,), strict=True)


def test_has_aux():
    f = lambda x: (x.sin(), {"cos": x.cos()})  # noqa: E731
    close(mg.jvp(f, (X,), (T,), has_aux=True), torch.func.jvp(f, (X,), (T,), has_aux=True))


def test_an_argument_may_be_called_like_a_result():
    f = lambda output, x: (output * x).sin()  # noqa: E731
    close(mg.jvp(f, (X, T), (T, X)), torch.func.jvp(f, (X, T), (T, X)))


@pytest.mark.parametrize(
    ("primals", "tangents", "message"),
    [
        (X, (T,), "be a tuple"),
        ((X,), (T, T), "same python structure"),
        ((), (), "at least one Tensor"),
        ((X,), (1.0,), "only contain Tensors"),
        ((X,), (T[:2],), "tangent of shape"),
    ],
)
def test_primals_and_tangents_fit(primals, tangents, message):
    with pytest.raises(mg.GraphError, match=message):
        mg.jvp(torch.sin, primals, tangents)


def test_linearize_computes_the_function_once():
    calls = torch.zeros(())

    def f(p):
        calls.add_(1)
        return {"a": p["x"].sin() * p["y"], "b": p["x"].sum()}

    point, way = {"x": X, "y": T}, {"x": T, "y": X}
    out, push = mg.linearize(f, point)
    close((out, push(way)), torch.func.jvp(lambda p: {"a": p["x"].sin() * p["y"], "b": p["x"].sum()}, (point,), (way,)))
    push(way)
    assert calls == 1
    with pytest.raises(mg.GraphError, match="same argspec"):
        push(way, way)
    with pytest.raises(mg.GraphError, match="the shape"):
        push({"x": T[:1], "y": X})


def test_hvp_of_several_arguments():
    f = lambda x, y: (x.sin() * y**2).sum()  # noqa: E731
    expected = torch.func.jvp(torch.func.grad(f, argnums=(0, 1)), (X, T), (T, X))[1]
    close(mg.hvp(f, (X, T), (T, X)), expected)
