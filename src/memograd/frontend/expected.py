"""Which gradients a program is asked for.

Which results of a model somebody differentiates is known only when cotangents come back: a language model returns a
loss and logits, and mostly the loss alone is used. The first call takes the usual for granted: all results, all
gradients, once. From then on it is what was seen; what comes unforeseen is computed again from the inputs, and foreseen
the next time.
"""

from __future__ import annotations

from memograd.frontend.answers import Question

_PATIENCE = 3  # calls that are compared in the hope that a question comes again


class Expected:
    """
    Attributes:
        last: the question that was asked last.
        unchecked: those whose answers were never compared with anybody's, and for how many more calls to try.
    """

    def __init__(self, guess: Question) -> None:
        self.last = guess
        self.unchecked: dict[Question, int] = {guess: _PATIENCE}
        self._seen: set[Question] = set()

    @property
    def asked(self) -> bool:
        """Whether anybody has asked anything yet."""
        return bool(self._seen)

    def see(self, question: Question) -> bool:
        """Somebody asked this; whether it is the first question of all, and another one than was guessed."""
        wrong = not self._seen and question != self.last
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
