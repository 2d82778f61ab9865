"""Gradients that a program leaves in ``.grad`` of what it was given: a graph has no place for them."""

from __future__ import annotations

from collections.abc import Iterator

from memograd._torch import unseen
from memograd.errors import CaptureError
from memograd.tracing.inputs import Inputs
from memograd.tracing.provenance import caller


class GradientsLeft:
    """Which of the inputs' stand-ins have a gradient, and since which line."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self._since: dict[str, str] = {}

    def look(self) -> None:
        """Something has run that can leave gradients."""
        for name in self._names():
            if name not in self._since:
                self._since[name] = " at {} ({})".format(*caller())

    def refuse(self) -> None:
        """The program has run. What it has set to None since, it does not leave."""
        for name in self._names():
            raise CaptureError(
                f"the program leaves a gradient in {name}.grad{self._since.get(name, '')}, by backward() or an "
                "assignment: captured, it would be lost. Return that loss and add it to the one that is trained on, "
                "or use torch.autograd.grad, or set the gradient outside the program"
            )

    def _names(self) -> Iterator[str]:
        with unseen():
            stood_for = [*self.inputs.stood_for.values()]
            has = [(x.is_leaf or x.retains_grad) and x.grad is not None for x in stood_for]
        return (self.inputs.names[id(x)] for x, there in zip(stood_for, has, strict=True) if there)
