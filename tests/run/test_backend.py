"""What all backends do alike, seen on one that has nothing of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import memograd as mg
from memograd.finite import TrippedError
from memograd.graph.graph import Graph
from memograd.graph.signature import run
from memograd.lower.lower import lower
from memograd.run.backend import Backend
from memograd.run.eager import Eager
from memograd.run.inductor import Inductor
from memograd.run.native.backend import Native
from memograd.run.planned import Planned

OURS = (Eager, Inductor, Native, Planned)


class Plain(Backend):
    """The one in the docstring of ``memograd.run.backend``."""

    name = "plain"

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.function = graph.function

    def compute(self, flat: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        return run(self.function, flat)

    def step(self, flat: Sequence[Any]) -> list[torch.Tensor]:
        return self.commit(flat, self.compute(flat))


def counted(total: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Adds to its first argument what it returns."""
    result = x.exp().sum(0)
    total.add_(result)
    return result * 2


def test_backends_are_siblings() -> None:
    assert all(ours.__bases__ == (Backend,) for ours in OURS)
    assert all({"compute", "step"} <= vars(ours).keys() for ours in OURS)


def test_who_provides_nothing_is_no_backend() -> None:
    graph = mg.capture(lambda x: x * 2, torch.ones(2))
    incomplete: Any = Backend
    with pytest.raises(TypeError, match="abstract"):
        incomplete(graph)


def test_the_smallest_backend_writes_mutations_and_returns_the_rest() -> None:
    total, x = torch.zeros(3), torch.randn(4, 3)
    expected = torch.zeros(3)
    returned = counted(expected, x)
    graph = mg.capture(counted, torch.zeros(3), x)
    flat = [total, x]
    backend = Plain(lower(graph))
    results = backend.compute(flat)
    assert not total.any() and len(results) == 2, "pure"
    torch.testing.assert_close(backend.step(flat), [returned])
    torch.testing.assert_close(total, expected)


def test_many_steps_return_the_loss_of_each() -> None:
    def halved(x: torch.Tensor) -> torch.Tensor:
        loss = x.sum()
        x.mul_(0.5)
        return loss

    backend = Plain(lower(mg.capture(halved, torch.ones(4))))
    assert backend.run([torch.ones(4)], 3).tolist() == [4.0, 2.0, 1.0]


def test_a_step_that_is_not_finite_is_counted_and_not_written() -> None:
    def squared(x: torch.Tensor) -> torch.Tensor:
        x.mul_(x)
        return x.sum()

    graph = mg.capture(squared, torch.ones(1))
    backend = Plain(lower(graph))
    backend.flag = backend.returned[0]  # the loss itself, as the number that must be finite
    x = torch.full((1,), 1e10)
    with pytest.raises(TrippedError) as tripped:
        backend.run([x], 5)  # 1e20, and 1e40 is none of float32's
    assert tripped.value.done == 1
    torch.testing.assert_close(x, torch.full((1,), 1e20))
