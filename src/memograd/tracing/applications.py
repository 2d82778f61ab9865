"""See every application of an ``autograd.Function`` in a traced program, and record it.

The class's own ``forward`` runs as PyTorch runs it, with grad mode off, so that the operators in it carry no adjoint.
Behind them comes one node, whose adjoints go to the class's own ``backward`` (``functions.py``). It is made whenever
grad mode is on, whether or not an argument requires a gradient: of a graph that becomes part of another program, more
may be differentiated than its own program knew.
"""

from __future__ import annotations

import collections
import operator
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from memograd._torch import (
    SingleLevelFunction,
    backward_class,
    generated_function,
    inside_torch_func,
    registered_backward,
    without_modes,
)
from memograd.rules.registry import lookup
from memograd.tracing.checkpoints import is_checkpoint, run_through
from memograd.tracing.functions import Application, emit, referring
from memograd.tracing.held import Held
from memograd.tracing.interposed import Interposed, current
from memograd.tracing.operands import Ref
from memograd.tracing.reachable import reachable
from memograd.tracing.tracer import Tracer


class Applied:
    """One application under way."""

    def __init__(self, tracer: Tracer, cls: Any) -> None:
        self.tracer = tracer
        self.cls = cls
        self.grad = torch.is_grad_enabled()
        self.has_rule = False  # the Function is torch.library's, around an operator that the table knows
        self.notes = Notes()

    def apply(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with without_modes():
            args = tuple(self.tracer.stand_in(a) if isinstance(a, torch.Tensor) else a for a in args)
        cls = self._recording(args) if self.grad else self.cls
        self.tracer.applied.append(self)
        try:
            out = _go_on(cls, args, kwargs)
        finally:
            self.tracer.applied.pop()
        if self.grad and not self.has_rule:
            self._record(list(out) if isinstance(out, tuple) else [out])
        return out

    def stops(self, node: fx.Node) -> bool:
        """Whether no adjoint flows to ``node``, an operator that ``forward`` runs with grad mode off."""
        source: Any = node.args[0] if node.target is operator.getitem else node
        if self.cls.__qualname__ == generated_function(source):
            # torch.library's wrapper around this one operator, which has a rule, or that is the error
            self.has_rule = lookup(source.target) is not None or not registered_backward(self.cls)
        return not self.has_rule

    # -- around the class's methods ------------------------------------------------------------------------------

    def _recording(self, args: tuple[Any, ...]) -> Any:
        """The class, such that its methods tell us what they do."""
        tracer, cls = self.tracer, self.cls
        self.inputs = [a for a in args if _is_smooth(a)]
        self.nodes = [tracer.node_of(a) for a in self.inputs]  # before forward writes to them
        self.first = next(iter(reversed(tracer.graph.nodes)), None)
        self.known = tracer.count

        def whole(ctx: Any, *inputs: Any) -> Any:
            output = cls.forward(ctx, *inputs)
            self._ran(ctx, inputs, output)
            return output

        def second(ctx: Any, inputs: Any, output: Any) -> None:
            cls.setup_context(ctx, inputs, output)
            self._ran(ctx, inputs, output)

        methods: dict[str, Any] = {"forward": staticmethod(whole)}
        if cls.setup_context is not torch.autograd.Function.setup_context:
            methods = {"forward": staticmethod(cls.forward), "setup_context": staticmethod(second)}
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        recording = type(cls)(cls.__name__, (cls,), methods | names)
        backward_class(recording, _node_class(self.notes, backward_class(cls)))
        return recording

    def _ran(self, ctx: Any, arguments: tuple[Any, ...], output: Any) -> None:
        """``forward`` is over: what is on ``ctx`` and what are the results?"""
        if self.has_rule:
            return
        tracer = self.tracer
        outs = list(output) if isinstance(output, tuple) else [output]
        constant, dirty = list(ctx.non_differentiable or ()), list(ctx.dirty_tensors or ())
        smooth = [o for o in outs if _is_smooth(o) and not _among(o, constant)]
        self.dirty = [_among(o, dirty) for o in smooth]
        likes = [tracer.like(o) if isinstance(o, torch.Tensor) else None for o in outs]
        held = Held(tracer, self._refs(smooth))
        attributes, saved = dict(vars(ctx)), tuple(ctx.to_save or ())
        held.keep_history(self.first, self.known, [attributes, saved])
        saved_refs, attribute_refs = referring(saved, held.ref), referring(attributes, held.ref)
        ruled = referring(tuple(arguments), held.ref) if lookup(self.cls) is not None else None
        held.reach(reachable(attribute_refs, self.cls.backward, self.cls.vjp))
        self.call = Application(
            self.cls,
            _numbered(arguments, [a for a in arguments if _is_smooth(a)]),
            list(zip(_numbered(outs, smooth), likes, strict=True)),
            saved_refs,
            attribute_refs,
            self.notes.materialize,
            (self.notes.before, self.notes.behind),
            ruled,
            **held.operands(self.inputs),
        )
        self.operands = [self.nodes, held.hidden_nodes, [tracer.node_of(o) for o in smooth], held.nodes]

    def _refs(self, results: list[torch.Tensor]) -> dict[int, Ref]:
        refs: dict[int, Ref] = {}
        for i, x in enumerate(self.inputs):
            refs.setdefault(id(x), Ref("inputs", i))
        for k, result in enumerate(results):
            if id(result) not in refs or self.dirty[k]:
                refs[id(result)] = Ref("output", k)
        return refs

    def _record(self, outs: list[Any]) -> None:
        """The node, and the results as results of it."""
        results = [o for o, (k, _) in zip(outs, self.call.outputs, strict=True) if k is not None and k >= 0]
        node = emit(self.tracer, self.call, self.operands, results)
        for k, (result, dirty) in enumerate(zip(results, self.dirty, strict=True)):
            item = self.tracer.emit_node(operator.getitem, (node, k), result)
            self.tracer.settle(result, item, dirty)


class Notes:
    """What the node of autograd's graph, which is also ``ctx``, was told. It knows nothing else of the capture: what a
    node of autograd's graph holds on to is never collected while it leads back to the node."""

    def __init__(self) -> None:
        self.materialize = True
        self.before: collections.OrderedDict[int, Any] = collections.OrderedDict()  # hooks by number
        self.behind: collections.OrderedDict[int, Any] = collections.OrderedDict()


def _node_class(notes: Notes, base: Any) -> Any:
    """The class of autograd's node, such that it takes notes."""

    class Node(base):
        @property
        def materialize_grads(self) -> bool:
            return notes.materialize

        @materialize_grads.setter
        def materialize_grads(self, value: bool) -> None:
            notes.materialize = value
            base.materialize_grads.__set__(self, value)

        def register_prehook(self, hook: Any) -> Any:
            return _registered(super().register_prehook, hook, notes.before)

        def register_hook(self, hook: Any) -> Any:
            return _registered(super().register_hook, hook, notes.behind)

    Node.__name__, Node.__qualname__, Node.__module__ = base.__name__, base.__qualname__, base.__module__
    return Node


def _registered(register: Any, hook: Any, table: Any) -> Any:
    with expected():
        handle = register(hook)
    table[handle.id] = hook
    handle.extra_dict_ref = (*handle.extra_dict_ref, weakref.ref(table))
    return handle


@contextmanager
def expected() -> Iterator[None]:
    """The hook that is registered inside is one on the node of an ``autograd.Function``."""
    tracer = current()
    if tracer is None:
        yield
        return
    before, tracer.own_node = tracer.own_node, True
    try:
        yield
    finally:
        tracer.own_node = before


def _go_on(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return super(SingleLevelFunction, cls).apply(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    tracer = current()
    if tracer is None or not tracer.stops or inside_torch_func():
        return _go_on(cls, args, kwargs)
    if is_checkpoint(cls) and torch.is_grad_enabled():
        return run_through(tracer, *args)
    return Applied(tracer, cls).apply(args, kwargs)


APPLY = Interposed(SingleLevelFunction, "apply", classmethod(_apply))


def _is_smooth(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _numbered(values: Any, counted: list[Any]) -> list[int | None]:
    """Numbers for those of ``values`` that are counted; -1: another tensor, None: no tensor."""
    numbers = iter(range(len(counted)))
    return [next(numbers) if _among(v, counted) else -1 if isinstance(v, torch.Tensor) else None for v in values]


def _among(value: Any, values: list[Any]) -> bool:
    return any(value is v for v in values)
