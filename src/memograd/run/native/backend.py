"""The native backend: small graphs as one compiled C function (see ``run/native``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memograd.graph.graph import Graph
from memograd.run import native
from memograd.run.eager import Eager


class Native(Eager):
    """Like ``Eager``, without Python between the operators."""

    name = "native"

    def build(self, graph: Graph) -> Any:
        self.program = native.compile(graph)
        return self.program

    def step(self, flat: Sequence[Any]) -> list[torch.Tensor]:
        return list(self.program.step(flat, self.feedback))

    def run(self, flat: Sequence[Any], steps: int) -> torch.Tensor:
        return self.program.loop(flat, self.feedback, steps)[1]
