"""``mg.diagnose``: why a model does not learn, measured on one batch by the recursion itself.

Every kind of finding is a file of its own; here they are called in order, and what is but a consequence of another
finding is left out. The program runs a few times and is afterwards as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn, optim
from torch.nn.parameter import is_lazy

from memograd.doctor import unreached
from memograd.doctor.batch import batch
from memograd.doctor.cancelling import cancelling
from memograd.doctor.consequences import without_consequences
from memograd.doctor.follow import Course, Run, batches_of, follow, outcome
from memograd.doctor.gain import gain
from memograd.doctor.initial import initialisation
from memograd.doctor.losses import inputs_unused, losses
from memograd.doctor.mode import mode
from memograd.doctor.noise import noise
from memograd.doctor.patient import Patient
from memograd.doctor.precision import precision as digits
from memograd.doctor.report import Finding, Report
from memograd.doctor.saturation import saturation
from memograd.doctor.subject import Subject
from memograd.doctor.underflow import underflow
from memograd.doctor.units import dead_units
from memograd.doctor.updates import held_by, updates
from memograd.doctor.usage import usage
from memograd.doctor.wider import Wider, widened
from memograd.doctor.zeros import zero_gradients
from memograd.draws import same_draws
from memograd.errors import GraphError, OptionError
from memograd.findings import severest_first
from memograd.inspection.capturing import asked
from memograd.inspection.program import Inspected
from memograd.looks import look
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
    with same_draws():
        case = _looked_into(Subject(f, args, kwargs, loss, _dtype(precision)), optimizer, step, bool(precision), run)
    name = getattr(f, "__name__", "the function") if not isinstance(f, nn.Module) else type(f).__name__
    return Report(name, severest_first(without_consequences(case.findings)), numbers=case.numbers)


def _dtype(precision: bool | torch.dtype) -> torch.dtype | None:
    return precision if isinstance(precision, torch.dtype) else None


def _looked_into(
    subject: Subject, optimizer: optim.Optimizer | None, step: Any, precision: bool, run: Run | None
) -> _Case:
    case = _Case(subject)
    try:
        with torch.inference_mode(False):  # who evaluates a model may ask, too
            case.look(optimizer)
            if step is not None:
                case.findings += usage(step, subject.f, subject.args, subject.gradient)
            if precision and case.patient is not None and case.patient.finite:
                case.count_digits(case.patient)
            if run is not None and case.patient is not None:
                case.followed(run, case.patient, optimizer)
    finally:
        subject.drawn.put_back()
    return case


class _Case:
    """What one subject shows, gathered."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.findings: list[Finding] = []
        self.numbers: dict[str, Any] = {}
        self.patient: Patient | None = None

    def look(self, optimizer: optim.Optimizer | None) -> None:
        """Everything that one batch shows."""
        subject = self.subject
        inspected = subject.inspected(subject.args, subject.kwargs)
        asks = bool(asked(subject.program, subject.args, subject.kwargs))
        nothing = unreached.frozen(subject.f, asks)
        self.findings += nothing
        if not inspected.wrt:
            self.findings += [] if nothing and nothing[0].severity == "error" else unreached.unasked(subject.f)
            return
        if not inspected.flows[inspected.loss]:
            self.findings += unreached.stopped(inspected, inspected.wrt)
            return
        self.patient = patient = subject.examined(inspected, subject.args, subject.kwargs)
        self.findings += unreached.stopped(inspected, patient.unreached)
        self.findings += mode(subject.f)
        trained = set(held_by(optimizer)) if optimizer is not None else None
        self.findings += unreached.outsiders(inspected, inspected.graph, trained)
        self.findings += unreached.beforehand(inspected, inspected.graph)
        self.numbers["loss"] = float(patient.values[patient.loss])
        if patient.finite:
            self._detect(patient, optimizer)
        else:
            self.findings += subject.not_finite(patient)

    def _detect(self, patient: Patient, optimizer: optim.Optimizer | None) -> None:
        """What is wrong where all numbers are finite."""
        self.findings += [f for detector in _DETECTORS for f in detector(patient)]
        if _in_half(patient) and (wider := self.wider(patient)) is not None:
            self.findings += underflow(patient, wider)
        if optimizer is not None:
            self.findings += updates(patient, optimizer)
        if patient.tensors and all(f.severity == "note" for f in self.findings):
            self.findings += self._noise(patient)

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
            findings, self.numbers["precision"] = digits(patient, wider, self.subject.now)
            self.findings += findings

    def followed(self, run: Run, patient: Patient, optimizer: optim.Optimizer | None) -> None:
        """A run of some steps, and what only that shows."""
        subject = self.subject
        subject.drawn.put_back()
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
        batches = batches_of(run, (subject.args, subject.kwargs))
        written = [t for i in patient.graph.inputs if (t := i.bound) is not None]  # a function's are its own, too
        course = follow(subject, batches, optimizer, run, written)
        self.numbers["steps"] = course.to_dict()
        self.findings += [*course.broken, *self._of_course(course, optimizer, len(batches) == 1)]

    def _of_course(self, course: Course, optimizer: optim.Optimizer, one_batch: bool) -> list[Finding]:
        """What the run as a whole shows, and its last step where that is something new."""
        findings = outcome(course, optimizer, one_batch) if not course.broken else []
        if course.last is None or not course.last.finite:
            return findings
        kinds = {f.kind for f in (*self.findings, *findings)}
        if "dead units" in kinds:  # which pass nothing back
            kinds.add("vanishing gradient")
        last = [f for detector in (gain, saturation) for f in detector(course.last) if f.kind not in kinds]
        return findings + [replace(f, what=f"at step {len(course.frames) - 1}, {f.what}") for f in last]

    def _noise(self, patient: Patient) -> list[Finding]:
        subject = self.subject
        inspected: list[Inspected] = []

        def part(args: Any, kwargs: Any) -> Patient:
            if not inspected or any(n.target is look for n in inspected[0].graph.nodes):
                inspected[:] = [subject.inspected(args, kwargs)]
            return subject.examined(inspected[0], args, kwargs)

        return noise(patient, subject.args, subject.kwargs, part)


def _in_half(patient: Patient) -> bool:
    adjoints = (t for a in patient.table.values() for t in (a if isinstance(a, list) else [a]))
    return any(isinstance(t, torch.Tensor) and t.dtype in (torch.float16, torch.bfloat16) for t in adjoints)
