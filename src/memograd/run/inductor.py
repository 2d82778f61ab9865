"""The inductor backend: the straight-line function through the public ``torch.compile``, as one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memograd._torch import one_graph
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.run.eager import Eager


class Inductor(Eager):
    """Like ``Eager``, with fused kernels. Compiling takes seconds to minutes, at the first call."""

    name = "inductor"

    def build(self, graph: Graph) -> Any:
        return compiled(graph.function)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A straight-line function of ATen operators, compiled at its first call.

    Raises:
        BackendError: at that call: Inductor cannot compile it.
    """
    from torch._dynamo.exc import TorchDynamoException  # slow to import, like the compiler itself

    fused = torch.compile(function, fullgraph=True, dynamic=False)

    def call(*flat: Any) -> Any:
        try:
            with one_graph():
                return fused(*flat)
        except TorchDynamoException as error:
            raise BackendError(f"Inductor cannot compile this step: {str(error).splitlines()[0]}") from error

    return call
