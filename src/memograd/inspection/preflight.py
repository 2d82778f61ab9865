"""``mg.preflight``: what will become of a program, before it is trained.

Everything is looked at once: does it capture, has every operator a rule, where are gradients stopped, what decides
by values, how many bytes does it take, and are its gradients PyTorch's. The program runs a few times, in PyTorch too,
and is afterwards as it was: parameters, buffers, attributes and random generators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from memograd.draws import same_draws
from memograd.errors import CaptureError, MemogradError, with_notes
from memograd.findings import severest_first
from memograd.graph.graph import Graph
from memograd.inspection import operators, stops, values
from memograd.inspection.capturing import asked, captured, differentiable
from memograd.inspection.gradients import gradients
from memograd.inspection.hooks import hooks
from memograd.inspection.memory import memory
from memograd.inspection.objective import loss_of
from memograd.inspection.parameters import parameters
from memograd.inspection.program import Inspected
from memograd.inspection.report import Finding, Gradients, Memory, Report
from memograd.pipeline import differentiate
from memograd.tracing.undisturbed import Generators


def preflight(
    f: Callable[..., Any],
    *args: Any,
    loss: Callable[..., Any] | None = None,
    memory_budget: int | str | None = None,
    **kwargs: Any,
) -> Report:
    """Find out what ``mg.wrap``, ``mg.TrainStep`` and the transforms will make of a program. Nothing is trained.

    Args:
        f: a model, or a function of tensors.
        args, kwargs: what it is called with; with a ``loss`` of two arguments the last of ``args`` is its target:
            ``loss(f(*args[:-1]), args[-1])``.
        loss: a criterion ``loss(output, target)``, or ``loss(output)``. None: what ``f`` returns is the loss, or has
            one (``.loss``); where it is neither, the weighted sum of all results stands for one.
        memory_budget: bytes, "8GiB", or "50%" of the unplanned peak, that forward and backward pass are to fit.

    Returns:
        The report: ``print(report)``, ``report.ok`` (no error, no warning), ``report.findings``, ``report.memory``,
        ``report.gradients``, ``report.to_dict()`` and ``report.to_json()``.

    Raises:
        DataError: the budget cannot be read.
    """
    return look_over(f, args, kwargs, loss, memory_budget)


def look_over(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss: Callable[..., Any] | None = None,
    memory_budget: int | str | None = None,
) -> Report:
    """The same with arguments that no name of ours can be taken for."""
    with same_draws():
        drawn = Generators(f)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                return _Preflight(f, args, kwargs, loss, drawn).report(memory_budget)
        finally:
            drawn.put_back()


class _Preflight:
    def __init__(self, f: Any, args: Any, kwargs: Any, loss: Any, drawn: Generators) -> None:
        self.f, self.args, self.kwargs, self.drawn = f, args, kwargs, drawn
        self.program = loss_of(f, loss)
        self.findings: list[Finding] = [*parameters(f), *hooks(f)]
        self.forward, self.backward = 0, 0
        self.memory: Memory | None = None
        self.gradients: Gradients | None = None

    def report(self, budget: int | str | None) -> Report:
        inspected = self._captured()
        joint = self._differentiated(inspected) if inspected is not None else None
        if inspected is not None and joint is not None:
            self.backward = len(joint.nodes) - self.forward
            self.findings += stops.without(inspected, joint.unused)
            self.memory, raised = memory(joint, budget)
            self.findings += raised
            self.gradients, raised = gradients(inspected, joint, self.args, self.kwargs, self.drawn)
            self.findings += raised
        name = type(self.f).__name__ if isinstance(self.f, nn.Module) else getattr(self.f, "__name__", "the function")
        return Report(name, severest_first(self.findings), self.forward, self.backward, self.memory, self.gradients)

    def _captured(self) -> Inspected | None:
        graph = self._attempted(lambda: captured(self.program, self.args, self.kwargs, self.drawn))
        if graph is not None and values.changing(graph):  # at a second capture a number that is but counted up is seen
            self.drawn.put_back()
            graph = self._attempted(lambda: captured(self.program, self.args, self.kwargs, self.drawn))
        if graph is None:
            return None
        self.forward = len(graph.nodes)
        wrt = differentiable(graph, asked(self.program, self.args, self.kwargs))
        if not wrt:
            what = "no parameter requires a gradient, and no argument does"
            self._error("nothing to differentiate", what, "Unfreeze a parameter, or pass x.requires_grad_()")
            return None
        inspected = Inspected(self.program, graph, wrt)
        for look in (stops.stopped, operators.functions, operators.random_operators):
            self.findings += look(inspected)
        for look in (values.decisions, values.volatile, values.baked):
            self.findings += look(inspected)
        return inspected

    def _differentiated(self, inspected: Inspected) -> Graph | None:
        missing = operators.missing_rules(inspected)
        self.findings += missing
        if not inspected.flows[inspected.loss]:
            what = "the loss depends on no parameter by way of a gradient"
            self._error("nothing to differentiate", what, "See where it is stopped, or which loss this is")
            return None
        return None if missing else self._attempted(lambda: differentiate(inspected.graph, inspected.wrt))

    def _attempted(self, stage: Callable[[], Graph]) -> Graph | None:
        """What ``stage`` returns; None where it raises, which becomes a finding."""
        try:
            return stage()
        except MemogradError as error:
            raised = error.raised if isinstance(error, CaptureError) else None
            kind = _KINDS.get(type(error).__name__, "does not capture")
            self._error(kind if raised is None else "does not capture", with_notes(error))
        except Exception as error:  # the user's own program, in plain PyTorch too
            self._error("the program raises", f"{type(error).__name__}: {with_notes(error)}")
        return None

    def _error(self, kind: str, what: str, advice: str = "") -> None:
        self.findings.append(Finding("error", kind, what, advice))


_KINDS = {
    "MissingRuleError": "missing rule",
    "NotDifferentiableError": "missing rule",
    "RuleError": "wrong rule",
    "OpaqueBackwardError": "hook or backward that cannot be traced",
}
