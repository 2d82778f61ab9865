"""What the transforms share: a function with graphs made of it, and which of its arguments are differentiated.

Each transform captures its function once per input signature (structure, shapes, strides, dtypes, devices, baked
values, what the function closes over), differentiates the graph and keeps it. A function whose shapes or control flow
depend on values (``x[mask]``, ``if x.sum() > 0``) is captured at each call, for the values of that call. Transforms
nest: one inside another is captured through, and the graphs of the inner one become part of the outer graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from memograd._torch import pytree
from memograd.errors import GraphError
from memograd.graph.graph import Graph
from memograd.pipeline import capture_for
from memograd.tracing.reuse import Cache

Argnums = int | tuple[int, ...]


class Transform:
    """A function of the same arguments as ``f``; holds the graphs made for it."""

    def __init__(self, f: Callable[..., Any], argnums: Argnums) -> None:
        if not callable(f):
            raise GraphError(f"expected a function or module, got {type(f).__name__}")
        self.f = f
        self.argnums = argnums
        self.cache = Cache(f)
        self.__name__ = f"{type(self).__name__.strip('_')}({getattr(f, '__name__', type(f).__name__)})"

    def capture(self, args: tuple[Any, ...], kwargs: dict[str, Any], concrete: bool) -> tuple[Graph, list[str]]:
        """The graph of ``f``, and the names of its inputs that are leaves of the chosen arguments."""
        leaves = self.chosen(args)
        graph = capture_for(self.f, args, kwargs, leaves, concrete)
        return graph, self.selected(graph, args)

    def selected(self, graph: Graph, args: tuple[Any, ...]) -> list[str]:
        """Names of the graph's inputs that are leaves of the chosen arguments."""
        position_of = {leaf: k for k, leaf in enumerate(graph.calling.tensor_in)}
        inputs = [i.name for i in graph.inputs if i.kind == "input"]
        return [inputs[position_of[leaf]] for leaf in self.chosen(args)]

    def chosen(self, args: tuple[Any, ...]) -> list[int]:
        """Positions of the leaves to differentiate among those of all arguments."""
        counts = [len(pytree.tree_leaves(a)) for a in args]
        positions: list[int] = []
        for argnum in self.argnums_in(len(args)):
            start = sum(counts[:argnum])
            for leaf, value in enumerate(pytree.tree_leaves(args[argnum]), start):
                if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
                    raise GraphError(
                        f"argument {argnum} cannot be differentiated: it holds "
                        f"{value.dtype if isinstance(value, torch.Tensor) else type(value).__name__}; gradients exist "
                        "for floating-point and complex tensors (convert it with .float(), or leave it out of argnums)"
                    )
                positions.append(leaf)
        return positions

    def argnums_in(self, count: int) -> list[int]:
        chosen = [self.argnums] if isinstance(self.argnums, int) else list(self.argnums)
        for argnum in chosen:
            if not -count <= argnum < count:
                raise GraphError(
                    f"argnums={self.argnums}, but the function was called with {count} positional arguments"
                )
        return [a % count for a in chosen]

    def pack(self, args: tuple[Any, ...], values: list[torch.Tensor]) -> Any:
        """Gradients nested like the chosen arguments."""
        chosen = tuple(args[a] for a in self.argnums_in(len(args)))
        packed = pytree.tree_unflatten(values, pytree.tree_structure(chosen))
        return packed[0] if isinstance(self.argnums, int) else packed


def zeros_for(values: Sequence[torch.Tensor | None], like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients of inputs the result does not depend on are zeros."""
    return [torch.zeros_like(x) if v is None else v for v, x in zip(values, like, strict=True)]
