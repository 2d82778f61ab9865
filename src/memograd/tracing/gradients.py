"""Gradients in ``.grad`` of what a program was given: a graph has no place for those that the program leaves or reads
there. That it forgets those that were there (``p.grad = None``) happens at each run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from memograd._torch import unseen
from memograd.errors import CaptureError
from memograd.tracing.effects import Change
from memograd.tracing.inputs import Inputs
from memograd.tracing.provenance import caller
from memograd.tracing.reads import Reads

_GRAD: Any = torch.Tensor.grad
_FORGET = (_GRAD.__set__, _GRAD.__delete__)


class GradientsLeft:
    """Which of the inputs' stand-ins have a gradient, and since which line."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._since: dict[str, str] = {}
        self._forgotten: dict[int, torch.Tensor] = {}
        self._retained: list[tuple[torch.Tensor, str]] = []

    def look(self, func: Any, args: tuple[Any, ...]) -> None:
        """Something has run that can leave gradients, or take them away."""
        if func in _FORGET and all(value is None for value in args[1:]) and id(args[0]) in self.inputs.names:
            self._forgotten[id(args[0])] = args[0]
        if func is torch.Tensor.retain_grad:
            self._retained.append((args[0], "{} ({})".format(*caller())))
        for name in self._names():
            if name not in self._since:
                self._since[name] = " at {} ({})".format(*caller())

    def asked(self, reads: Reads, tensor: torch.Tensor) -> None:
        """The program reads ``tensor.grad``: of its own tensors, what it has put there; of the user's, nothing."""
        tracer = self.inputs.tracer
        if tracer.is_own(tensor):
            return
        with unseen():
            stand_in = tracer.stand_in(tensor)
            there, own = tensor.grad, stand_in.grad
        if self.forgets(stand_in):
            return
        if own is None and there is not None:
            source, line = caller()
            raise CaptureError(
                f"the program reads the gradient of a tensor {tuple(tensor.shape)} that it was not given, at {source} "
                f"({line}): pass it in as an argument, or set it to None before (zero_grad() belongs into the loop)"
            )
        if own is None:
            reads.place(tensor, "grad", None, "a gradient", attribute=True)

    def refuse(self) -> None:
        """The program has run. What it has set to None since, it does not leave."""
        for name in self._names():
            raise CaptureError(
                f"the program leaves a gradient in {name}.grad{self._since.get(name, '')}, by backward() or an "
                "assignment: captured, it would be lost. Return that loss and add it to the one that is trained on, "
                "or use torch.autograd.grad, or set the gradient outside the program"
            )

    def refuse_retained(self, seen: Iterable[Any]) -> None:
        """The same of what is to have a gradient later, by ``retain_grad``: of tensors that others see, which are not
        those that the graph goes on from."""
        ids = {*map(id, seen)}
        for tensor, where in self._retained:
            if id(tensor) in ids or self.inputs.is_amid_a_history(tensor):
                raise CaptureError(
                    f"{where} asks for the gradient of a tensor in its .grad, where backpropagation through a graph "
                    "leaves none. Of an argument, ask for it outside the program; of others, capture what comes before "
                    "and what comes behind apart (mg.wrap of two parts), and ask for it in between"
                )

    def forgets(self, stand_in: torch.Tensor) -> bool:
        """Whether the program has set its gradient to None."""
        return id(stand_in) in self._forgotten

    def forgotten(self) -> list[Change]:
        """The gradients that are None after the program, whatever was there before."""
        pairs = zip(self.inputs.entries, self.inputs.stood_for.values(), strict=True)
        inputs = [(i, x) for i, x in pairs if self.forgets(x)]
        return [(self.inputs.of_input(i, x, "grad"), "grad", None, f"{i.name}.grad") for i, x in inputs]

    def _names(self) -> Iterator[str]:
        with unseen(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is no leaf nobody is thought to ask
            stood_for = [*self.inputs.stood_for.values()]
            has = [x.grad is not None for x in stood_for]
        return (self.inputs.names[id(x)] for x, there in zip(stood_for, has, strict=True) if there)
