"""One run of a backward that somebody has written for autograd, on symbolic tensors.

It is traced like a program, not like one of our rules: grad mode is on, as in ``loss.backward(create_graph=True)``, so
that second derivatives go where autograd lets them (``no_grad`` and ``detach`` in a backward stop them); modules, lists
and closures that it reads hold tensors of the user's or of the program's, which stand for operands of the call; and it
may run autograd itself (``torch.autograd.grad`` of a forward computed anew, or kept), which may leave gradients in
parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from memograd._torch import dispatch_modes, is_fake, run_backward, with_function_modes
from memograd.errors import OpaqueBackwardError
from memograd.tracing.interposed import Interposed, current
from memograd.tracing.operands import Backward, Operands, Place, Ref
from memograd.tracing.substitute import Substitute, with_history
from memograd.tracing.tracer import Tracer


def _run_backward(outputs: Any, gradients: Any, retain_graph: bool, *args: Any, **options: Any) -> Any:
    """A history that ``forward`` kept is run through whenever its graph is differentiated."""
    return run_backward(outputs, gradients, retain_graph or current() is not None, *args, **options)


RUN_BACKWARD = Interposed(torch.autograd, run_backward.__name__, _run_backward)


class TracedBackward:
    """What stands for the operands of ``call`` in this run, and what it comes upon."""

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
