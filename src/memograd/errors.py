"""Every error memograd raises on purpose. Each message says what happened, where, and what to do."""

from __future__ import annotations

from typing import Any


class MemogradError(RuntimeError):
    """Base of all errors of this library; catching it catches every one of them."""


class CaptureError(MemogradError):
    """The program could not be turned into a graph (data-dependent control flow, an untraceable op, bad input).

    Attributes:
        raised: the exception that came out of the program itself while it was captured, if one did. Where PyTorch
            raises it too, it comes through in the place of this error.
    """

    raised: Exception | None = None


class DataDependentError(CaptureError):
    """The program needs a tensor's value where the graph is made for any values (``.item()``, ``x[mask]``).

    Attributes:
        guards: what else the program had read by then; None where that is not known.
    """

    guards: Any = None


class ResizedError(CaptureError):
    """The program gives a tensor that it was given or holds another size (``resize_``)."""


class GraphError(MemogradError):
    """A graph was asked for something it does not hold, or is not well formed."""


class OptionError(GraphError, ValueError):
    """An option has a value that makes no sense."""


class MissingRuleError(MemogradError):
    """The chain rule reached an operator that has no entry in the derivative table."""


class RuleError(MemogradError):
    """A rule of the derivative table raised, or returned something that does not fit its operator."""


class NotDifferentiableError(MemogradError):
    """The operator has no derivative at all, and a gradient was asked to flow through it."""


class OpaqueBackwardError(MemogradError):
    """The hand-written backward of an ``autograd.Function``, or a hook, cannot be traced or differentiated."""


class ProductLimitError(MemogradError):
    """The naive (unmemoized) recursion would need more products than allowed."""


class BudgetInfeasibleError(MemogradError):
    """No schedule fits the memory budget.

    Attributes:
        floor_bytes: the least budget, in bytes, that a schedule of this step was found for.
        budget_bytes: the budget that was asked for.
    """

    def __init__(self, message: str, floor_bytes: int, budget_bytes: int) -> None:
        super().__init__(message)
        self.floor_bytes = floor_bytes
        self.budget_bytes = budget_bytes


class PlanViolationError(MemogradError):
    """A plan did not hold what it promised when it was checked or run."""


class BackendError(MemogradError):
    """A run backend cannot execute this graph on this machine."""


class GradientMismatchError(MemogradError, AssertionError):
    """A gradient, a loss or a new value disagrees with its witness.

    Attributes:
        name: the parameter or buffer; empty for the loss.
        error: the largest difference of two elements.
    """

    def __init__(self, message: str, name: str = "", error: float = float("nan")) -> None:
        super().__init__(message)
        self.name = name
        self.error = error


class NonFiniteError(MemogradError, FloatingPointError):
    """A watched step has a loss or a gradient that is NaN or infinite. Nothing of that step was written.

    Attributes:
        report: which factor did it, why, and what to do (``memograd.doctor.report.Report``).
    """

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class DataError(MemogradError):
    """A data set, checkpoint or setting handed to training is unusable."""


def with_notes(error: Exception) -> str:
    """The message of ``error`` and its notes."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


def add_note(error: Exception, text: str) -> None:
    """A note below the message, where Python knows notes (from 3.11 on), and only once."""
    if hasattr(error, "add_note") and text not in getattr(error, "__notes__", ()):
        error.add_note(text)
