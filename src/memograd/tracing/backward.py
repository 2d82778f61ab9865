"""Run a backward that somebody has written for autograd (of an ``autograd.Function``, a hook) on symbolic tensors.

It is traced like a program, not like one of our rules: grad mode is on, as in ``loss.backward(create_graph=True)``, so
that second derivatives go where autograd lets them (``no_grad`` and ``detach`` in a backward stop them); modules, lists
and closures that it reads hold tensors of the user's or of the program's, which stand for operands of the call; and it
may run autograd itself (``torch.autograd.grad`` of a forward computed anew, or kept), which may leave gradients in
parameters.

A backward that autograd can run once but not with ``create_graph`` (one that writes to ``out=``, or is marked
``once_differentiable``) is run with grad mode off, and its results bear a mark at which second derivatives are refused.
(PyTorch raises there in ``loss.backward()``, but leaves the term out in ``torch.autograd.grad``.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.autograd.function import once_differentiable

from memograd import as_written, ops
from memograd._torch import dispatch_modes, is_fake, needs_data, run_backward, with_function_modes
from memograd.errors import DataDependentError, OpaqueBackwardError
from memograd.tracing.at_run_time import AtRunTime
from memograd.tracing.interposed import Interposed, current
from memograd.tracing.operands import Backward, Operands, Place, Ref
from memograd.tracing.reads import Reads
from memograd.tracing.substitute import Substitute, with_history
from memograd.tracing.tracer import Tracer
from memograd.tracing.under_way import TURN
from memograd.tracing.undisturbed import undone

_ONCE = once_differentiable(lambda ctx: None).__code__


def pulled_back(call: Backward, operands: Operands) -> tuple[list[Any], list[Any]]:
    """The adjoints of the inputs and of the hidden operands.

    A trace leaves nothing behind in objects of the user's: what does (it counts its calls, keeps norms in a list) is
    called when the graph runs, and leaves it then.

    Raises:
        OpaqueBackwardError: the backward cannot be traced.
    """
    tracer = current()
    assert tracer is not None, "rules run under a tracer"
    last = next(iter(reversed(tracer.graph.nodes)))
    try:
        with TURN, undone(Reads(("", root) for root in call.roots())) as changes:
            adjoints = _traced(tracer, call, operands, last)
        if not changes:
            return adjoints
        untraced = UntracedError(f"leaves something behind in {changes[0][3]!r} at each call")
    except UntracedError as raised:
        untraced = raised
    _erase_after(tracer.graph, last)
    return _called_at_run_time(tracer, call, operands, untraced)


class UntracedError(Exception):
    """The graph has to call it; why, and what was raised, if anything was."""

    def __init__(self, why: str, error: Exception | None = None) -> None:
        super().__init__(why)
        self.why, self.error = why, error


def _traced(tracer: Tracer, call: Backward, operands: Operands, last: fx.Node) -> tuple[list[Any], list[Any]]:
    """The same as a trace finds them, behind the node ``last``. Raises UntracedError."""
    reason = "is marked with @once_differentiable"
    if not call.once:
        try:
            return _Run(tracer, call, operands, differentiable=True).adjoints()
        except (OpaqueBackwardError, UntracedError):
            raise
        except Exception as error:
            _erase_after(tracer.graph, last)
            reason = f"fails with create_graph=True ({_said(error)})"
    try:
        inputs, hidden = _Run(tracer, call, operands, differentiable=False).adjoints()
    except (OpaqueBackwardError, UntracedError):
        raise
    except Exception as error:
        needs_values = isinstance(error, DataDependentError) or needs_data(error)
        if needs_values or _is_the_programs_own(error):
            why = "looks at values" if needs_values else f"raises {_said(error)} while it is traced"
            raise UntracedError(why, error) from error
        raise _refused(call, f"{_said(error)}. Write it with operations on tensors") from error
    why = f"whose backward ({call.source}) {reason}, as PyTorch refuses it"
    return [_once(tracer, t, call.name, why) for t in inputs], [_once(tracer, t, call.name, why) for t in hidden]


def _is_the_programs_own(error: Exception) -> bool:
    """Whether code of the user's raised it, and no check of PyTorch's or ours: when the graph runs it comes out of the
    pass as it does out of autograd's, or is not raised there at all."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = traceback.tb_frame.f_globals.get("__name__", "") if traceback is not None else "torch"
    return name.partition(".")[0] not in ("torch", __name__.partition(".")[0])


def _called_at_run_time(
    tracer: Tracer, call: Backward, operands: Operands, untraced: UntracedError
) -> tuple[list[Any], list[Any]]:
    """The adjoints as an operator that calls the backward computes them.

    Raises:
        OpaqueBackwardError: it goes through a history that ``forward`` has kept, which no later run has.
    """
    held = [t for t, _ in call.foreign] + [h.tensor for h in call.hidden if not h.users]
    if any(t.grad_fn is not None or (is_fake(t) and t.requires_grad) for t in held):
        advice = (
            "It goes through a history that forward has kept (enable_grad), so it cannot be called at each run either: "
            "compute that anew in the backward, or write it with operations on tensors that look at no values"
        )
        said = f"it {untraced.why}" if untraced.error is None else _said(untraced.error)
        raise _refused(call, f"{said}. {advice}") from untraced.error
    given = [a is not None for a in operands.adjoint]
    refs = call.reads()
    dtype = next(a.dtype for a in operands.adjoint if a is not None)
    code = AtRunTime(call, untraced.why, refs, given, operands.needed, operands.inputs, dtype)
    nodes = [tracer.node_of(a) for a in operands.adjoint if a is not None]
    nodes += [tracer.node_of(operands.of(ref)) for ref in refs]
    nodes += [tracer.node_of(t) for t in code.take(call.at_run_time())]
    with tracer.pause():
        results = code.like()
    node = tracer.emit_node(as_written.call, (nodes, as_written.enter(code)), results)
    node.meta["code"] = code
    parts = iter([tracer.item(node, k) for k in range(len(results))])
    inputs = [next(parts) if needed else None for needed in operands.needed]
    return inputs, [None] * len(operands.hidden)


def _refused(call: Backward, why: str) -> OpaqueBackwardError:
    return OpaqueBackwardError(f"the backward of {call.name} ({call.source}) cannot be traced: {why}")


def is_once_differentiable(function: Any) -> bool:
    """Whether a backward was decorated with ``once_differentiable``, under other decorators too."""
    while function is not None:
        if getattr(function, "__code__", None) is _ONCE:
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def source_of(function: Any) -> str:
    """File and line of a function of the user's."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(getattr(function, "func", function), "__code__", None)
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}" if code is not None else "?"


def _run_backward(outputs: Any, gradients: Any, retain_graph: bool, *args: Any, **options: Any) -> Any:
    """A history that ``forward`` kept is run through whenever its graph is differentiated."""
    return run_backward(outputs, gradients, retain_graph or current() is not None, *args, **options)


RUN_BACKWARD = Interposed(torch.autograd, run_backward.__name__, _run_backward)


class _Run:
    """One run of a backward: what stands for its operands, and what it comes upon."""

    def __init__(self, tracer: Tracer, call: Backward, operands: Operands, differentiable: bool) -> None:
        self.tracer = tracer
        self.call = call
        self.operands = operands
        self.differentiable = differentiable
        self.stand_ins: dict[Ref, torch.Tensor] = {}
        self.lifted: list[torch.Tensor] = []
        self.adopted: list[torch.Tensor] = []  # constants of the user's
        self.own = {id(t): ref for t, ref, *_ in (*call.foreign, *call.hidden)}

    def adjoints(self) -> tuple[list[Any], list[Any]]:
        tracer, call = self.tracer, self.call
        adjoints = [self._adjoint(a) for a in self.operands.adjoint]
        leaves = [h.tensor for h in call.hidden if not h.users] + [t for t, _ in call.foreign if t.is_leaf]
        for leaf in leaves:
            leaf.grad = None
        try:
            with self._like_a_program():
                gradients = call.run(adjoints, self.operands.needed, self.tensor_of)
                parts = {Ref("inputs", i): self._checked(i, t) for i, t in enumerate(gradients) if t is not None}
                for one in call.hidden:
                    leaf = self.stand_ins.get(one.ref) if one.users else one.tensor
                    if leaf is not None and leaf.is_leaf and leaf.grad is not None:
                        parts[one.ref] = parts[one.ref] + leaf.grad if one.ref in parts else leaf.grad
                nodes = {ref: tracer.node_of(t) for ref, t in parts.items()}
                self._refuse_writes()
        finally:
            for tensor in self.lifted:
                tracer.forget(tensor)
            for leaf in leaves:
                leaf.grad = None
        values = {ref: tracer.input(node) for ref, node in nodes.items()}
        inputs = [values.get(Ref("inputs", i)) for i in range(len(self.operands.inputs))]
        return inputs, [values.get(Ref("hidden", i)) for i in range(len(self.operands.hidden))]

    @contextmanager
    def _like_a_program(self) -> Iterator[None]:
        tracer = self.tracer
        before = tracer.stops, tracer.lift
        tracer.stops, tracer.lift = self.differentiable, self._lift
        try:
            own = frozenset(id(t) for t, _ in self.call.foreign)
            # Each operator says on which line of that backward it stands, not where the Function was applied.
            applied = ("source", "line") if tracer.stops else ()
            with (
                tracer.labelled({k: v for k, v in tracer.meta.items() if k not in applied}),
                with_function_modes(),
                torch.set_grad_enabled(self.differentiable),
                Substitute(tracer, own),
                RUN_BACKWARD(),
            ):
                yield
        finally:
            tracer.stops, tracer.lift = before

    def tensor_of(self, ref: Ref) -> torch.Tensor:
        """What stands for an operand: a tensor of its own, to which the backward may write."""
        if ref not in self.stand_ins:
            if ref.where == "output":
                place = Place(True, False)
            elif ref.where == "hidden":
                place = Place(True, True)
            else:
                place = self.call.places[ref.where][ref.at]
            if ref.where == "inputs" and self.operands.needed[ref.at]:
                place = place._replace(requires_grad=True)
            self.stand_ins[ref] = self._stand_in(self.operands.of(ref), place)
        return self.stand_ins[ref]

    def _refuse_writes(self) -> None:
        """A backward may write to what ``forward`` has computed, but not to a buffer: no graph would write there."""
        places = self.call.places
        given = [t for ref, t in self.stand_ins.items() if ref.where in places and places[ref.where][ref.at].given]
        for tensor in (*given, *self.adopted):
            if self.tracer.written(tensor):
                raise OpaqueBackwardError(
                    f"the backward of {self.call.name} ({self.call.source}) writes to a tensor "
                    f"{tuple(tensor.shape)} that it did not make, a buffer or an argument; write to it in forward"
                )

    def _adjoint(self, adjoint: Any) -> Any:
        return None if adjoint is None else self._stand_in(adjoint, Place(self.differentiable, False))

    def _stand_in(self, tensor: torch.Tensor, place: Place) -> torch.Tensor:
        new = self.tracer.like(tensor)
        if place.requires_grad and (new.is_floating_point() or new.is_complex()):
            with self.tracer.pause():
                new = new.requires_grad_() if place.is_leaf else with_history(new)
        return self.tracer.bind(new, self.tracer.node_of(tensor))

    def _lift(self, tensor: torch.Tensor) -> torch.Tensor:
        ref = self.own.get(id(tensor))
        if ref is not None:
            self.lifted.append(tensor)
            return self.tensor_of(ref)
        outside = any(isinstance(m, Tracer) and m is not self.tracer and m.knows(tensor) for m in dispatch_modes())
        if self.tracer.adopt is None or (is_fake(tensor) and not outside):
            raise OpaqueBackwardError(
                f"the backward of {self.call.name} ({self.call.source}) uses a tensor {tuple(tensor.shape)} that it "
                "does not reach through ctx, objects on it, or variables; put it on ctx"
            )
        adopted = self.tracer.adopt(tensor)
        self.adopted.append(adopted)
        return adopted

    def _checked(self, position: int, part: Any) -> torch.Tensor:
        shape = self.operands.inputs[position].shape
        if not isinstance(part, torch.Tensor):
            raise TypeError(f"expected a tensor or None as gradient {position}, got {type(part).__name__}")
        fits = part.dim() >= len(shape) and all(
            n in (1, m) for n, m in zip(reversed(shape), reversed(part.shape), strict=False)
        )
        if not fits:
            raise RuntimeError(f"gradient {position} has shape {tuple(part.shape)}, its input {tuple(shape)}")
        return part


def _once(tracer: Tracer, tensor: Any, name: str, why: str) -> Any:
    if tensor is None:
        return None
    return tracer.input(tracer.emit_node(ops.opaque, (tracer.node_of(tensor), name, why), tracer.like(tensor)))


def _erase_after(graph: fx.Graph, last: fx.Node) -> None:
    node = next(iter(reversed(graph.nodes)))
    while node is not last:
        node, erased = node.prev, node
        graph.erase_node(erased)


def _said(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}"
