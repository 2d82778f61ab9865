"""Which values a derivative's first half hands to the second, and that the two together are PyTorch's derivative."""

from __future__ import annotations

import torch

from memograd.adjoint.partition import cut, gather, partition
from memograd.graph.graph import Graph
from memograd.pipeline import capture, differentiate

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4).requires_grad_()


def joint(f) -> Graph:
    return differentiate(capture(f, X), cotangents="output")


def names(graph: Graph) -> list[str]:
    return [str(n.target) for n in graph.nodes]


def test_the_two_halves_are_the_derivative():
    def f(x):
        return (x.sin() * x.t().reshape(3, 4)).exp() @ x.t()

    halves = partition(joint(f))
    seed = torch.arange(9, dtype=torch.float64).reshape(3, 3)
    (result,), saved = gather(halves, [X.detach()])
    (gradient,) = halves.backward(*saved, seed)
    torch.testing.assert_close(result, f(X).detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(f(X), X, seed)[0])


def test_what_only_the_derivative_reads_is_computed_there_from_what_is_remembered_anyway():
    early, late = cut(joint(torch.sin))
    assert "aten.cos.default" not in names(early) and "aten.cos.default" in names(late)
    assert [n.op for n in early.results[1:]] == ["placeholder"]


def test_where_more_would_have_to_be_remembered_for_it_the_first_half_computes_it():
    """A row of sums instead of the matrix, which nothing else reads."""
    early, late = cut(joint(lambda x: x.sum(1) ** 3))
    assert "aten.sum.dim_IntList" in names(early)
    assert sum(n.meta["val"].numel() for n in early.results[1:]) == 3
    assert "aten.sum.dim_IntList" not in names(late)


def test_views_are_made_again_of_what_they_look_at():
    early, late = cut(joint(lambda x: (x.exp().t() * 2).sin()))
    assert "aten.t.default" in names(early)
    remembered = [n for n in early.results[1:]]
    assert all(n.target is not torch.ops.aten.t.default for n in remembered)
    assert late.results


def test_random_numbers_are_drawn_in_the_first_half():
    early, late = cut(joint(lambda x: x * torch.rand(3, 4, dtype=torch.float64)))
    drawn = "aten.rand.default"
    assert drawn in names(early) and drawn not in names(late)


def test_with_fused_kernels_arithmetic_is_computed_again_of_what_is_remembered_anyway():
    def f(x):
        h = x.tanh()
        return (h * -2 * x).sin() + (h * -2 * x).exp()

    seed = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    remembered = []
    for fused in (False, True):
        early, late = cut(joint(f), fused)
        _, *saved = early.function(X.detach())
        (gradient,) = late.function(*saved, seed)
        torch.testing.assert_close(gradient, torch.autograd.grad(f(X), X, seed)[0])
        remembered.append({str(n.target) for n in early.results[1:] if n.op != "placeholder"})
    assert "aten.mul.Tensor" in remembered[0]
    assert remembered[1] == {"aten.tanh.default", "aten.exp.default"}


def test_as_rules_read_it_nothing_is_computed_ahead_and_views_are_remembered():
    def f(x):
        return torch.atan2(x.exp().t(), x.tanh().t())

    seed = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    ahead, _ = cut(joint(f))
    early, late = cut(joint(f), as_read=True)
    assert names(early) == names(capture(f, X)) and len(names(ahead)) > len(names(early))
    assert [n.target for n in early.results[1:]].count(torch.ops.aten.t.default) == 2
    _, *saved = early.function(X.detach())
    (gradient,) = late.function(*saved, seed)
    torch.testing.assert_close(gradient, torch.autograd.grad(f(X), X, seed)[0])


def test_what_is_returned_anyway_is_remembered_as_it_is():
    def f(x):
        y = x.tanh() * -2
        return y, y.sin()

    early, _ = cut(joint(f), fused=True)
    assert early.results[0].target is torch.ops.aten.mul.Tensor and early.results[0] in early.results[2:]
