"""The inductor backend: the straight-line function through the public ``torch.compile``, as one graph."""

from __future__ import annotations

from typing import Any

import torch

from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.run.eager import Eager


class Inductor(Eager):
    """Like ``Eager``, with fused kernels. Compiling takes seconds to minutes, at the first call."""

    name = "inductor"

    def build(self, graph: Graph) -> Any:
        from torch._dynamo.exc import TorchDynamoException  # slow to import, like the compiler itself

        compiled = torch.compile(graph.function, fullgraph=True, dynamic=False)

        def call(*flat: Any) -> Any:
            try:
                return compiled(*flat)
            except TorchDynamoException as error:
                raise BackendError(f"Inductor cannot compile this step: {str(error).splitlines()[0]}") from error

        return call
