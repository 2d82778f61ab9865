"""Record ATen calls on fake tensors as nodes of an fx graph. Used by capture, by the rules and by optimizers.

A tracer sits on PyTorch's dispatcher below autograd, so composite functions (``linear``, ``cross_entropy``, autocast,
``einsum``) arrive already taken apart into the operators that really run. It costs about 0.1 ms an operator.

Three things are decided here because only here they can be seen:

- *gradient stops*: an operator that runs while grad mode is off gets a ``memograd::stop`` behind it;
- *opaque backwards*: an operator that runs inside ``autograd.Function.apply`` gets a ``memograd::opaque``;
- *mutation*: an in-place operator is recorded as its functional twin (see ``mutation.py``).
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd._torch import (
    DATA_DEPENDENT,
    FAKE,
    FUNCTION_APPLY_CODE,
    TorchDispatchMode,
    fake_like,
    generated_function,
    is_fake,
    pytree,
    quiet,
)
from memograd.errors import CaptureError
from memograd.mutation import Alias, Storage, functional_twin, is_view, write_back
from memograd.provenance import ModuleStack, caller
from memograd.rules.registry import FUNCTIONS

aten = torch.ops.aten

# Questions about a tensor, not computations.
_QUERIES = frozenset({torch.ops.prim.device.default, aten.is_pinned.default, aten.sym_size.default})


_PROVENANCE = ("module", "source", "line")


class Tracer(TorchDispatchMode):
    """Appends every ATen call made under it to ``graph``.

    Args:
        graph: receives the nodes; its insertion point decides where.
        lift: called with a real tensor that the program uses without having been given it; returns its node.
            Without it such a tensor is an error.
        stops: respect grad mode (true for user programs, false for rules, which run with autograd off).
    """

    def __init__(
        self, graph: fx.Graph, lift: Callable[[torch.Tensor], fx.Node] | None = None, stops: bool = False
    ) -> None:
        super().__init__()
        self.graph = graph
        self.lift = lift
        self.stops = stops
        self.modules = ModuleStack()
        self.meta: dict[str, Any] = {}  # put on every new node: provenance given from outside
        self.paused = False
        self.offset_inputs = False  # some input starts inside its memory, which its fake stand-in does not
        self._inputs: dict[fx.Node, torch.Tensor] = {}
        self._known: dict[int, Alias] = {}  # by id; each Alias keeps its tensor alive, so ids stay unique

    # -- tensors and nodes ---------------------------------------------------------------------------------------

    def bind(self, tensor: torch.Tensor, node: fx.Node) -> torch.Tensor:
        """Let ``tensor`` stand for the value of ``node``."""
        self._known[id(tensor)] = Alias(tensor, Storage(tensor, node))
        return tensor

    def alias(self, tensor: torch.Tensor, other: torch.Tensor) -> None:
        """Let ``tensor`` stand for the same memory as ``other``."""
        self._known[id(tensor)] = Alias(tensor, self._known[id(other)].storage)

    def input(self, node: fx.Node) -> torch.Tensor:
        """The tensor by which rules refer to ``node``."""
        if node not in self._inputs:
            value = node.meta["val"]
            # several nodes may share one value of metadata; tensors must tell them apart
            self._inputs[node] = self.bind(self._fresh(value) if id(value) in self._known else value, node)
        return self._inputs[node]

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that computes the present value of ``tensor``."""
        alias = self._known.get(id(tensor))
        if alias is None:
            alias = self._lift(tensor)
        return alias.refresh(self._emit)

    def storages(self) -> Iterator[Storage]:
        """Every storage seen, each once."""
        return iter(dict.fromkeys(alias.storage for alias in self._known.values()))

    def item(self, node: fx.Node, index: int) -> torch.Tensor:
        """One output of a node with several, as a tensor."""
        found = [u for u in node.users if u.target is operator.getitem and u.args[1] == index]
        return self.input(
            found[0] if found else self._emit(operator.getitem, (node, index), {}, node.meta["val"][index])
        )

    def placeholder(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """A further input of the graph, with the geometry of ``like``."""
        last = self.graph.find_nodes(op="placeholder")
        value = self._fresh(like)
        with self.graph.inserting_after(last[-1]) if last else nullcontext():
            node = self.graph.placeholder(name)
        node.meta["val"] = value
        return self.bind(value, node)

    def emit(self, target: Any, args: Any, value: Any) -> fx.Node:
        """A node for a call that the dispatcher does not see."""
        return self._emit(target, _map_tensors(self.node_of, args), {}, value)

    def rebind(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """From now on ``tensor`` is the value of ``node``."""
        self._known[id(tensor)] = Alias(tensor, Storage(tensor, node))

    def _fresh(self, like: torch.Tensor) -> torch.Tensor:
        with self.pause():
            return fake_like(like)

    @contextmanager
    def rules(self) -> Iterator[None]:
        """Record the derivative rules that run inside: no autograd, and other tracers look away."""
        with torch.no_grad(), quiet(), FAKE, self:
            yield

    @contextmanager
    def about(self, node: fx.Node) -> Iterator[None]:
        """Nodes made inside are (contributions to) the adjoint of ``node`` or of its operands."""
        before = self.meta
        self.meta = {"adjoint_of": node.name} | {k: node.meta[k] for k in _PROVENANCE if k in node.meta}
        try:
            yield
        finally:
            self.meta = before

    def _lift(self, tensor: torch.Tensor) -> Alias:
        if self.lift is None:
            raise CaptureError(
                f"a rule used a tensor {tuple(tensor.shape)} it was not given; build constants with torch functions "
                "(torch.full, torch.arange) inside the rule"
            )
        node = self.lift(tensor)
        self.alias(tensor, node.meta["val"])
        return self._known[id(tensor)]

    # -- recording -----------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused or func in _QUERIES:
            return func(*args, **kwargs)
        if self.offset_inputs and func is aten.as_strided.default and (len(args) > 3 or "storage_offset" in kwargs):
            raise CaptureError(
                "as_strided with an explicit offset, and an argument is a view into a larger tensor: "
                "offsets count from the start of that one; pass a copy (x.clone())"
            )
        if func is aten.native_batch_norm.default and args[3] is not None and args[5]:
            func = aten._native_batch_norm_legit.default  # the same, with a schema that owns up to its writes
        try:
            if functional := functional_twin(func):
                return self._record_write(func, functional, args, kwargs)
            out = func(*self._fakes(args), **self._fakes(kwargs))
        except DATA_DEPENDENT as error:
            raise CaptureError(self._data_dependent(func)) from error
        self._record(func, args, kwargs, out)
        return out

    def _record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        single = isinstance(out, torch.Tensor)
        outs = [out] if single else pytree.tree_leaves(out)
        if not any(isinstance(o, torch.Tensor) for o in outs):
            return  # a size, a stride, a flag: already a Python value
        source = self._known.get(id(args[0])) if args and is_view(func) else None
        if func is aten.detach.default:  # a stop in a program; nothing at all inside a rule
            node = self.node_of(args[0])
            value = self._emit(ops.stop, (node,), {}, out) if self.stops else node
            self._known[id(out)] = (source or self._known[id(args[0])]).view(out, (func, (), {}, None), value)
            return
        node = self._emit(func, self._nodes(args), self._nodes(kwargs), out)
        for i, tensor in enumerate(outs):
            if not isinstance(tensor, torch.Tensor) or id(tensor) in self._known:
                continue
            value = self._marked(node if single else self._emit(operator.getitem, (node, i), {}, tensor), tensor)
            if source is not None:
                step = (func, args[1:], kwargs, None if single else i)
                self._known[id(tensor)] = source.view(tensor, step, value)
            else:
                self.bind(tensor, value)

    def _record_write(self, func: Any, functional: Any, args: Any, kwargs: Any) -> Any:
        """An in-place or ``out=`` call: record the functional twin, then write its results back."""
        missing = [a for a in func._schema.arguments[len(args) :] if not a.kwarg_only and a.name not in kwargs]
        args = (*args, *(a.default_value for a in missing))  # the twin may have other defaults
        written = [
            kwargs[a.name] if a.name in kwargs else args[i] if i < len(args) else None
            for i, a in enumerate(func._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        ]
        outs = {a.name for a in func._schema.arguments if a.kwarg_only and a.alias_info is not None}
        pure_kwargs = {k: v for k, v in kwargs.items() if k not in outs}
        if torch.Tag.inplace_view in func.tags and is_fake(args[0]):
            self.node_of(args[0])
            for node in self.graph.nodes:  # ``squeeze_`` changes the shape of the very tensor that documents a node
                if node.meta.get("val") is args[0]:
                    node.meta["val"] = fake_like(args[0])
        new = functional(*self._fakes(args), **self._fakes(pure_kwargs))
        news, spec = pytree.tree_flatten(new)
        node = self._emit(functional, self._nodes(args), self._nodes(pure_kwargs), new)
        values = (
            [node] if spec.is_leaf() else [self._emit(operator.getitem, (node, i), {}, n) for i, n in enumerate(news)]
        )
        olds = [t for w in written if w is not None for t in (w if isinstance(w, (list, tuple)) else [w])]
        result = func(*self._fakes(args), **self._fakes(kwargs))
        fresh = sum(r.alias_info is None for r in func._schema.returns)  # results besides what is written
        for tensor, value in zip(pytree.tree_leaves(result), values[:fresh], strict=False):
            self.bind(tensor, self._marked(value, tensor))
        for old, value, fake in zip(olds, values[fresh:], news[fresh:], strict=True):
            self._write(old, value, fake)
        if fresh:
            return result
        return olds[0] if isinstance(result, torch.Tensor) else result if result is None else type(result)(olds)

    def _write(self, old: torch.Tensor, value: fx.Node, fake: torch.Tensor) -> None:
        alias = self._known.get(id(old)) or self._lift(old)
        if fake.dtype != old.dtype:  # an in-place operator keeps the dtype of what it writes to
            fake = fake.to(old.dtype)
            value = self._emit(aten._to_copy.default, (value,), {"dtype": old.dtype}, fake)
        value = self._marked(value, fake)
        hidden = alias.stopped or (self.stops and not torch.is_grad_enabled())
        write_back(alias, value, hidden, self._emit)

    def _marked(self, node: fx.Node, tensor: torch.Tensor) -> fx.Node:
        """``node``, behind a mark when autograd would not differentiate through it."""
        if not self.stops or not (tensor.is_floating_point() or tensor.is_complex()):
            return node
        if torch.is_grad_enabled():
            return node
        if (cls := _custom_function()) is not None:
            if cls in FUNCTIONS:
                return node  # its own backward is the rule, see functions.py
            function = cls.__qualname__
            if function == generated_function(node.args[0] if node.target is operator.getitem else node):
                return node  # torch.library's wrapper around this one operator: it has a rule, or that is the error
            where = node.meta.get("source", "unknown source line")
            return self._emit(ops.opaque, (node, function, where), {}, tensor)
        return self._emit(ops.stop, (node,), {}, tensor)

    def _emit(self, target: Any, args: Any, kwargs: Any, value: Any) -> fx.Node:
        name = getattr(target, "overloadpacket", target).__name__
        node = self.graph.create_node("call_function", target, tuple(args), dict(kwargs), name=name)
        node.meta["val"] = value
        if self.stops:
            node.meta["source"], node.meta["line"] = caller()
            node.meta["module"] = self.modules.path
        node.meta.update(self.meta)
        return node

    def _nodes(self, tree: Any) -> Any:
        return _map_tensors(self.node_of, tree)

    def _fakes(self, tree: Any) -> Any:
        """Real tensors (constants of the program) replaced by fakes, so that nothing real is computed or mutated."""

        def fake(tensor: torch.Tensor) -> torch.Tensor:
            if is_fake(tensor):
                return tensor
            self.node_of(tensor)
            return self._known[id(tensor)].storage.fake

        return _map_tensors(fake, tree)

    def _data_dependent(self, func: Any) -> str:
        source, line = caller()
        return (
            f"{func} at {source} ({line.strip()}) in module '{self.modules.path or '<root>'}' needs a tensor's value "
            "while the graph is captured (data-dependent control flow, .item(), or a data-dependent shape). "
            "Write it with tensor operations (torch.where), or compute it outside and pass it in."
        )

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let calls pass unrecorded (an inner capture inside this one)."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before


def _map_tensors(f: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    """``f`` applied to the tensors among an operator's arguments (at most lists of them; pytree would cost more)."""
    if isinstance(tree, torch.Tensor):
        return f(tree)
    if isinstance(tree, (list, tuple)):
        return (
            tuple(_map_tensors(f, t) for t in tree) if isinstance(tree, tuple) else [_map_tensors(f, t) for t in tree]
        )
    if isinstance(tree, dict):
        return {k: _map_tensors(f, v) for k, v in tree.items()}
    return tree


def _custom_function() -> type | None:
    """The custom ``autograd.Function`` whose ``apply`` is running, if any."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is FUNCTION_APPLY_CODE:
            return frame.f_locals["cls"]
        frame = frame.f_back
    return None
