"""Which values are stored: what must be, and what is dearer to compute again where it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from memograd.fuse.groups import LONGEST, Group, groups
from memograd.graph.graph import Graph
from memograd.lower.lower import lower
from memograd.pipeline import capture, differentiate


def graph_of(f: Callable[..., Any], *args: Any) -> Graph:
    return lower(capture(f, *args))


def names(group: Group) -> list[str]:
    return [n.target._schema.name.removeprefix("aten::") for n in group.computed]  # type: ignore[union-attr]


SEEDED = torch.Generator().manual_seed(0)
X = torch.randn(32, 32, generator=SEEDED)


def test_a_chain_is_one_kernel_up_to_who_must_see_it() -> None:
    (group,) = groups(graph_of(lambda x: (x.sin() * 2).exp() @ x, X))
    assert names(group) == ["sin", "mul", "exp"]
    assert [n.name for n in group.operands] == ["x"] and [n.name for n in group.results] == ["exp"]


def test_one_operator_alone_stays_pytorchs() -> None:
    assert groups(graph_of(lambda x: x.sin() @ x.cos(), X)) == []


def test_cheap_values_are_computed_where_they_are_read() -> None:
    """sin x is read by two kernels; reading x instead costs no more, and nothing is stored."""
    first, second = groups(graph_of(lambda x: [(y := x.sin()).exp() @ x, (y * 3) @ x], X))
    assert names(first) == ["sin", "exp"] and names(second) == ["sin", "mul"]


def test_what_many_kernels_would_compute_from_much_is_stored() -> None:
    """A sum of four matrices with four readers: one pass over it each is less than over all four."""

    def program(a: Any, b: Any, c: Any, d: Any) -> Any:
        total = a + b + c + d
        return [f(total).exp() @ a for f in (torch.sin, torch.cos, torch.tan, torch.tanh)]

    found = groups(graph_of(program, *[torch.randn(32, 32) for _ in range(4)]))
    assert [names(g) for g in found] == [
        ["add", "add", "add"], ["sin", "exp"], ["cos", "exp"], ["tan", "exp"], ["tanh", "exp"]
    ]  # fmt: skip


def test_sums_are_stored_and_fused_with_what_they_read() -> None:
    (group,) = groups(graph_of(lambda x: (x * x + 1).sum(0) @ x, X))
    assert names(group) == ["mul", "add", "sum"]


def test_small_results_from_the_same_values_are_one_kernel() -> None:
    (group,) = groups(graph_of(lambda x: [(x * x).sum(0) @ x, (x * 3).sum(0) @ x], X))
    assert names(group) == ["mul", "sum", "mul", "sum"] and len(group.results) == 2


def test_a_second_sum_over_something_later_is_a_kernel_of_its_own() -> None:
    def program(x: Any) -> Any:
        first = (x * x).sum(0)
        return ((x @ first.diag()) * 2).sum(0) @ x

    assert [names(g) for g in groups(graph_of(program, X))] == [["mul", "sum"], ["mul", "sum"]]


def test_the_backward_pass_reads_the_convolution_not_the_relu() -> None:
    """y = relu(sin(z)), z = conv(x), is stored for the next convolution; the backward pass, which reads z for the sine,
    computes y from it."""
    one, two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    joint = lower(differentiate(capture(lambda x: two(one(x).sin().relu()).sum(), torch.randn(2, 4, 8, 8))))
    forward = next(g for g in groups(joint) if names(g) == ["sin", "relu"])
    backward = next(g for g in groups(joint) if "threshold_backward" in names(g))
    relu = forward.results[0]
    assert relu in backward.inside and relu not in backward.operands
    assert forward.operands[0] in backward.operands, "the convolution's result"


def test_gradients_that_come_one_by_one_are_summed_one_by_one() -> None:
    """A weight of many uses: a kernel that sums all its gradients would need all of them at once."""
    w = nn.Linear(8, 8, bias=False)

    def program(x: Any) -> Any:
        for _ in range(6):
            x = w(x).tanh()
        return x.sum()

    joint = lower(differentiate(capture(program, torch.randn(4, 8)), [*dict(w.named_parameters(prefix="w"))] or None))
    assert all(len(g.operands) <= 4 for g in groups(joint))


def test_long_chains_are_cut() -> None:
    def program(x: Any) -> Any:
        for _ in range(3 * LONGEST):
            x = x.sin()
        return x @ x

    found = groups(graph_of(program, X))
    assert len(found) >= 3 and all(len(g.computed) <= LONGEST for g in found)


def test_draws_complex_numbers_and_empty_tensors_are_left_alone() -> None:
    assert groups(graph_of(lambda x: (torch.rand_like(x) @ x, x[:0].sin().cos() @ x), X)) == []
    assert groups(graph_of(lambda x: (x * 1j).exp().cos() @ (x * 1j).sin(), X)) == []
