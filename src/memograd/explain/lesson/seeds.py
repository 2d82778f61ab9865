"""Section 8: the lecture's network trained from 1,000 seeds, all at once, and what became of each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn, optim
from torch.nn import functional as F

from memograd.explain.lesson.numbers import floats, levels, numbers, spread
from memograd.explain.lesson.training import EPOCHS, HIGH, LOW, RATE, plane
from memograd.pipeline import capture
from memograd.recipes import data
from memograd.recipes.models import SimpleNN
from memograd.train.step import TrainStep

SEEDS = 1000
FRAMES = 40  # epochs at which all losses are recorded
CELLS = 13  # of the plane, to a side
TOP = 1.5  # the loss that is drawn highest
FATES = ("learned", "one dead", "both dead", "always on", "stuck")


class Networks(nn.Module):
    """Many networks 2-2-1 side by side: the same arithmetic for each, and no network knows of another."""

    def __init__(self, seeds: range) -> None:
        super().__init__()
        each = []
        for seed in seeds:
            torch.manual_seed(seed)
            each.append([p.detach().reshape(-1) for p in SimpleNN().parameters()])
        w1, b1, w2, b2 = (torch.stack(ps, 1)[..., None] for ps in zip(*each, strict=True))
        self.w1, self.b1, self.w2, self.b2 = (nn.Parameter(p.contiguous()) for p in (w1, b1, w2, b2))

    def hidden(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What each of the two ReLUs is given: (network, sample)."""
        x = x.T
        return [self.w1[2 * j] * x[0] + self.w1[2 * j + 1] * x[1] + self.b1[j] for j in range(2)]

    def answers(self, x: torch.Tensor) -> torch.Tensor:
        a, b = (torch.relu(h) for h in self.hidden(x))
        return torch.sigmoid(self.w2[0] * a + self.w2[1] * b + self.b2[0])

    def losses(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        answers = self.answers(x)
        return F.binary_cross_entropy(answers, y.reshape(1, -1).expand_as(answers), reduction="none").mean(1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.losses(x, y).sum()

    def weights(self) -> torch.Tensor:
        """(network, weight), in the order of ``SimpleNN.parameters()``."""
        return torch.cat([p.detach()[..., 0] for p in (self.w1, self.b1, self.w2, self.b2)]).T.clone()


def fates(seeds: int = SEEDS, epochs: int = EPOCHS) -> dict[str, Any]:
    """Train them all, and say what became of each."""
    networks = Networks(range(seeds))
    x, y = data.xor()
    dead_before = _dead(networks, x)
    frames = spread(epochs, 4, FRAMES)
    losses_of = capture(networks.losses, x, y)
    step = TrainStep(networks, None, optim.SGD(networks.parameters(), lr=RATE))
    losses, done = [], 0
    for epoch in frames:
        if epoch > done:
            step.run(x, y, steps=epoch - done)
            done = epoch
        losses.append(losses_of(x, y).detach())
    answers = capture(networks.answers, x)(x)
    fate = _fates(networks, x, y, answers)
    return {
        "seeds": seeds,
        "epochs": epochs,
        "frames": frames,
        "top": TOP,
        "names": list(FATES),
        "fate": fate.tolist(),
        "counts": [int((fate == k).sum()) for k in range(len(FATES))],
        "dead": int(_dead(networks, x).any(0).sum()),
        "deadBefore": dead_before.sum(0).tolist(),
        "losses": levels(torch.stack(losses, 1), 0, TOP),
        "last": numbers(losses[-1], 6),
        "answers": numbers(answers, 4),
        "behind": floats(networks.weights()),
        "cells": CELLS,
        "low": LOW,
        "high": HIGH,
        "plane": levels(capture(networks.answers, plane(CELLS))(plane(CELLS)), 0, 1),
    }


def _on(networks: Networks, x: torch.Tensor) -> torch.Tensor:
    """Which ReLU is on for which sample: (unit, network, sample)."""
    with torch.no_grad():
        return torch.stack(networks.hidden(x)) > 0


def _dead(networks: Networks, x: torch.Tensor) -> torch.Tensor:
    """(unit, network): off for all four samples, so that its gradient is zero whatever the loss is."""
    return ~_on(networks, x).any(2)


def _fates(networks: Networks, x: torch.Tensor, y: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    learned = ((answers > 0.5) == (y.reshape(1, -1) > 0.5)).all(1)
    dead = _dead(networks, x).sum(0)
    always = _on(networks, x).all(2).all(0)
    fate = torch.full((len(learned),), FATES.index("stuck"))
    fate[always] = FATES.index("always on")
    fate[dead == 1] = FATES.index("one dead")
    fate[dead == 2] = FATES.index("both dead")
    fate[learned] = FATES.index("learned")
    return fate
