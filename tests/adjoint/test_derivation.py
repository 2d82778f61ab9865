"""Graphs with their derivative: memoized and naive, deep, repeated."""

import pytest
import torch
from torch import nn

import memograd as mg


def ladder(n):
    def f(x):
        for _ in range(n):
            x = x.sin() + x.cos()
        return x.sum()

    return f


def test_naive_and_memoized_agree():
    x = torch.randn(3, dtype=torch.float64)
    graph = mg.capture(ladder(4), x)
    remembered, naive = mg.differentiate(graph), mg.differentiate(graph, memoize=False)
    torch.testing.assert_close(remembered(x)[1]["x"], naive(x)[1]["x"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(remembered(x)[1]["x"], torch.func.grad(ladder(4))(x), rtol=1e-12, atol=1e-12)
    assert len(naive.nodes) > 2 * len(remembered.nodes)


@pytest.mark.parametrize("n", [1, 2, 5, 60])
def test_products_of_a_ladder(n):
    """Each diamond doubles the paths: edge by edge, paths(k) = 2 paths(k - 1), four edges a diamond and one for sum."""
    counts = mg.count_products(mg.capture(ladder(n), torch.randn(3)))
    assert counts.memoized == 4 * n + 1
    naive = 1
    for _ in range(n):
        naive = 2 * (naive + 1 + 1)  # two branches, each: the walk so far, the sum's edge, the branch's own edge
    assert counts.naive == naive


def test_naive_recursion_is_guarded():
    graph = mg.capture(ladder(60), torch.randn(3))
    with pytest.raises(mg.ProductLimitError, match="limit"):
        mg.differentiate(graph, memoize=False)


def chain(n):
    def f(x):
        for _ in range(n):
            x = x * 0.9999
        return x.sum()

    return f


@pytest.mark.parametrize("n", [3000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_depth_does_not_matter(n):
    x = torch.ones(2, dtype=torch.float64)
    joint = mg.differentiate(mg.capture(chain(n), x))
    torch.testing.assert_close(joint(x)[1]["x"], torch.full((2,), 0.9999**n, dtype=torch.float64), rtol=1e-9, atol=0)


def test_work_is_linear_in_depth():
    small, large = (len(mg.differentiate(mg.capture(chain(n), torch.ones(2))).nodes) for n in (100, 200))
    assert large - small == 200, "one operator forward and one backward for each link"


def test_differentiate_again():
    x = torch.tensor(0.3, dtype=torch.float64)
    once = mg.differentiate(mg.capture(lambda x: x.sin() * x, x))
    twice = mg.differentiate(once, of="x")
    torch.testing.assert_close(twice(x)[1]["x"], 2 * x.cos() - x * x.sin())


def test_no_gradient_for_frozen_parameters_is_computed():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    x = torch.randn(2, 3)
    joint = mg.differentiate(mg.capture(lambda x: model(x).sum(), x))
    assert list(joint(x)[1]) == ["model.2.weight", "model.2.bias"]
    assert not any("tanh_backward" in str(n.target) for n in joint.nodes)


@pytest.mark.parametrize(
    ("f", "x", "message"),
    [
        (lambda x: x * 2, torch.randn(3), "one real number"),
        (lambda x: x.sum(), torch.arange(3), "nothing to differentiate"),
        (lambda x: x.argmax(), torch.randn(3), "one real number"),
    ],
)
def test_bad_losses(f, x, message):
    with pytest.raises(mg.GraphError, match=message):
        mg.differentiate(mg.capture(f, x))


def test_missing_rule_says_how_to_register_one():
    library = torch.library.Library("memograd_test", "DEF")
    library.define("cube(Tensor x) -> Tensor")
    torch.library.impl(library, "cube", "CompositeExplicitAutograd")(lambda x: x * x * x)
    graph = mg.capture(lambda x: torch.ops.memograd_test.cube(x).sum(), torch.randn(3))
    with pytest.raises(mg.MissingRuleError, match=r"memograd_test\.cube.*test_derivation\.py.*@memograd\.rule"):
        mg.differentiate(graph)

    @mg.rule(torch.ops.memograd_test.cube.default, formula="x̄ = 3 ȳ x²")
    def cube(adjoint, y, x):
        return adjoint * 3 * x * x

    x = torch.randn(3)
    torch.testing.assert_close(mg.differentiate(graph)(x)[1]["x"], 3 * x * x)


def test_gradients_come_in_the_order_asked_for():
    graph = mg.capture(lambda x, unused, y: (x * y).sum(), *torch.ones(3, 2))
    gradients = mg.differentiate(graph, ["y", "unused", "x"])(*torch.ones(3, 2))[1]
    assert list(gradients) == ["y", "unused", "x"] and gradients["unused"] is None


def test_arguments_in_another_memory_layout():
    """The rule of group norm calls ``contiguous()``, which was no operator when the graph was made."""
    x, z = torch.randn(2, 6, 5, 3, dtype=torch.float64), torch.randn(2, 6, 5, 3, dtype=torch.float64)
    joint = mg.differentiate(mg.capture(lambda x, z: (torch.nn.functional.group_norm(x, 2) * z).sum(), x, z))
    other = z.to(memory_format=torch.channels_last)
    torch.testing.assert_close(joint(x, other)[1]["x"], joint(x, z)[1]["x"])
    writing = mg.capture(lambda x: x.mul_(2), x.clone())
    with pytest.raises(mg.CaptureError, match="strides"):
        writing(other)
