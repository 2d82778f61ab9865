"""Section 7, second half: a gradient on its way back through 28 time steps, in networks that let it through or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from memograd.explain.lesson.digit import handwritten
from memograd.explain.lesson.numbers import numbers
from memograd.pipeline import capture, differentiate
from memograd.recipes.models import SimpleRNN

STEPS, HIDDEN, SEED = 28, 64, 0
WEIGHTS = tuple(round(0.5 + 0.1 * k, 1) for k in range(11))  # what the state before is multiplied with
BIASES = tuple(-2 + 0.5 * k for k in range(11))  # added to the forget gate of the LSTM
Program = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def gradients_in_time() -> dict[str, Any]:
    """For each network and each setting: how large the adjoint of the state is after every time step."""
    digits = handwritten()
    rows, target = digits.test_x[1].double().reshape(STEPS, 28), digits.test_y[1:2]
    means = rows.mean(1, keepdim=True)
    networks: dict[str, tuple[Program, torch.Tensor, int, tuple[float, ...]]] = {
        "linear": (_scalar(lambda a: a), means, 1, WEIGHTS),
        "tanh": (_scalar(torch.tanh), means, 1, WEIGHTS),
        "rnn": (_rnn(target), rows, HIDDEN, WEIGHTS),
        "lstm": (_lstm(target), rows, HIDDEN, BIASES),
    }
    return {name: _measured(*network) for name, network in networks.items()} | {"steps": STEPS, "hidden": HIDDEN}


def _measured(program: Program, rows: torch.Tensor, width: int, settings: tuple[float, ...]) -> dict[str, Any]:
    """Adjoints of the 28 states; of one number with their sign, of many their norm."""
    added = torch.zeros(STEPS, width, dtype=torch.float64)  # to each state: its adjoint is what is asked for
    joint = None
    sizes, factors = [], []
    for setting in settings:
        batch = rows, torch.tensor(setting, dtype=torch.float64), added
        joint = joint or differentiate(capture(program, *batch), wrt=["added"])
        adjoints = joint(*batch)[1]["added"]
        size = adjoints[:, 0] if width == 1 else adjoints.norm(dim=1)
        sizes.append(numbers(size))
        factors.append(numbers(size[:-1] / size[1:]))
    return {"settings": list(settings), "sizes": sizes, "factors": factors}


def _scalar(through: Callable[[torch.Tensor], torch.Tensor]) -> Program:
    """h ← through(w h + the mean of a row); the loss is the last h."""

    def program(rows: torch.Tensor, w: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(1, dtype=torch.float64)
        for row, more in zip(rows, added, strict=True):
            h = through(w * h + row) + more
        return h.sum()

    return program


def _rnn(target: torch.Tensor) -> Program:
    """h ← tanh(W row + w Q h), Q a rotation: w alone decides whether what is carried grows or shrinks."""
    torch.manual_seed(SEED)
    inward, head = nn.Linear(28, HIDDEN).double(), nn.Linear(HIDDEN, 10).double()
    turn = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, dtype=torch.float64)).Q

    def program(rows: torch.Tensor, w: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(HIDDEN, dtype=torch.float64)
        for row, more in zip(rows, added, strict=True):
            h = torch.tanh(inward(row) + w * (turn @ h)) + more
        return nn.functional.cross_entropy(head(h)[None], target)

    return program


def _lstm(target: torch.Tensor) -> Program:
    """The LSTM of ``memograd train rnn`` as it starts, with something added to its forget gate's bias; the state is the
    cell."""
    torch.manual_seed(SEED)
    model = SimpleRNN(HIDDEN).double()
    forget = torch.zeros(4 * HIDDEN, dtype=torch.float64)
    forget[HIDDEN : 2 * HIDDEN] = 1

    def program(rows: torch.Tensor, bias: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        cell = model.cell
        h = c = torch.zeros(HIDDEN, dtype=torch.float64)
        for row, more in zip(rows, added, strict=True):
            gates = cell.weight_ih @ row + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh + bias * forget
            i, f, g, o = gates.chunk(4)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g) + more
            h = torch.sigmoid(o) * torch.tanh(c)
        return nn.functional.cross_entropy(model.fc(h)[None], target)

    return program
