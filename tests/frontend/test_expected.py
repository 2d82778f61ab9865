"""What a program takes for granted before anybody has asked for gradients."""

from __future__ import annotations

import torch

from memograd.frontend.expected import Expected, guesses
from memograd.graph.entries import Input, Output

INPUTS = [Input("parameter", "w"), Input("input", "x"), Input("input", "mask"), Input("input", "y")]
RESULTS = [Output("output", "loss", tracked=True), Output("output", "count"), Output("output", "z", tracked=True)]
EVERYTHING = ((0, 2), (0, 1))


def test_of_an_argument_that_is_a_leaf_somebody_may_go_on_from_the_gradient() -> None:
    w, x, y = (torch.ones(2, requires_grad=True) for _ in range(3))
    assert guesses(RESULTS, INPUTS, [w, x, torch.ones(2), y * 2], {"w", "x"}) == (EVERYTHING, ((0, 2), (1,)))
    assert guesses(RESULTS, INPUTS, [w, x * 2, None, None], {"w", "x"}) == (EVERYTHING, None)


def test_the_first_question_shows_whether_the_guess_was_wrong() -> None:
    of_leaves = ((0, 2), (1,))
    for first, further, wrong in ((of_leaves, True, False), (of_leaves, False, True), (EVERYTHING, False, True)):
        expected = Expected(EVERYTHING, of_leaves)
        assert not expected.asked and expected.last == EVERYTHING
        assert expected.see(first, further) is wrong
        assert expected.asked and expected.last == first
        assert expected.see(((0,), (0,)), further=True) is False  # what comes later is no guess
    for first, further, wrong in ((EVERYTHING, True, False), (EVERYTHING, False, False), (of_leaves, True, True)):
        assert Expected(EVERYTHING).see(first, further) is wrong
