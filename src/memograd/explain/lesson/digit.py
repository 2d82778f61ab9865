"""Section 7, first half: a convolutional network on handwritten digits. What the loss would have each pixel do, and
which way adjoints take through max-pooling."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader

from memograd.explain.lesson.numbers import floats, levels, numbers, signed_levels
from memograd.pipeline import capture, differentiate
from memograd.recipes import data
from memograd.recipes.images import loaders
from memograd.recipes.models import SimpleCNN
from memograd.train.step import TrainStep

SEED, RATE, BATCH = 0, 0.001, 64  # as in the lecture; one epoch, not ten
CHANNELS = 3  # of the 32 that are shown


@cache
def handwritten() -> data.Digits:
    """The digits, which take seconds to read."""
    return data.digits()


def images(batches: int | None = None) -> dict[str, Any]:
    """One test image of each class, the adjoint image for each class it might be said to be, and the pooling."""
    digits = handwritten()
    model, losses = _trained(digits, batches)
    accuracy = _accuracy(model, digits)
    at = [int((digits.test_y == c).nonzero()[0]) for c in range(10)]
    x = digits.test_x[at]
    answers, adjoints = _adjoint_images(model, x)
    limits = adjoints.abs().amax((-1, -2, -3))
    return {
        "trained": len(losses),
        "images": len(digits.train_y),
        "tested": len(digits.test_y),
        "accuracy": accuracy,
        "pixels": levels(x, x.min().item(), x.max().item()),
        "answers": numbers(answers),
        "adjoints": signed_levels(adjoints, limits[..., None, None, None]),
        "limits": numbers(limits),
        "pooling": _pooling(model, x),
    }


def _trained(digits: data.Digits, most: int | None) -> tuple[SimpleCNN, list[float]]:
    """An epoch of the lecture's training, or so many of its batches, and the loss of each."""
    torch.manual_seed(SEED)
    model = SimpleCNN()
    batches: DataLoader[Any] = loaders(digits, BATCH, SEED)[0]
    step = TrainStep(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), lr=RATE), backend="eager")
    return model, [step(x, y).item() for x, y in itertools.islice(batches, most)]


def _accuracy(model: SimpleCNN, digits: data.Digits) -> float:
    forward = capture(model, digits.test_x)
    return (forward(digits.test_x).argmax(1) == digits.test_y).double().mean().item()


def _adjoint_images(model: SimpleCNN, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network answers (10 images, 10 classes), and adjoints of the pixels for each class as the target
    (10 images, 10 classes, 1, 28, 28): one backward pass of a sum over all hundred."""
    many = x.repeat_interleave(10, 0)
    targets = torch.arange(10).repeat(10)

    def loss(pixels: torch.Tensor, targets: torch.Tensor) -> Any:
        scores = model(pixels)
        return F.cross_entropy(scores, targets, reduction="sum"), F.softmax(scores, 1)

    joint = differentiate(capture(loss, many, targets), wrt=["pixels"])
    (_, answers), gradients = joint(many, targets)
    return answers[::10], gradients["pixels"].reshape(10, 10, 1, 28, 28)


def _pooling(model: SimpleCNN, x: torch.Tensor) -> dict[str, Any]:
    """Values and adjoints before and behind the pooling, where the target is the class that the image has."""
    targets = torch.arange(10)
    before, behind = torch.zeros(10, 32, 28, 28), torch.zeros(10, 32, 14, 14)

    def loss(x: torch.Tensor, targets: torch.Tensor, before: torch.Tensor, behind: torch.Tensor) -> Any:
        activations = model.relu(model.conv1(x)) + before  # the adjoint of what zero is added to
        pooled = model.pool(activations) + behind
        return F.cross_entropy(model.fc1(pooled.flatten(1)), targets, reduction="sum"), activations, pooled

    joint = differentiate(capture(loss, x, targets, before, behind), wrt=["before", "behind"])
    (_, activations, pooled), gradients = joint(x, targets, before, behind)
    strongest = pooled.mean((0, 2, 3)).topk(CHANNELS).indices
    through = gradients["before"].count_nonzero().item()
    return {
        "channels": strongest.tolist(),
        "of": model.conv1.out_channels,
        "passed": through / gradients["before"].numel(),
        "values": floats(activations[:, strongest]),
        "adjoints": floats(gradients["before"][:, strongest]),
        "pooled": floats(pooled[:, strongest]),
        "given": floats(gradients["behind"][:, strongest]),
        "sums": [gradients["behind"].double().sum().item(), gradients["before"].double().sum().item()],
    }
