"""Counting calls needs no other graph at each call; what depends on the count does. The witness is the plain model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import memograd as mg
from memograd.tracing.counters import Counted, Counter

F64 = torch.float64
X = torch.linspace(-1.0, 1.0, 12, dtype=F64).reshape(4, 3)
CALLS = 5


class Counting(nn.Module):
    def __init__(self, body: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3).double()
        self.steps, self.other, self.text = 0, 7, ""
        self.last: Any = None
        self.body = body

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(self, x)


def counted(m: Counting, x: torch.Tensor) -> torch.Tensor:
    m.steps += 1
    return m.linear(x).sin().sum()


def counted_both_ways(m: Counting, x: torch.Tensor) -> torch.Tensor:
    m.steps = 1 + m.steps
    m.other -= 2
    m.last = (m.steps, m.steps - 3, x.sum())
    return m.linear(x).sin().sum()


def one_from_the_other(m: Counting, x: torch.Tensor) -> torch.Tensor:
    m.steps += 1
    m.other = m.steps + 1
    assert isinstance(m.other, int)
    return m.linear(x).sin().sum()


def factor(m: Counting, x: torch.Tensor) -> torch.Tensor:
    m.steps += 1
    return m.linear(x).sin().sum() * m.steps


def branch(m: Counting, x: torch.Tensor) -> torch.Tensor:
    m.steps += 1
    return m.linear(x).sin().sum() if m.steps % 2 else m.linear(x).cos().sum()


def later(m: Counting, x: torch.Tensor) -> torch.Tensor:
    m.steps += 1
    return m.linear(x).sin().sum() if m.steps < 4 else m.linear(x).cos().sum()


def only_a_real_number_will_do(m: Counting, x: torch.Tensor) -> torch.Tensor:
    m.steps += 1
    return m.linear(x).sin().sum() + torch.full((), m.steps, dtype=F64) * m.linear.weight.sum()


def text(m: Counting, x: torch.Tensor) -> torch.Tensor:
    m.steps += 1
    m.text = f"step {m.steps:03d}"
    return m.linear(x).sin().sum()


STEADY = (counted, counted_both_ways, one_from_the_other)
BODIES = (*STEADY, factor, branch, later, only_a_real_number_will_do, text)


def left(m: Counting) -> list[Any]:
    return [m.steps, m.other, m.text, *(m.last or ())[:2], type(m.steps), type(m.other)]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_counts_and_updates_are_those_of_the_plain_model(body: Any, wrapped: bool) -> None:
    ours = Counting(body)
    theirs = copy.deepcopy(ours)
    a, b = (torch.optim.SGD(m.parameters(), 0.01) for m in (ours, theirs))
    step: Any = mg.wrap(ours).forward if wrapped else mg.TrainStep(ours, None, a, backend="eager")
    for call in range(CALLS):
        if call == CALLS - 1:
            ours.steps = theirs.steps = 20  # from outside
        loss = step(X)
        if wrapped:
            a.zero_grad()
            loss.backward()
            a.step()
        b.zero_grad()
        expected = theirs(X)
        expected.backward()
        b.step()
        torch.testing.assert_close(loss, expected)
        assert left(ours) == left(theirs)
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))
    assert len(step.captures) == (2 if body in STEADY else CALLS)


def test_a_count_that_is_returned_is_that_of_its_call() -> None:
    model: Any = Counting(lambda m, x: (counted(m, x), m.steps))
    gradient = mg.value_and_grad(lambda x: model(x), has_aux=True)
    assert [gradient(X)[0][1] for _ in range(4)] == [1, 2, 3, 4]


def test_a_counter_that_is_no_number_any_more() -> None:
    model = Counting(counted)
    gradient = mg.grad(lambda x: model(x))
    for _ in range(3):
        gradient(X)
    model.steps = 0.5  # pyright: ignore[reportAttributeAccessIssue]
    gradient(X)
    assert model.steps == 1.5


LOOKS: list[Callable[[Any], Any]] = [
    *(int, float, complex, bool, str, repr, hash, abs, range, round, lambda n: n == 3, lambda n: n > 2),
    *(lambda n: n * 2, lambda n: 2 * n, lambda n: n**2, lambda n: 2**n, lambda n: n / 2, lambda n: 7 // n),
    *(lambda n: n % 2, lambda n: -n, lambda n: 1.5 - n, lambda n: 9 - n, lambda n: n + 0.5, lambda n: f"{n:2d}"),
    *(lambda n: [0, 1, 2, 3][n], lambda n: n.bit_length(), lambda n: {3: 1}[n], lambda n: divmod(n, 2)),
    *(copy.copy, lambda n: n & 1, lambda n: 1 << n, lambda n: max(n, 2)),
]


@pytest.mark.parametrize("at", range(len(LOOKS)))
def test_whoever_sees_the_number_has_looked(at: int) -> None:
    counter = Counter({}, "steps", 2)
    assert LOOKS[at](Counted(counter) + 1) == LOOKS[at](3)
    assert counter.looked


def test_adding_is_no_look() -> None:
    counter = Counter({}, "steps", 2)
    number = 1 + Counted(counter) - 3 + 2
    assert isinstance(number, int) and not counter.looked
