"""A backward that somebody has written for autograd (of an ``autograd.Function``, a hook), on symbolic tensors: traced,
or called when the graph runs.

A backward that leaves something behind or looks at values cannot be traced, and becomes an operator that calls it.

A backward that autograd can run once but not with ``create_graph`` (one that writes to ``out=``, or is marked
``once_differentiable``) is run with grad mode off, and its results bear a mark at which second derivatives are refused.
(PyTorch raises there in ``loss.backward()``, but leaves the term out in ``torch.autograd.grad``.)
"""

from __future__ import annotations

import os
from typing import Any

from torch import fx
from torch.autograd.function import once_differentiable

from memograd import as_written, ops
from memograd._torch import is_fake, needs_data
from memograd.errors import DataDependentError, OpaqueBackwardError
from memograd.tracing.at_run_time import AtRunTime
from memograd.tracing.interposed import current
from memograd.tracing.operands import Backward, Operands
from memograd.tracing.reads import Reads
from memograd.tracing.traced_backward import TracedBackward
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
            return TracedBackward(tracer, call, operands, differentiable=True).adjoints()
        except (OpaqueBackwardError, UntracedError):
            raise
        except Exception as error:
            _erase_after(tracer.graph, last)
            reason = f"fails with create_graph=True ({_said(error)})"
    try:
        inputs, hidden = TracedBackward(tracer, call, operands, differentiable=False).adjoints()
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
