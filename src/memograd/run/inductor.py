"""The inductor backend: a graph through PyTorch's compiler, as one function."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import fx

from memograd._torch import inductor_graph, last_passes, one_graph
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.graph.rewriting import Rewriting
from memograd.graph.signature import run
from memograd.graph.tanh_by_exp import tanh_by_exp
from memograd.graph.views import tensors_of
from memograd.run.backend import Backend
from memograd.run.long_products import in_parts, parts_of
from memograd.run.pool.places import ANYWHERE, Places
from memograd.run.sums_apart import sums_apart
from memograd.run.whole_rows import whole_rows

aten = torch.ops.aten
_stride = torch.Tensor.stride
_COMPILING = threading.Lock()
_FEW, _SMALL = 200, 1 << 19  # operators, bytes of a value on average: where calling kernels takes the time of some


class Inductor(Backend):
    """Fused kernels. Compiling takes seconds to minutes, at the first call."""

    name = "inductor"

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.places = Places()
        self.function = compiled(graph)

    def compute(self, flat: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        with ANYWHERE:
            return run(self.function, flat)

    def step(self, flat: Sequence[Any]) -> list[torch.Tensor]:
        with self.places:
            return self.commit(flat, run(self.function, flat))


def compiled(graph: Graph) -> Callable[..., Any]:
    """``graph`` as a function, compiled at its first call; for operands that lie in memory in another way, once more.

    The compiler gets the graph itself: there is no bytecode to be read, and what Dynamo would guard at every call
    (shapes, dtypes, devices) whoever calls a graph of ours has looked at before. Where a graph calls Python functions
    of the user's, it goes through ``torch.compile``.

    Raises:
        BackendError: at a call: Inductor cannot compile it.
    """
    options = last_passes(sums_apart, tanh_by_exp, whole_rows) | {"cpp_wrapper": _is_light(graph)}
    graph = graph.rewritten(_as_it_runs)
    if not all(_is_operator(node) for node in graph.nodes):
        return _through_dynamo(graph.function)
    functions: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def call(*flat: Any) -> Any:
        geometry = tuple(map(_stride, flat))
        function = functions.get(geometry)
        if function is None:
            with _COMPILING:
                function = functions.setdefault(geometry, _compiled(graph, flat, options))
        if not torch.is_grad_enabled():
            return function(*flat)
        with torch.no_grad():
            return function(*flat)

    return call


def _is_operator(node: fx.Node) -> bool:
    """Whether a node is what the compiler knows: an operator of PyTorch's, or one that says what it is like."""
    return node.target is operator.getitem or isinstance(node.target, torch._ops.OpOverload)


def _as_it_runs(new: Rewriting, node: fx.Node) -> fx.Node:
    """``node`` as it is where no gradients are recorded (PyTorch's LSTM layer has no workspace there), on all threads,
    and so that the compiler gets it right: it takes ``add(x, mm(a, b), alpha=α)`` for ``addmm(x, a, b)``, without α."""
    if node.target is aten.add.Tensor and node.kwargs.get("alpha", 1) != 1:
        return _times_alpha_first(new, node)
    if node.target is aten.mm.default and (parts := parts_of(node)) > 1:
        return in_parts(new, node, parts)
    copy = new.copy(node)
    if node.target is aten.mkldnn_rnn_layer.default:
        copy.target = torch.ops.memograd.lstm_layer.default
    return copy


def _times_alpha_first(new: Rewriting, node: fx.Node) -> fx.Node:
    """x + αy of ``add(x, y, alpha=α)``, in the dtype of the sum."""
    operands: Any = fx.map_arg(node.args, new.where.__getitem__)
    x, y = operands
    dtype = node.meta["val"].dtype
    if isinstance(y, fx.Node) and y.meta["val"].dtype != dtype:
        y = new.fx.call_function(aten._to_copy.default, (y,), {"dtype": dtype})
    scaled = new.fx.call_function(aten.mul.Tensor, (y, node.kwargs["alpha"]))
    total = new.fx.call_function(aten.add.Tensor, (x, scaled))
    total.meta.update(node.meta)
    return total


def _compiled(graph: Graph, flat: tuple[Any, ...], options: dict[str, Any]) -> Callable[..., Any]:
    operands = [t.detach() for t in flat]
    if options["cpp_wrapper"]:
        with suppress(Exception):  # what cannot be called from C++ is called from Python
            return inductor_graph(_module(graph), operands, options)
    try:
        return inductor_graph(_module(graph), operands, options | {"cpp_wrapper": False})
    except Exception as error:  # whatever a compiler may run into
        raise BackendError(f"Inductor cannot compile this step: {(str(error).splitlines() or [''])[0]}") from error


def _is_light(graph: Graph) -> bool:
    """Whether it pays to call its kernels from C++, which takes the compiler longer (twice as long for 1,500 operators,
    a tenth for some dozens) and saves some microseconds a kernel."""
    values = [t for n in graph.nodes for t in tensors_of(n)]
    if len(graph.nodes) > _FEW or any(t.device.type != "cpu" for t in values):
        return False
    return sum(t.numel() * t.element_size() for t in values) <= _SMALL * len(values)


def _module(graph: Graph) -> fx.GraphModule:
    copy, where = graph.copy()
    copy.output(tuple(where[node] for node in graph.results))
    for node in copy.nodes:
        node.meta = {}  # the compiler has tensors without data of its own
        if node.op == "placeholder":
            node.target = node.name  # ours may be called what no variable can be
    return fx.GraphModule({}, copy)


def _through_dynamo(function: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo.exc import TorchDynamoException  # slow to import, like the compiler itself

    fused = torch.compile(function, fullgraph=True, dynamic=False)

    def call(*flat: Any) -> Any:
        try:
            with one_graph():
                return fused(*flat)
        except TorchDynamoException as error:
            raise BackendError(f"Inductor cannot compile this step: {str(error).splitlines()[0]}") from error

    return call
