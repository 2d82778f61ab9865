"""Section 3: the four steps on XOR. A run of training is recorded: weights, gradients, answers, the loss, and what the
network would answer on the whole plane."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn, optim

from memograd.explain.lesson.numbers import levels, numbers, spread
from memograd.explain.lesson.slopes import SEED
from memograd.graph.graph import Graph
from memograd.pipeline import capture, differentiate
from memograd.recipes import data
from memograd.recipes.models import SimpleNN
from memograd.train.step import TrainStep

EPOCHS, RATE = 10_000, 0.1  # as in the lecture
FRAMES, EACH = 90, 12  # how many epochs are recorded; the first ones one by one
CELLS, LOW, HIGH = 33, -0.5, 1.5  # of the plane


def plane(cells: int = CELLS) -> torch.Tensor:
    """The middle of each cell, row by row from above, as inputs of a network."""
    width = (HIGH - LOW) / cells
    middles = LOW + width * (torch.arange(cells) + 0.5)
    return torch.stack([middles.repeat(cells), middles.flip(0).repeat_interleave(cells)], 1)


def recorded(epochs: int = EPOCHS) -> dict[str, Any]:
    """The run, frame by frame."""
    torch.manual_seed(SEED)
    model = SimpleNN()
    x, y = data.xor()
    criterion = nn.BCELoss()

    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        hidden = model.relu(model.fc1(x))
        answers = model.sigmoid(model.fc2(hidden))
        each = nn.functional.binary_cross_entropy(answers, y, reduction="none")
        return criterion(answers, y), hidden, answers, each

    joint = differentiate(capture(program, x, y))
    everywhere = plane()
    on_the_plane = capture(model, everywhere)
    step = TrainStep(model, criterion, optim.SGD(model.parameters(), lr=RATE))
    frames, done = [], 0
    for epoch in spread(epochs, EACH, FRAMES):
        if epoch > done:
            step.run(x, y, steps=epoch - done)
            done = epoch
        frame = _frame(model, joint, *joint(x, y))
        frames.append({"epoch": epoch, **frame, "plane": levels(on_the_plane(everywhere), 0, 1)})
    constants = {"epochs": epochs, "rate": RATE, "seed": SEED, "cells": CELLS, "low": LOW, "high": HIGH}
    answers = {"targets": y.reshape(-1).tolist(), "names": _names(model)}
    return {**constants, **answers, "frames": frames, "half": _constant(y)}


def _frame(model: nn.Module, joint: Graph, results: Any, gradients: Any) -> dict[str, Any]:
    """What one step of the run shows: values, gradients, and the weights after the update."""
    loss, hidden, answers, each = results
    return {
        "loss": numbers([loss.item()])[0],
        "weights": _flat(model.parameters()),
        "gradients": _flat(gradients.values()),
        "after": _flat(p - RATE * gradients[n] for n, p in joint.parameters.items()),
        "hidden": numbers(hidden),
        "answers": numbers(answers.reshape(-1)),
        "each": numbers(each.reshape(-1)),
    }


def _flat(tensors: Any) -> list[Any]:
    return numbers(torch.cat([t.detach().reshape(-1) for t in tensors]))


def _names(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() for _ in range(p.numel())]


def _constant(y: torch.Tensor) -> float:
    """The loss of a network that answers 1/2 whatever it is asked."""
    return capture(nn.functional.binary_cross_entropy, torch.full_like(y, 0.5), y)(torch.full_like(y, 0.5), y).item()
