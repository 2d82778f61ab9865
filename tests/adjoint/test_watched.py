"""Who watches the recursion is told what it does, and it does the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

import memograd as mg
from memograd.adjoint.watched import Watched
from memograd.explain.watch import Numbers
from memograd.graph.interpreter import evaluate


def diamond(x: torch.Tensor) -> torch.Tensor:
    y = x.exp()
    return (y.sin() * y).sum()


@pytest.mark.parametrize("memoize", [True, False])
def test_who_watches_is_told_of_every_question_and_answer(memoize: bool) -> None:
    told: list[tuple[Any, ...]] = []
    x = torch.ones(2, dtype=torch.float64)
    graph = mg.capture(diamond, x)
    seeds, active = {graph.results[0]: torch.ones((), dtype=x.dtype)}, {*graph.placeholders, *graph.nodes}
    numbers = Numbers(evaluate(graph, [x]))
    recursion = Watched(numbers, seeds, active, lambda *seen: told.append(seen), memoize)
    gradient = recursion.adjoint(graph.placeholders[0])
    assert told[0][:3] == ("asked", "adjoint", graph.placeholders[0])
    assert told[-1][:3] == ("answered", "adjoint", graph.placeholders[0]) and told[-1][3] is gradient
    moments = Counter((moment, question) for moment, question, _, _ in told)
    for question in ("adjoint", "vjp"):
        assert moments["asked", question] == moments["answered", question]
    # y = exp x is read by sin and by the product, which the sine leads to, too
    assert moments["remembered", "vjp"] == (1 if memoize else 0)
    products = sum(1 for moment, question, *_ in told if (moment, question) == ("asked", "vjp"))
    assert products == (4 if memoize else 6)
