"""The native backend: small graphs as one compiled C function (see ``run/native``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memograd.graph.graph import Graph
from memograd.graph.signature import run
from memograd.run import native
from memograd.run.backend import Backend
from memograd.run.pool.places import ANYWHERE


class Native(Backend):
    """No Python between the operators, nor between the steps of a run."""

    name = "native"

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.program = native.compile(graph)

    def compute(self, flat: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        with ANYWHERE:
            return run(self.program, flat)

    def step(self, flat: Sequence[Any]) -> list[torch.Tensor]:
        return list(self.program.step(flat, self.feedback))

    def run(self, flat: Sequence[Any], steps: int) -> torch.Tensor:
        return self.program.loop(flat, self.feedback, steps)[1]
