"""Nodes appended to an fx graph, each with what is known of it: its value's geometry, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd._torch import fake_like, is_fake
from memograd.tracing.provenance import ModuleStack, caller

_PROVENANCE = ("module", "calls", "source", "line")
_NO_TENSORS = frozenset((int, float, bool, complex, str, type(None), torch.dtype, torch.device))


class Writer:
    """Appends nodes to ``graph``.

    Args:
        graph: receives the nodes; its insertion point decides where.
        stops: it is a program of the user's: nodes say on which line of it they stand.
        concrete: the values have data; nodes are documented by tensors without.
    """

    def __init__(self, graph: fx.Graph, stops: bool, concrete: bool) -> None:
        super().__init__()
        self.graph = graph
        self.stops = stops
        self.concrete = concrete
        self.modules = ModuleStack()
        self.meta: dict[str, Any] = {}  # put on every new node: provenance given from outside
        self.paused = False
        self._documented: dict[int, list[fx.Node]] = {}  # by id of a fake tensor: the nodes whose ``val`` it is

    def emit_node(self, target: Any, args: Any, value: Any) -> fx.Node:
        """A node that the dispatcher does not see, on operands that are nodes."""
        return self._emit(target, args, {}, value)

    def _emit(self, target: Any, args: Any, kwargs: Any, value: Any) -> fx.Node:
        name = getattr(target, "overloadpacket", target).__name__
        node = self.graph.create_node("call_function", target, name=name)
        node.args = tuple(args)  # afterwards: what fx looks for among the operands of a new node is never there
        if kwargs:
            node.kwargs = dict(kwargs)
        self.document(node, value)
        if self.stops:
            node.meta["source"], node.meta["line"] = caller()
            node.meta["module"] = self.modules.path
            node.meta["calls"] = self.modules.calls
        node.meta.update(self.meta)
        return node

    def stopped(self, node: fx.Node, tensor: torch.Tensor) -> fx.Node:
        """``node``, whose value is ``tensor``, for a use that gets no adjoint."""
        return self._emit(ops.stop, (node,), {}, tensor)

    def document(self, node: fx.Node, value: Any) -> None:
        """Put shape, strides, dtype and device of ``node``'s value into its metadata."""
        if self.concrete:
            value = map_tensors(lambda t: t if is_fake(t) else self.like(t), value)
        elif isinstance(value, torch.Tensor):
            self._documented.setdefault(id(value), []).append(node)
        node.meta["val"] = value

    def redocument(self, tensor: torch.Tensor) -> None:
        """``squeeze_`` is about to change the shape of the very tensor that documents a node: use another one."""
        for node in self._documented.pop(id(tensor), ()):
            node.meta["val"] = fake_like(tensor)

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor without data that has the geometry of ``tensor``."""
        with self.pause():
            return fake_like(tensor)

    # -- contexts ------------------------------------------------------------------------------------------------

    @contextmanager
    def labelled(self, meta: Mapping[str, Any]) -> Iterator[None]:
        """Nodes made inside carry ``meta``, but for its value."""
        before, self.meta = self.meta, {k: v for k, v in meta.items() if k != "val"}
        try:
            yield
        finally:
            self.meta = before

    def about(self, node: fx.Node) -> AbstractContextManager[None]:
        """Nodes made inside are (contributions to) the adjoint of ``node`` or of its operands."""
        return self.labelled({"adjoint_of": node.name} | {k: node.meta[k] for k in _PROVENANCE if k in node.meta})

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let calls pass unrecorded (an inner capture inside this one)."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before


def map_tensors(f: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """``f`` applied to the tensors among an operator's arguments (at most lists of them; pytree would cost more)."""
    if type(tree) in _NO_TENSORS:
        return tree
    if isinstance(tree, torch.Tensor):
        return f(tree)
    if isinstance(tree, tuple):
        return tuple([map_tensors(f, t) for t in tree])
    if isinstance(tree, list):
        return [map_tensors(f, t) for t in tree]
    if isinstance(tree, dict):
        return {k: map_tensors(f, v) for k, v in tree.items()}
    return tree
