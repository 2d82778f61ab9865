"""Which gradients a program is asked for.

Which results of a model somebody differentiates is known only when cotangents come back: a language model returns a
loss and logits, and mostly the loss alone is used. The first call takes the usual for granted: all results, all
gradients, once; or, of arguments that are leaves, their gradients, from which somebody goes on. From then on it is what
was seen; what comes unforeseen is computed again from the inputs, and foreseen the next time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from memograd.frontend.answers import Question
from memograd.graph.entries import Input, Output

_PATIENCE = 3  # calls that are compared in the hope that a question comes again


def guesses(
    results: Sequence[Output], inputs: Sequence[Input], values: Sequence[Any], wrt: Collection[str]
) -> tuple[Question, Question | None]:
    """(the usual question, that of the arguments which are leaves with a gradient, where there are any)"""
    used = tuple(k for k, result in enumerate(results) if result.tracked)
    leaves = [k for k, t in enumerate(values) if inputs[k].kind == "input" and t is not None and _is_leaf(t)]
    usual = used, tuple(k for k, i in enumerate(inputs) if i.name in wrt)
    return usual, (used, tuple(leaves)) if leaves else None


def _is_leaf(tensor: Any) -> bool:
    return tensor.requires_grad and tensor.is_leaf


class Expected:
    """What a program was asked so far, and whether the answers were compared.

    Attributes:
        last: the question that was asked last.
        unchecked: those whose answers were never compared with anybody's, and for how many more calls to try.
    """

    def __init__(self, usual: Question, of_leaves: Question | None = None) -> None:
        self.last = usual
        self._guess, self._further = of_leaves or usual, of_leaves is not None
        self.unchecked: dict[Question, int] = {self._guess: _PATIENCE}
        self._seen: set[Question] = set()

    @property
    def asked(self) -> bool:
        """Whether anybody has asked anything yet."""
        return bool(self._seen)

    def see(self, question: Question, further: bool) -> bool:
        """Somebody asked this, and goes on ``further`` from the answer, or not. Returns whether it is the first
        question of all, and another one than was guessed."""
        wrong = not self._seen and (question != self._guess or (self._further and not further))
        if wrong:
            self.unchecked = {}
        if question not in self._seen:
            self.unchecked[question] = _PATIENCE
            self._seen.add(question)
        self.last = question
        return wrong

    def compared(self, question: Question) -> None:
        """Its answer was compared."""
        self.unchecked.pop(question, None)

    def try_comparing(self) -> bool:
        """Whether the next call is to be compared."""
        self.unchecked = {question: left - 1 for question, left in self.unchecked.items() if left}
        return bool(self.unchecked)
