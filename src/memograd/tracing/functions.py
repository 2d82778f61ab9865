"""Existing ``torch.autograd.Function`` classes, once their owner has said that they may be traced.

``mg.rule(MyFunction)`` enters the class. When a captured program applies it, its own ``forward`` is traced as usual,
and one node is put behind it, which passes the results on and remembers what ``backward`` will need: the inputs, the
results and the saved tensors, all of them nodes of the graph. The rule of that node is the class's own ``backward``,
run on symbolic tensors. So users' Functions work unchanged.
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from memograd.errors import CaptureError
from memograd.rules.registry import FUNCTIONS, Entry
from memograd.tracing.tracer import Tracer

CALLS: list[Call] = []  # printed graphs refer to a call by its place in this list


class Call:
    """One application of a Function, as the target of a graph node: ``call(inputs, results, saved) -> results``."""

    flows = 1  # adjoints flow to the first argument only: the inputs

    def __init__(self, cls: Any, attributes: dict[str, Any], saved: int, names: list[str]) -> None:
        self.cls = cls
        self.attributes = attributes  # what forward put on ctx, besides tensors
        self.saved = saved  # how many of the remembered tensors were given to save_for_backward
        self.names = names  # attributes of ctx that hold the other ones
        self.index = len(CALLS)
        self.__name__ = cls.__name__
        CALLS.append(self)
        code = getattr(cls.backward, "__code__", None)
        place = f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}" if code is not None else "?"
        self.entry = Entry(self, "rule", self.vjp, f"x̄ = {cls.__name__}.backward(ȳ)", "", place)

    def __repr__(self) -> str:
        return f"memograd.tracing.functions.CALLS[{self.index}]"

    def __call__(self, inputs: Any, results: list[torch.Tensor], saved: list[torch.Tensor]) -> Any:
        tracer = _current()
        if tracer is None:
            return tuple(results)
        return _emit(tracer, self, list(inputs), [torch.ops.aten.alias.default(r) for r in results], list(saved))

    def vjp(self, adjoint: Any, y: Any, inputs: Any, results: Any, saved: Any) -> Any:
        """The class's own backward."""
        context = _Context(self, inputs, list(saved))
        given = [torch.zeros_like(r) if a is None else a for a, r in zip(adjoint, results, strict=True)]
        out = self.cls.backward(context, *given)
        parts = list(out) if isinstance(out, (tuple, list)) else [out]
        if len(parts) < len(inputs):
            raise CaptureError(
                f"{self.cls.__name__}.backward returned {len(parts)} gradients for {len(inputs)} inputs of forward"
            )
        return (parts[: len(inputs)],)


class _Context:
    """What ``backward`` sees as ``ctx``."""

    def __init__(self, call: Call, inputs: Any, saved: list[torch.Tensor]) -> None:
        vars(self).update(call.attributes)
        vars(self).update(zip(call.names, saved[call.saved :], strict=True))
        self.saved_tensors = tuple(saved[: call.saved])
        self.needs_input_grad = tuple(
            isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex()) for x in inputs
        )


class _UnderWay(threading.local):
    def __init__(self) -> None:
        super().__init__()
        self.tracers: list[Tracer] = []  # of this thread's captures


_ACTIVE = _UnderWay()


def _current() -> Tracer | None:
    return next((t for t in reversed(_ACTIVE.tracers) if not t.paused), None)


@contextmanager
def traced(tracer: Tracer) -> Iterator[None]:
    """While open, applications of the entered classes are recorded by ``tracer``."""
    _ACTIVE.tracers.append(tracer)
    try:
        with ExitStack() as stack:
            if len(_ACTIVE.tracers) == 1:
                for cls in FUNCTIONS:
                    stack.enter_context(_patched(cls))
            yield
    finally:
        _ACTIVE.tracers.pop()


@contextmanager
def _patched(cls: Any) -> Iterator[None]:
    """Let the class tell us when it ran. ``apply`` looks its methods up by name, so this also sees bound ``apply``s."""
    own = {name: vars(cls)[name] for name in ("forward", "setup_context") if name in vars(cls)}
    forward, setup = cls.forward, cls.setup_context
    separate = setup is not torch.autograd.Function.setup_context

    def whole(ctx: Any, *inputs: Any) -> Any:
        return _finish(cls, ctx, inputs, forward(ctx, *inputs))

    def first(*inputs: Any) -> Any:
        return _fresh(forward(*inputs), inputs)

    def second(ctx: Any, inputs: Any, output: Any) -> None:
        setup(ctx, inputs, output)
        _finish(cls, ctx, inputs, output)

    cls.forward = staticmethod(first if separate else whole)
    if separate:
        cls.setup_context = staticmethod(second)
    try:
        yield
    finally:
        for name in ("forward", "setup_context"):
            if name in own:
                setattr(cls, name, own[name])
            elif name in vars(cls):
                delattr(cls, name)


def _fresh(output: Any, inputs: Any) -> Any:
    """Results that are inputs become tensors of their own, so that the node behind them is not the input's."""
    if _current() is None:
        return output
    outs = list(output) if isinstance(output, tuple) else [output]
    outs = [torch.ops.aten.alias.default(o) if any(o is x for x in inputs) else o for o in outs]
    return tuple(outs) if isinstance(output, tuple) else outs[0]


def _finish(cls: Any, ctx: Any, inputs: Any, output: Any) -> Any:
    tracer = _current()
    if tracer is None:
        return output
    output = _fresh(output, inputs)
    outs = list(output) if isinstance(output, tuple) else [output]
    if not all(isinstance(o, torch.Tensor) for o in outs):
        raise CaptureError(f"{cls.__name__}.forward returns something that is no tensor; it cannot be captured")
    kept = [t for t in (ctx.to_save or ()) if t is not None]
    if len(kept) != len(ctx.to_save or ()):
        raise CaptureError(f"{cls.__name__} saves None for backward; keep it as an attribute of ctx instead")
    held = {k: v for k, v in vars(ctx).items() if isinstance(v, torch.Tensor)}
    others = {k: v for k, v in vars(ctx).items() if k not in held}
    call = Call(cls, others, len(kept), list(held))
    _emit(tracer, call, list(inputs), outs, [*kept, *held.values()])
    return output


def _emit(tracer: Tracer, call: Call, inputs: list[Any], outs: list[torch.Tensor], saved: list[torch.Tensor]) -> Any:
    node = tracer.emit(call, (inputs, outs, saved), tuple(outs))
    for i, out in enumerate(outs):
        tracer.bind(out, tracer.emit(operator.getitem, (node, i), out))
    return tuple(outs)
