"""Nodes with a backward that their author has written: applications of an ``autograd.Function``, hooks on tensors.

Such a node computes nothing: ``call(inputs, hidden, results, saved) -> results``. The results were computed by the
operators in front of it, as the author's ``forward`` has them; what the node adds is that their adjoints go to the
author's ``backward``, and from there to the inputs. So it has for operands all that the backward may ask for:

* *inputs*: what ``forward`` was given and adjoints may flow to;
* *hidden*: parameters into which the backward may accumulate a gradient, besides those it returns;
* *results*: of ``forward``;
* *saved*: other tensors that were put on ``ctx``, or that the backward reaches otherwise.

The backward is run where the recursion comes to the node, see ``backward.py``.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.autograd.function import FunctionCtx

from memograd.rules.registry import Entry, lookup, pull_back
from memograd.targets import Target
from memograd.tracing.backward import is_once_differentiable, pulled_back, source_of
from memograd.tracing.hooks import called_at_run_time, called_by, through
from memograd.tracing.interposed import current
from memograd.tracing.operands import Hidden, Operands, Place, Ref
from memograd.tracing.tracer import Tracer

RESULTS = 2  # which operand of a call the results are
CALLS: weakref.WeakValueDictionary[int, Call] = weakref.WeakValueDictionary()  # printed graphs refer to them by number
_NUMBERS = itertools.count()


class Call(Target):
    """The target of such a node; what its attributes are, see ``backward.Backward``."""

    flows = 2  # adjoints flow to the first two arguments, inputs and hidden ones

    def __init__(
        self,
        name: str,
        function: Any,
        places: dict[str, list[Place]],
        hidden: Sequence[Hidden] = (),
        foreign: Sequence[tuple[torch.Tensor, Ref]] = (),
    ) -> None:
        self.name = name
        self.source = source_of(function)
        self.once = is_once_differentiable(function)
        self.places = places
        self.hidden = tuple(hidden)
        self.foreign = tuple(foreign)
        self.number = next(_NUMBERS)
        self.__name__ = name
        self.definition = f"{self!r} = memograd.tracing.functions.CALLS[{self.number}]"  # in printed graphs
        CALLS[self.number] = self

    def __repr__(self) -> str:
        return f"_call_{self.number}"

    @property
    def entry(self) -> Entry:
        """The line of the derivative table."""
        return self.entry_for(None)

    def entry_for(self, needed: Sequence[bool] | None) -> Entry:
        """The same where not all inputs are differentiated."""

        def rule(adjoint: Any, y: Any, *operands: Any) -> Any:
            asked = [True] * len(operands[0]) if needed is None else list(needed)
            return pulled_back(self, Operands(asked, adjoint, y, *operands))

        return Entry(self, "rule", rule, f"x̄ = {self.name}.backward(ȳ)", "", self.source)

    def __call__(self, inputs: Any, hidden: Any, results: Any, saved: Any) -> Any:
        """What a graph does that is run: nothing. Inside another capture the call becomes a part of that graph."""
        tracer = current()
        if tracer is None or not torch.is_grad_enabled():
            return tuple(results)
        results = [torch.ops.aten.alias.default(r) for r in results]
        nodes = [[tracer.node_of(t) for t in group] for group in (inputs, hidden, results, saved)]
        node = emit(tracer, self, nodes, results)
        for i, result in enumerate(results):
            tracer.bind(result, tracer.emit_node(operator.getitem, (node, i), result))
        return tuple(results)

    def run(self, adjoints: list[Any], needed: list[bool], tensor_of: Callable[[Ref], torch.Tensor]) -> list[Any]:
        raise NotImplementedError

    def reads(self) -> list[Ref]:
        """The operands that ``run`` may read, but for adjoints."""
        return list(dict.fromkeys([ref for _, ref, *_ in (*self.foreign, *self.hidden)]))

    def roots(self) -> list[Any]:
        """The functions of the user's that ``run`` calls, and what these are given besides tensors."""
        raise NotImplementedError

    def at_run_time(self) -> list[Any]:
        """It is called when the graph runs. Returns the objects of PyTorch's that gradients lie in for it by then."""
        return []


def emit(tracer: Tracer, call: Call, operands: list[list[fx.Node]], results: list[torch.Tensor]) -> fx.Node:
    """The node of a call. What documents its value is changed by no later write."""
    return tracer.emit_node(call, tuple(operands), tuple(tracer.like(r) for r in results))


class Application(Call):
    """One application of an ``autograd.Function``.

    Args:
        cls: the class.
        layout: for each argument of ``forward`` which input it is; -1: a tensor without derivative, None: no tensor.
        outputs: for each result of ``forward`` which result of the node it is, numbered likewise, and a tensor of its
            geometry.
        saved_tensors: for ``ctx.saved_tensors``.
        attributes: the other ones of ``ctx``; in both a ``Ref`` stands for a tensor.
        materialize: whether ``backward`` wants zeros where there is no adjoint.
        arguments: those of ``forward`` where the table has a rule for the class; None where ``backward`` is run.
        hooks: what was registered on the node of autograd's graph, before and behind the backward.
    """

    def __init__(
        self,
        cls: Any,
        layout: Sequence[int | None],
        outputs: list[tuple[int | None, torch.Tensor | None]],
        saved_tensors: tuple[Any, ...],
        attributes: dict[str, Any],
        materialize: bool,
        hooks: tuple[dict[int, Any], dict[int, Any]],
        arguments: tuple[Any, ...] | None,
        **operands: Any,
    ) -> None:
        separate = cls.vjp is not torch.autograd.Function.vjp
        self.backward = cls.vjp if separate else cls.backward
        super().__init__(cls.__name__, self.backward, **operands)
        self.cls = cls
        self.layout = layout
        self.outputs = outputs
        self.saved_tensors = saved_tensors
        self.attributes = attributes
        self.materialize = materialize
        self.before, self.behind = hooks
        self.arguments = arguments

    def run(self, adjoints: list[Any], needed: list[bool], tensor_of: Callable[[Ref], torch.Tensor]) -> list[Any]:
        cotangents = tuple(None if k is None or k < 0 else adjoints[k] for k, _ in self.outputs)
        for hook in list(self.before.values()):
            cotangents = through(hook, cotangents)
        parts = (
            self._backward(cotangents, needed, tensor_of)
            if self.arguments is None
            else self._ruled(cotangents, tensor_of)
        )
        count = len(self.layout)
        if len(parts) < count or any(p is not None for p in parts[count:]):
            raise RuntimeError(f"it returned {len(parts)} gradients for {count} arguments of forward")
        if self.behind:
            parts = self._hooked(parts, cotangents)
        by_position = {at: p for at, p in zip(self.layout, parts, strict=False) if at is not None and at >= 0}
        return [by_position[i] for i in range(len(needed))]

    def reads(self) -> list[Ref]:
        refs: list[Any] = []
        for part in (self.attributes, self.saved_tensors, self.arguments):
            _mapped(part, Ref, refs.append)
        return list(dict.fromkeys([*super().reads(), *refs]))

    def roots(self) -> list[Any]:
        hooks = [hook for table in (self.before, self.behind) for hook in table.values()]
        return [self.backward, self.attributes, *[f for hook in hooks for f in called_by(hook)]]

    def at_run_time(self) -> list[Any]:
        return [own for hook in self.behind.values() if (own := called_at_run_time(hook)) is not None]

    def _backward(
        self, given: tuple[Any, ...], needed: list[bool], tensor_of: Callable[[Ref], torch.Tensor]
    ) -> list[Any]:
        """What the author's ``backward`` returns."""
        ctx = Context()
        vars(ctx).update(restored(self.attributes, tensor_of))
        ctx.saved_tensors = restored(self.saved_tensors, tensor_of)
        ctx.needs_input_grad = tuple(at is not None and at >= 0 and needed[at] for at in self.layout)
        full = [self._filled(g, like) for g, (_, like) in zip(given, self.outputs, strict=True)]
        out = self.backward(ctx, full) if getattr(self.cls, "boxed_grads_call", False) else self.backward(ctx, *full)
        return list(out) if isinstance(out, tuple) else [out]

    def _ruled(self, given: tuple[Any, ...], tensor_of: Callable[[Ref], torch.Tensor]) -> list[Any]:
        """What the table's rule returns."""
        entry = lookup(self.cls)
        assert entry is not None and self.arguments is not None
        adjoint = tuple(self._filled(g, like) for g, (_, like) in zip(given, self.outputs, strict=True))
        results = tuple(None if k is None or k < 0 else tensor_of(Ref("output", k)) for k, _ in self.outputs)
        one = len(results) == 1
        args = restored(self.arguments, tensor_of)
        return pull_back(entry, adjoint[0] if one else adjoint, results[0] if one else results, args, {})

    def _filled(self, given: Any, like: torch.Tensor | None) -> Any:
        if given is not None or like is None or not self.materialize:
            return given
        return torch.zeros(like.shape, dtype=like.dtype, device=like.device)

    def _hooked(self, parts: list[Any], cotangents: tuple[Any, ...]) -> list[Any]:
        """Hooks behind a node see the gradients of all tensors among the arguments."""
        tensors = [i for i, at in enumerate(self.layout) if at is not None]
        gradients = tuple(parts[i] for i in tensors)
        for hook in list(self.behind.values()):
            gradients = through(hook, gradients, cotangents)
        for i, part in zip(tensors, gradients, strict=True):
            parts[i] = part
        return parts


class Context(FunctionCtx):
    """What ``backward`` gets as ``ctx``."""

    saved_tensors: tuple[Any, ...] = ()
    needs_input_grad: tuple[Any, ...] = ()

    def maybe_clear_saved_tensors(self) -> None:
        """Autograd's nodes have it."""


def referring(value: Any, ref_of: Callable[[torch.Tensor], Any]) -> Any:
    """``value``, where every tensor in lists, tuples and dicts became what ``ref_of`` says."""
    return _mapped(value, torch.Tensor, ref_of)


def restored(value: Any, tensor_of: Callable[[Ref], torch.Tensor]) -> Any:
    """The same back."""
    return _mapped(value, Ref, tensor_of)


def _mapped(value: Any, kind: type, f: Callable[[Any], Any]) -> Any:
    """Containers in which nothing is replaced stay the objects they are."""
    if isinstance(value, kind):
        return f(value)
    if type(value) is dict:
        new: Any = {k: _mapped(v, kind, f) for k, v in value.items()}
        return value if all(new[k] is v for k, v in value.items()) else new
    if type(value) in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        parts = [_mapped(v, kind, f) for v in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
