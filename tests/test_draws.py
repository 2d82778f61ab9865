from __future__ import annotations

import torch

from memograd.draws import drawing_from, rng_state, same_draws


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
