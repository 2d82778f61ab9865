"""A backward that cannot be traced, since it looks at values or raises an exception of its own: the graph calls it when
it runs, as autograd does.

It gets the tensors of that run. What it reaches besides (parameters of modules, in whose place the graph may have been
given others) is exchanged for these by a function mode. Grad mode is off, as in ``loss.backward()``; second derivatives
are refused where an adjoint arrives at its results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from memograd import autocast
from memograd._torch import inside_torch_func, with_function_modes
from memograd.errors import OpaqueBackwardError
from memograd.tracing.reads import Reads
from memograd.tracing.substitute import with_history
from memograd.tracing.under_way import TURN
from memograd.tracing.undisturbed import undone

_OWNED = (torch.Tensor, nn.Parameter, nn.Buffer)


class AtRunTime:
    """One backward, with what it is called on.

    Args:
        call: the backward, see ``operands.Backward``.
        why: what it does that no trace can follow.
        refs: which operands follow the adjoints.
        given: for each result of the forward whether an adjoint comes to it.
        needed: for each input whether its gradient is asked for: these are the results.
        inputs: tensors with the geometry of the inputs.
        dtype: of the first adjoint; the witness may come with a wider one.
    """

    def __init__(
        self,
        call: Any,
        why: str,
        refs: Sequence[Any],
        given: list[bool],
        needed: list[bool],
        inputs: Sequence[torch.Tensor],
        dtype: torch.dtype,
    ) -> None:
        self.name = f"{call.name}, whose backward ({call.source}) {why}: the graph calls it as it is"
        self.call, self.why, self.refs = call, why, list(refs)
        self.given, self.needed, self.dtype = given, needed, dtype
        self.inputs = [(x.shape, x.dtype, x.device) for x in inputs]
        self.left: list[tuple[Any, list[bool]]] = []

    def take(self, objects: Sequence[Any]) -> list[torch.Tensor]:
        """Tensors of the trace that lie in ``objects`` for it (``grad_outputs``): operands behind the others."""
        lying = [(o, o.grad_outputs) for o in objects if o.grad_outputs is not None]
        self.left = [(o, [t is not None for t in tensors]) for o, tensors in lying]
        for one, _ in lying:
            one.grad_outputs = None
        return [t for _, tensors in lying for t in tensors if t is not None]

    def like(self) -> list[torch.Tensor]:
        needed = [form for form, n in zip(self.inputs, self.needed, strict=True) if n]
        return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype, device in needed]

    def __call__(self, operands: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        adjoints = iter([t.detach().clone() for t in operands[: sum(self.given)]])  # a backward may write to them
        others = operands[sum(self.given) :]
        tensors = {ref: self._stand_in(ref, t) for ref, t in zip(self.refs, others[: len(self.refs)], strict=True)}
        lying = iter(others[len(self.refs) :])
        for one, there in self.left:
            one.grad_outputs = tuple([next(lying).detach().clone() if t else None for t in there])
        versions = {ref: t._version for ref, t in tensors.items()}
        users = {id(t): tensors[ref] for t, ref, *_ in (*self.call.foreign, *self.call.hidden)}
        with with_function_modes(), torch.no_grad(), autocast.off(), _Exchange(users):
            parts = self.call.run([next(adjoints) if g else None for g in self.given], self.needed, tensors.__getitem__)
        if any(t._version != versions[ref] for ref, t in tensors.items()):
            self._refuse("writes to a tensor that it did not make; write to a copy")
        if any(tensors[h.ref].grad is not None for h in self.call.hidden):
            self._refuse("gives a parameter a gradient besides those it returns; return all of them")
        return [self._fitted(k, parts[k], operands[0].dtype) for k, needed in enumerate(self.needed) if needed]

    def _stand_in(self, ref: Any, tensor: torch.Tensor) -> torch.Tensor:
        place = self.call.places[ref.where][ref.at] if ref.where in self.call.places else None
        tracked = self.needed[ref.at] if ref.where == "inputs" else False
        tracked |= place.requires_grad if place is not None else True
        new = tensor.detach()
        smooth = new.is_floating_point() or new.is_complex()
        if not tracked or not smooth or inside_torch_func():  # that refuses requires_grad_()
            return new
        leaf = place.is_leaf if place is not None else ref.where == "hidden"
        return new.requires_grad_() if leaf else with_history(new)

    def _fitted(self, position: int, part: Any, arrived: torch.dtype) -> torch.Tensor:
        """The gradient as autograd takes it: summed to the shape of its input, in its dtype."""
        shape, dtype, device = self.inputs[position]
        dtype = arrived if dtype == self.dtype else dtype
        if part is None:
            return torch.zeros(shape, dtype=dtype, device=device)
        part = part.detach()
        if part.shape != shape:
            part = part.sum_to_size(shape)
        return part.to(device=device, dtype=dtype, copy=True).contiguous()

    def _refuse(self, what: str) -> None:
        raise OpaqueBackwardError(
            f"the backward of {self.call.name} ({self.call.source}), which {self.why} and is called as it is, {what}"
        )


def calls_code(graph: Any) -> bool:
    """Whether ``graph`` calls code of the user's when it runs."""
    return any("code" in n.meta for n in graph.nodes)


@contextmanager
def called_in_vain(graph: Any) -> Iterator[None]:
    """What the code that ``graph`` calls leaves behind inside is taken back: it runs for a comparison."""
    codes = [n.meta["code"] for n in graph.nodes if "code" in n.meta]
    if not codes:
        yield
        return
    with TURN, undone(Reads(("", root) for code in codes for root in code.call.roots())):
        yield


class _Exchange(TorchFunctionMode):
    """While open, what is called on a tensor is called on the one that stands in ``instead`` for its id."""

    def __init__(self, instead: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.instead = instead

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*[self._of(a) for a in args], **{k: self._of(v) for k, v in (kwargs or {}).items()})

    def _of(self, value: Any) -> Any:
        kind = type(value)
        if kind in _OWNED or isinstance(value, torch.Tensor):
            return self.instead.get(id(value), value)
        if kind is list or kind is tuple:
            return kind([self._of(v) for v in value])
        if kind is dict:
            return {k: self._of(v) for k, v in value.items()}
        return value
