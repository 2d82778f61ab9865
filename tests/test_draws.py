from __future__ import annotations

import pytest
import torch
from torch import nn

from memograd.draws import drawing_from, drawn_alone, rng_state, same_draws


def test_draws_are_repeated() -> None:
    with same_draws():
        first = torch.rand(3)
    assert torch.equal(first, torch.rand(3))


def test_a_state_is_drawn_from_again_and_the_generator_does_not_move() -> None:
    state = rng_state("cpu")
    first = torch.rand(3)
    with drawing_from(state, "cpu"):
        assert torch.equal(torch.rand(3), first)
    following = torch.rand(3)
    torch.set_rng_state(state)
    assert torch.equal(torch.rand(6)[3:], following)


X = torch.ones(40)
DRAWS = {
    "rand": lambda: torch.rand(3),
    "randn": lambda: torch.randn(20),
    "randperm": lambda: torch.randperm(9),
    "like": lambda: torch.randn_like(X),
    "dropout": lambda: nn.functional.dropout(X, 0.5),
    "native dropout, which takes no generator": lambda: torch.native_dropout(X, 0.5, True)[0],
    "gamma, by position": lambda: torch._standard_gamma(X),
    "given the default one": lambda: torch.rand(3, generator=torch.default_generator),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_whatever_draws_draws_the_same_and_moves_nothing(draw) -> None:
    state = rng_state("cpu")
    first = draw(), draw()
    now = rng_state("cpu")
    with drawing_from(state, "cpu"):
        again = draw(), draw()
        assert torch.equal(rng_state("cpu"), now)
    assert torch.equal(torch.stack(first), torch.stack(again)) and torch.equal(rng_state("cpu"), now)


def test_who_is_interrupted_draws_again() -> None:
    state, tries = rng_state("cpu"), []
    for start, generator in drawn_alone(state, "cpu"):
        tries.append((start, torch.rand(4, generator=generator)))
        if len(tries) == 1:
            torch.rand(2)  # somebody else
    assert len(tries) == 2
    with drawing_from(tries[1][0], "cpu"):
        assert torch.equal(torch.rand(4), tries[1][1])
    torch.set_rng_state(state)
    assert torch.equal(torch.rand(6)[2:], tries[1][1]), "behind what the other one has drawn"


def test_who_is_always_interrupted_says_so() -> None:
    with pytest.warns(UserWarning, match="in between 100 times"):
        for _, generator in drawn_alone(rng_state("cpu"), "cpu"):
            torch.rand(4, generator=generator)
            torch.rand(1)  # somebody else
