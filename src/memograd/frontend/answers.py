"""What a pass answers a question with: the pass behind it; once that has happened, the way there without decisions.

A training loop asks the same question at every step. What it means (which gradients are zero, which nobody has, what
was remembered for it, whether somebody goes on from them) is decided the first time; then the answer is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from memograd.frontend.boundary import Call, through
from memograd.frontend.picking import picked

Tensor = torch.Tensor
Question = tuple[tuple[int, ...], tuple[int, ...]]
"""(positions among the results, positions among the inputs)"""


@dataclass(frozen=True, eq=False)
class Answer:
    """The pass behind another one.

    Attributes:
        gradients: that pass.
        reads: which of the remembered values are its inputs, in front of the cotangents.
        places: which of the inputs of the pass before it its results are the gradients of.
    """

    gradients: Any
    reads: tuple[int, ...]
    places: tuple[int, ...]

    @cached_property
    def _read(self) -> Callable[[Sequence[Any]], Sequence[Any]]:
        return picked(self.reads)

    def values(self, call: Call, saved: list[Any], arriving: Sequence[Any], further: bool) -> Sequence[Tensor]:
        """The gradients, and where somebody goes on ``further`` from them what is remembered. Empties ``saved``."""
        given = [*self._read(saved), *arriving]
        saved.clear()
        behind = self.gradients.running()
        return through(call, behind, *given) if further else behind.alone(given)


@dataclass(frozen=True, eq=False)
class Ready:
    """How a question was answered, for those who ask it again: there is nothing left to decide.

    Attributes:
        question: that one.
        order: for each input that autograd waits for where its gradient stands among the answer's values; None: it has
            none.
    """

    question: Question
    answer: Answer
    further: bool
    order: tuple[int | None, ...]

    @cached_property
    def _ordered(self) -> Callable[[Sequence[Any]], Sequence[Any]]:
        return picked([-1 if k is None else k for k in self.order])

    def gradients(self, call: Call, saved: list[Any], arriving: Sequence[Any]) -> Sequence[Tensor | None]:
        """What autograd is handed. Empties ``saved``."""
        return self._ordered((*self.answer.values(call, saved, arriving, self.further), None))
