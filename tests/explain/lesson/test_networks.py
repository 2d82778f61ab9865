"""Section 7: digits, pooling and time steps, against autograd."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from memograd.explain.lesson import digit, time_steps
from memograd.explain.lesson.numbers import levels, signed_levels
from memograd.recipes.models import SimpleCNN, SimpleRNN


def read(text, *shape):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy()).reshape(shape)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return SimpleCNN()


def test_adjoint_images_are_those_of_autograd(model):
    x = torch.randn(10, 1, 28, 28)
    answers, adjoints = digit._adjoint_images(model, x)
    torch.testing.assert_close(answers, F.softmax(model(x), 1).detach(), rtol=1e-4, atol=1e-6)
    for image, target in ((0, 0), (3, 8), (9, 1)):
        pixels = x[image : image + 1].clone().requires_grad_()
        (theirs,) = torch.autograd.grad(F.cross_entropy(model(pixels), torch.tensor([target])), [pixels])
        torch.testing.assert_close(adjoints[image, target], theirs[0], rtol=1e-4, atol=1e-7)


def test_a_pixel_whose_adjoint_is_0_has_no_colour_even_if_all_are_0():
    adjoints = torch.tensor([[-0.02, 0.0, 0.015], [0.0, 0.0, 0.0]])
    cells = base64.b64decode(signed_levels(adjoints, adjoints.abs().amax(-1, keepdim=True)))
    assert [cell / 127 - 1 for cell in cells] == pytest.approx([-1, 0, 95 / 127, 0, 0, 0], abs=0)
    with pytest.raises(AssertionError, match="NaN"):
        levels(torch.tensor([math.nan]), 0, 1)


def test_what_pooling_lets_through_is_what_autograd_says(model):
    x = torch.randn(10, 1, 28, 28)
    data = digit._pooling(model, x)
    before = torch.relu(model.conv1(x)).detach().requires_grad_()
    behind = F.max_pool2d(before, 2)
    loss = F.cross_entropy(model.fc1(behind.flatten(1)), torch.arange(10), reduction="sum")
    theirs, given = torch.autograd.grad(loss, [before, behind])
    channels, count = data["channels"], len(data["channels"])
    torch.testing.assert_close(read(data["adjoints"], 10, count, 28, 28), theirs[:, channels], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(read(data["given"], 10, count, 14, 14), given[:, channels], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(read(data["values"], 10, count, 28, 28), before.detach()[:, channels])
    assert data["passed"] == pytest.approx((theirs != 0).double().mean().item())
    assert data["sums"][0] == pytest.approx(data["sums"][1], rel=1e-5) == pytest.approx(given.sum().item(), rel=1e-3)


def test_factors_multiply_to_what_is_left_after_28_steps():
    rows = torch.rand(28, 28, dtype=torch.float64)
    measured = time_steps._measured(time_steps._scalar(lambda a: a), rows.mean(1, keepdim=True), 1, (0.9, 1.2))
    for w, sizes, factors in zip((0.9, 1.2), measured["sizes"], measured["factors"], strict=True):
        assert sizes == pytest.approx([w ** (27 - t) for t in range(28)], rel=1e-8)
        assert math.prod(factors) == pytest.approx(w**27, rel=1e-8) and factors == pytest.approx([w] * 27)


def test_a_recurrent_network_sends_back_what_autograd_says():
    rows = torch.rand(28, 28, dtype=torch.float64)
    program = time_steps._rnn(torch.tensor([4]))
    measured = time_steps._measured(program, rows, time_steps.HIDDEN, (0.8,))
    added = torch.zeros(28, time_steps.HIDDEN, dtype=torch.float64, requires_grad=True)
    (theirs,) = torch.autograd.grad(program(rows, torch.tensor(0.8, dtype=torch.float64), added), [added])
    assert measured["sizes"][0] == pytest.approx(theirs.norm(dim=1).tolist(), rel=1e-8)


def test_the_lstm_is_that_of_the_recipe_and_its_cell_has_the_gradients_of_autograd():
    rows, target = torch.rand(28, 28, dtype=torch.float64), torch.tensor([7])
    measured = time_steps._measured(time_steps._lstm(target), rows, time_steps.HIDDEN, (0.0,))
    torch.manual_seed(time_steps.SEED)
    model = SimpleRNN(time_steps.HIDDEN).double()
    h = c = torch.zeros(1, time_steps.HIDDEN, dtype=torch.float64)
    cells = []
    for row in rows:
        h, c = model.cell(row[None], (h, c))
        cells.append(c)
    theirs = torch.autograd.grad(nn.functional.cross_entropy(model.fc(h), target), cells)
    assert measured["sizes"][0] == pytest.approx([g.norm().item() for g in theirs], rel=1e-8)
