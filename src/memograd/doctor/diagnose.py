"""``mg.diagnose``: why a model does not learn, measured on one batch by the recursion itself.

Every kind of finding is a file of its own; here they are called in order, and what is but a consequence of another
finding is left out. The program runs a few times and is afterwards as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn, optim
from torch.nn.parameter import is_lazy

from memograd._torch import pytree
from memograd.doctor import unreached
from memograd.doctor.batch import batch
from memograd.doctor.cancelling import cancelling
from memograd.doctor.consequences import without_consequences
from memograd.doctor.follow import Run, batches_of, follow, outcome
from memograd.doctor.gain import gain
from memograd.doctor.initial import initialisation
from memograd.doctor.losses import inputs_unused, losses
from memograd.doctor.mode import mode
from memograd.doctor.nan.examine import examine as nan_of
from memograd.doctor.nan.replay import Step
from memograd.doctor.noise import noise
from memograd.doctor.patient import Patient, examine
from memograd.doctor.precision import precision as digits
from memograd.doctor.report import Finding, Report
from memograd.doctor.saturation import saturation
from memograd.doctor.underflow import underflow
from memograd.doctor.units import dead_units
from memograd.doctor.updates import held_by, updates
from memograd.doctor.usage import usage
from memograd.doctor.wider import Wider, widened
from memograd.doctor.zeros import zero_gradients
from memograd.errors import GraphError, OptionError
from memograd.findings import severest_first
from memograd.inspection.capturing import asked, captured, differentiable
from memograd.inspection.objective import PREFIX, Loss, loss_of
from memograd.inspection.program import Inspected
from memograd.looks import look
from memograd.pipeline import differentiate
from memograd.tracing.undisturbed import Generators
from memograd.train.update import refuse

_RATE = 1e-3  # of the run that is followed where no optimizer was given: Adam's default
_DETECTORS = (
    zero_gradients,
    dead_units,
    saturation,
    gain,
    initialisation,
    batch,
    losses,
    inputs_unused,
    cancelling,
)


def diagnose(
    f: Callable[..., Any],
    *args: Any,
    loss: Callable[..., Any] | None = None,
    optimizer: optim.Optimizer | None = None,
    step: Callable[..., Any] | None = None,
    precision: bool | torch.dtype = False,
    steps: int = 0,
    data: Iterable[Any] | None = None,
    writer: Any = None,
    **kwargs: Any,
) -> Report:
    """Find out why a model does not learn: which gradients are missing, vanish, explode, cancel, and by which factor.

    Args:
        f: a model, or a function of tensors.
        args, kwargs: a batch: what it is called with; with a ``loss`` of two arguments the last of ``args`` is its
            target: ``loss(f(*args[:-1]), args[-1])``.
        loss: a criterion ``loss(output, target)``, or ``loss(output)``. None: what ``f`` returns is the loss, or has
            one (``.loss``, ``["loss"]``); where it is neither, the weighted sum of all results stands for one.
        optimizer: who is to train it: whether it holds the parameters, and how far a step of it moves them.
        step: a step of your own loop, ``step(*args)``, watched for two calls: forgotten ``zero_grad`` and the like.
        precision: also say which operators lose how many digits beside float64; a dtype: under autocast to it.
        steps: follow a run of so many steps of ``optimizer`` (default: Adam, lr 1e-3) and draw its curves.
        data: batches for that run, each the arguments of one call; default: this batch again and again.
        writer: TensorBoard's ``SummaryWriter``; it gets the numbers of the curves.

    Returns:
        The report: ``print(report)``, ``report.ok`` (no error, no warning), ``report.findings``,
        ``report.to_json()``, ``report.save("report.html")``.

    Raises:
        ValueError: an option that says nothing that could be done.
        CaptureError, MissingRuleError: the program cannot be captured, or differentiated; ``mg.preflight`` says more.
    """
    if not steps and (data is not None or writer is not None):
        raise OptionError("`data` and `writer` are for a run that is followed: say of how many steps (steps=100)")
    run = Run(steps, data, writer) if steps else None
    return look_into(f, args, kwargs, loss, optimizer=optimizer, step=step, precision=precision, run=run)


def look_into(
    f: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    loss: Callable[..., Any] | None = None,
    optimizer: optim.Optimizer | None = None,
    step: Callable[..., Any] | None = None,
    precision: bool | torch.dtype = False,
    run: Run | None = None,
) -> Report:
    """The same with arguments that no name of ours can be taken for."""
    if isinstance(f, nn.Module) and any(map(is_lazy, f.parameters())):
        raise GraphError("the model has parameters without a shape (LazyLinear): call it once before, model(*args)")
    if precision not in (True, False, torch.float16, torch.bfloat16):
        raise OptionError(f"precision must be True, torch.float16 or torch.bfloat16, got {precision!r}")
    case = _Case(f, args, kwargs, loss, precision if isinstance(precision, torch.dtype) else None)
    try:
        with torch.inference_mode(False):  # who evaluates a model may ask, too
            case.look(optimizer)
            if step is not None:
                case.findings += usage(step, f, args, case.gradient)
            if precision and case.patient is not None and case.patient.finite:
                case.count_digits(case.patient)
            if run is not None and case.patient is not None:
                case.followed(run, case.patient, optimizer)
    finally:
        case.drawn.put_back()
    name = getattr(f, "__name__", "the function") if not isinstance(f, nn.Module) else type(f).__name__
    return Report(name, severest_first(without_consequences(case.findings)), numbers=case.numbers)


class _Case:
    """One model on one batch, and what was found so far."""

    def __init__(self, f: Any, args: Any, kwargs: Any, loss: Any, dtype: torch.dtype | None) -> None:
        self.f, self.args, self.kwargs = f, args, kwargs
        self.program = loss_of(f, loss)
        self.dtype = dtype
        self.drawn = Generators(f)
        self.findings: list[Finding] = []
        self.numbers: dict[str, Any] = {}
        self.patient: Patient | None = None
        self._inspected: Inspected | None = None  # of the last step of a run
        self._geometry: list[Any] = []

    def look(self, optimizer: optim.Optimizer | None) -> None:
        """Everything that one batch shows."""
        inspected = self.inspected(self.args, self.kwargs)
        asks = bool(asked(self.program, self.args, self.kwargs))
        nothing = unreached.frozen(self.f, asks)
        self.findings += nothing
        if not inspected.wrt:
            self.findings += [] if nothing and nothing[0].severity == "error" else unreached.unasked(self.f)
            return
        if not inspected.flows[inspected.loss]:
            self.findings += unreached.stopped(inspected, inspected.wrt)
            return
        self.patient = patient = self.examined(inspected, self.args, self.kwargs)
        self.findings += unreached.stopped(inspected, patient.unreached)
        self.findings += mode(self.f)
        held = set(held_by(optimizer)) if optimizer is not None else None
        self.findings += unreached.outsiders(inspected, inspected.graph, held)
        self.findings += unreached.beforehand(inspected, inspected.graph)
        self.numbers["loss"] = float(patient.values[patient.loss])
        if not patient.finite:
            self.findings += self.not_finite(patient)
            return
        self.findings += [f for detector in _DETECTORS for f in detector(patient)]
        if _in_half(patient) and (wider := self.wider(patient)) is not None:
            self.findings += underflow(patient, wider)
        if optimizer is not None:
            self.findings += updates(patient, optimizer)
        if patient.tensors and all(f.severity == "note" for f in self.findings):
            self.findings += self._noise(patient)

    def inspected(self, args: Any, kwargs: Any) -> Inspected:
        self.drawn.put_back()
        with torch.enable_grad(), self._autocast(args, kwargs):
            graph = captured(self.program, args, kwargs, self.drawn)
        return Inspected(self.program, graph, differentiable(graph, asked(self.program, args, kwargs)))

    def examined(self, inspected: Inspected, args: Any, kwargs: Any) -> Patient:
        self.drawn.put_back()
        flat = [t.detach() for t in inspected.graph.bind(args, kwargs)]
        return examine(inspected, flat, batch_of((args, kwargs)))

    def not_finite(self, patient: Patient, number: int = 0, losses: Sequence[float] = ()) -> tuple[Finding, ...]:
        """Which operator made the loss or a gradient NaN or infinite, and why (``doctor/nan/``)."""
        inspected = patient.inspected
        joint = differentiate(inspected.graph, inspected.wrt)
        root = PREFIX[:-1] if isinstance(self.program, Loss) else ""
        self.drawn.put_back()
        return nan_of(Step(inspected.graph, joint, patient.flat, number, trail=losses, root=root)).findings

    def wider(self, patient: Patient) -> Wider | None:
        """The same in float64, or a note that it cannot be."""
        try:
            return widened(patient)
        except RuntimeError as error:  # a kernel of one precision, a fused LSTM's
            said = next(iter(str(error).splitlines()), "")
            what = f"the model cannot run in float64, and its digits cannot be counted: {said}"
            self.findings.append(Finding("note", "no float64 beside it", what))
            return None

    def count_digits(self, patient: Patient) -> None:
        """Which operators lose how many."""
        if (wider := self.wider(patient)) is not None:
            findings, self.numbers["precision"] = digits(patient, wider, self.again)
            self.findings += findings

    def again(self) -> Patient:
        """The same batch, as the program is now."""
        return self.examined(self.inspected(self.args, self.kwargs), self.args, self.kwargs)

    def gradient(self) -> dict[str, torch.Tensor]:
        """Of every parameter, at what the parameters are now."""
        patient = self.again()
        self.drawn.put_back()
        found = {patient.named(n): patient.gradient(n) for n in patient.parameters}
        return {n: g for n, g in found.items() if g is not None}

    def followed(self, run: Run, patient: Patient, optimizer: optim.Optimizer | None) -> None:
        """A run of some steps, and what only that shows."""
        self.drawn.put_back()
        if optimizer is None:
            trained = [p for p in patient.tensors.values() if p.is_leaf]
            if not trained:
                what = "only arguments are differentiated: an optimizer has nothing to move"
                self.findings.append(Finding("note", "not followed", what))
                return
            optimizer = optim.Adam(trained, lr=_RATE)
        try:
            refuse(optimizer)
        except GraphError as error:
            self.findings.append(Finding("note", "not followed", str(error)))
            return
        batches = batches_of(run, (self.args, self.kwargs))
        held = [t for i in patient.graph.inputs if (t := i.bound) is not None]  # a function's are its own, too
        course = follow(self, batches, optimizer, run, held)
        self.numbers["steps"] = course.to_dict()
        found = outcome(course, optimizer, len(batches) == 1) if not course.broken else []
        if course.last is not None and course.last.finite:
            known = {f.kind for f in (*self.findings, *found)}
            if "dead units" in known:  # which pass nothing back
                known.add("vanishing gradient")
            last = [f for detector in (gain, saturation) for f in detector(course.last) if f.kind not in known]
            found += [replace(f, what=f"at step {len(course.frames) - 1}, {f.what}") for f in last]
        self.findings += [*course.broken, *found]

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
        given = inspected.graph.bind(args, kwargs)
        patient = examine(inspected, [t.detach() for t in given], batch_of((args, kwargs)))
        patient.graph.write_back([patient.values[n] for n in patient.graph.results], given)
        return patient

    def _noise(self, patient: Patient) -> list[Finding]:
        inspected: list[Inspected] = []

        def part(args: Any, kwargs: Any) -> Patient:
            if not inspected or any(n.target is look for n in inspected[0].graph.nodes):
                inspected[:] = [self.inspected(args, kwargs)]
            return self.examined(inspected[0], args, kwargs)

        return noise(patient, self.args, self.kwargs, part)

    def _autocast(self, args: Any, kwargs: Any) -> Any:
        if self.dtype is None:
            return nullcontext()
        devices = {t.device.type for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        return torch.autocast(next(iter(devices), "cpu"), dtype=self.dtype)


def batch_of(given: Any) -> int:
    """How many samples: what most tensors of the batch have as their first dimension; 0 where there is none."""
    lengths = [len(t) for t in pytree.tree_leaves(given) if isinstance(t, torch.Tensor) and t.dim()]
    return max(lengths, key=lengths.count, default=0)


def _holds(inspected: Inspected) -> bool:
    """Whether the graph is that of the program as it is now."""
    guards = inspected.graph.guards
    looks = any(n.target is look for n in inspected.graph.nodes)
    return not looks and (guards is None or (not guards.volatile and guards.hold()))


def _in_half(patient: Patient) -> bool:
    adjoints = (t for a in patient.table.values() for t in (a if isinstance(a, list) else [a]))
    return any(isinstance(t, torch.Tensor) and t.dtype in (torch.float16, torch.bfloat16) for t in adjoints)
