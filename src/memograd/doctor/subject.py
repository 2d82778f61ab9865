"""A program on a batch, captured and examined as often as the doctor asks: as it is now, in float64, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from memograd._torch import pytree
from memograd.doctor.nan.examine import examine as nan_of
from memograd.doctor.nan.replay import Step
from memograd.doctor.patient import Patient, examine
from memograd.doctor.report import Finding
from memograd.inspection.capturing import asked, captured, differentiable
from memograd.inspection.objective import PREFIX, Loss, loss_of
from memograd.inspection.program import Inspected
from memograd.looks import look
from memograd.pipeline import differentiate
from memograd.tracing.undisturbed import Generators


class Subject:
    """One model or function with its loss, and one batch for it.

    ``drawn``: where random generators stood, to which every look returns; ``dtype``: of the autocast it runs under.
    """

    def __init__(self, f: Any, args: Any, kwargs: Any, loss: Any, dtype: torch.dtype | None) -> None:
        self.f, self.args, self.kwargs = f, args, kwargs
        self.program = loss_of(f, loss)
        self.dtype = dtype
        self.drawn = Generators(f)
        self._inspected: Inspected | None = None  # of the last step of a run
        self._geometry: list[Any] = []

    def inspected(self, args: Any, kwargs: Any) -> Inspected:
        """The program's graph for these arguments."""
        self.drawn.put_back()
        with torch.enable_grad(), self._autocast(args, kwargs):
            graph = captured(self.program, args, kwargs, self.drawn)
        return Inspected(self.program, graph, differentiable(graph, asked(self.program, args, kwargs)))

    def examined(self, inspected: Inspected, args: Any, kwargs: Any) -> Patient:
        """That graph run on them, with every value and adjoint."""
        self.drawn.put_back()
        flat = [t.detach() for t in inspected.graph.bind(args, kwargs)]
        return examine(inspected, flat, batch_of((args, kwargs)))

    def now(self) -> Patient:
        """The same batch, as the program is now."""
        return self.examined(self.inspected(self.args, self.kwargs), self.args, self.kwargs)

    def gradient(self) -> dict[str, torch.Tensor]:
        """Of every parameter, at what the parameters are now."""
        patient = self.now()
        self.drawn.put_back()
        gradients = {patient.named(n): patient.gradient(n) for n in patient.parameters}
        return {n: g for n, g in gradients.items() if g is not None}

    def step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Patient:
        """One step of a run: what the model writes (statistics, counters) stays written, draws go on."""
        inspected = self._inspected
        leaves, structure = pytree.tree_flatten((args, kwargs))
        geometry = [structure, *((t.shape, t.dtype) for t in leaves if isinstance(t, torch.Tensor))]
        if inspected is None or geometry != self._geometry or not _holds(inspected):
            now = Generators(self.f)
            inspected = self._inspected = self.inspected(args, kwargs)
            self._geometry = geometry
            now.put_back()
        flat = inspected.graph.bind(args, kwargs)
        patient = examine(inspected, [t.detach() for t in flat], batch_of((args, kwargs)))
        patient.graph.write_back([patient.values[n] for n in patient.graph.results], flat)
        return patient

    def not_finite(self, patient: Patient, number: int = 0, losses: Sequence[float] = ()) -> tuple[Finding, ...]:
        """Which operator made the loss or a gradient NaN or infinite, and why (``doctor/nan/``)."""
        inspected = patient.inspected
        joint = differentiate(inspected.graph, inspected.wrt)
        root = PREFIX[:-1] if isinstance(self.program, Loss) else ""
        self.drawn.put_back()
        return nan_of(Step(inspected.graph, joint, patient.flat, number, trail=losses, root=root)).findings

    def _autocast(self, args: Any, kwargs: Any) -> Any:
        if self.dtype is None:
            return nullcontext()
        devices = {t.device.type for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        return torch.autocast(next(iter(devices), "cpu"), dtype=self.dtype)


def batch_of(arguments: Any) -> int:
    """How many samples: what most tensors of the batch have as their first dimension; 0 where there is none."""
    lengths = [len(t) for t in pytree.tree_leaves(arguments) if isinstance(t, torch.Tensor) and t.dim()]
    return max(lengths, key=lengths.count, default=0)


def _holds(inspected: Inspected) -> bool:
    """Whether the graph is that of the program as it is now."""
    guards = inspected.graph.guards
    looks = any(n.target is look for n in inspected.graph.nodes)
    return not looks and (guards is None or (not guards.volatile and guards.hold()))
