"""A run followed step by step: gain of each layer, updates, dead units, until the loss is lost or the steps are over.

Each step is the recursion on numbers, and the update is the optimizer's own. Afterwards everything is put back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import nn, optim

from memograd._torch import pytree
from memograd.doctor import units
from memograd.doctor.gain import gains
from memograd.doctor.patient import Patient, rms, wide
from memograd.doctor.report import Finding
from memograd.doctor.updates import as_it_was, hand_over
from memograd.errors import OptionError
from memograd.tracing.undisturbed import Contents, taken_back

# A network with enough parameters learns one batch by heart within some tens of steps (Karpathy, A Recipe for Training
# Neural Networks: "overfit one batch"); one that has not fallen by a hundredth of its loss then does not move at all.
ENOUGH, FALLEN = 20, 0.01
# Losses jump at the beginning of a run; ten times the first one is no jump.
DIVERGED = 10.0


class Subject(Protocol):
    """Who looks at one batch after the other (``subject.py``)."""

    program: Any

    def step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Patient: ...

    def not_finite(self, patient: Patient, number: int, losses: Sequence[float]) -> tuple[Finding, ...]: ...


class Writer(Protocol):
    """TensorBoard's ``SummaryWriter``, or who understands the same call."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...


@dataclass(frozen=True)
class Run:
    """A run to be followed: how many steps, on which batches, and who is told of them."""

    steps: int
    data: Iterable[Any] | None = None
    writer: Writer | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"steps must be a whole number of at least 1, or 0 for no run, got {self.steps!r}")


@dataclass(frozen=True)
class Frame:
    """One step.

    Attributes:
        gains: by layer, the norm of the adjoint of what it returns.
        updates: by weight, how far the step moves it, as a share of its size.
        dead: by rectifier, the share of its units that are off for the whole batch.
    """

    step: int
    loss: float
    gains: dict[str, float]
    updates: dict[str, float]
    dead: dict[str, float]


@dataclass
class Course:
    """All steps, and what the last batch showed. ``broken``: why a step was not finite, if one was."""

    frames: list[Frame] = field(default_factory=list)
    last: Patient | None = None
    broken: tuple[Finding, ...] = ()

    def to_dict(self) -> list[dict[str, Any]]:
        return [asdict(frame) for frame in self.frames]


def follow(
    subject: Subject,
    batches: Sequence[tuple[tuple[Any, ...], dict[str, Any]]],
    optimizer: optim.Optimizer,
    run: Run,
    written: Sequence[torch.Tensor] = (),
) -> Course:
    """The steps of ``optimizer``, on the batches in turn. ``written``: tensors that it may write to, besides the
    program's own."""
    course = Course()
    operands = [t for t in pytree.tree_leaves(list(batches)) if isinstance(t, torch.Tensor)]
    with _put_back(subject.program, optimizer, [*written, *operands]):
        for k in range(run.steps):
            args, kwargs = batches[k % len(batches)]
            patient = course.last = subject.step(args, kwargs)
            frame = _frame(k, patient, optimizer)
            course.frames.append(frame)
            if run.writer is not None:
                _written(run.writer, frame)
            if not patient.finite:
                course.broken = subject.not_finite(patient, k, [f.loss for f in course.frames[:-1]])
                break
    return course


@contextmanager
def _put_back(program: Any, optimizer: optim.Optimizer, more: Sequence[torch.Tensor]) -> Iterator[None]:
    tensors = [*program.parameters(), *program.buffers()] if isinstance(program, nn.Module) else []
    tensors += more
    contents, gradients = Contents(tensors), [(t, t.grad) for t in tensors if t.is_leaf]
    try:
        with as_it_was(optimizer), taken_back(program):
            yield
    finally:
        contents.put_back()
        for tensor, gradient in gradients:
            tensor.grad = gradient


def _frame(k: int, patient: Patient, optimizer: optim.Optimizer) -> Frame:
    """What one step shows, and the step itself."""
    loss = float(patient.values[patient.loss])
    norms = _by_layer({patient.layer(u): size for u, size in gains(patient).items()})
    dead = {patient.layer(layer.node): layer.share for layer in units.layers(patient)}
    before = {n: wide(p).clone() for n, p in patient.tensors.items() if p.dim() > 1}
    if patient.finite:
        hand_over(patient, optimizer)
        optimizer.step()
    moved = {
        patient.named(n): rms(wide(patient.tensors[n]) - w) / size for n, w in before.items() if (size := rms(w)) > 0
    }
    return Frame(k, loss, norms, moved, dead)


def _by_layer(norms: dict[str, float]) -> dict[str, float]:
    """Many calls of one layer (a recurrence) as the first and the last."""
    calls: dict[str, list[str]] = {}
    for name in norms:
        calls.setdefault(name.partition(" (call ")[0], []).append(name)
    shown = {name for group in calls.values() for name in (group if len(group) < 4 else (group[0], group[-1]))}
    return {name: size for name, size in norms.items() if name in shown}


def _written(writer: Writer, frame: Frame) -> None:
    writer.add_scalar("loss", frame.loss, frame.step)
    for tag, numbers in (("gain", frame.gains), ("update", frame.updates), ("dead units", frame.dead)):
        for name, value in numbers.items():
            writer.add_scalar(f"{tag}/{name}", value, frame.step)


# -- what the course says ----------------------------------------------------------------------------------------------


def outcome(course: Course, optimizer: optim.Optimizer, one_batch: bool) -> list[Finding]:
    """What only a run shows: it diverges, or does not move; units that die on the way, and when."""
    if not course.frames or course.last is None:
        return []
    return [*_loss(course, optimizer, one_batch), *_died(course)]


def _loss(course: Course, optimizer: optim.Optimizer, one_batch: bool) -> Iterator[Finding]:
    losses = [frame.loss for frame in course.frames]
    first, last, patient = losses[0], losses[-1], course.last
    assert patient is not None
    by = f"{type(optimizer).__name__} with lr={optimizer.param_groups[0].get('lr', '?')}"
    top = course.frames[-2 if len(course.frames) > 1 else -1].updates
    largest = max(top, key=lambda n: top[n], default="")
    evidence = [f"from {first:.4g} to {last:.4g} in {len(losses) - 1} steps of {by}"]
    if largest:
        evidence.append(f"the largest update is {top[largest]:.1e} of the size of {largest!r}")
    if not math.isfinite(last) or last > DIVERGED * max(abs(first), 1e-6):
        now = f"grows to {last:.4g}" if math.isfinite(last) else f"is {last}"
        what = f"the loss {now} at step {len(losses) - 1}"
        fix = "A smaller learning rate, or torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0);\n"
        fix += "watch=True on mg.TrainStep or mg.wrap stops at the first step that is not finite"
        yield patient.finding("error", "diverges", what, patient.loss, "forward", evidence, fix, step=len(losses) - 1)
    elif one_batch and len(losses) >= ENOUGH and min(losses[len(losses) // 2 :]) > first - FALLEN * abs(first):
        what = f"one batch again and again, and the loss does not fall in {len(losses)} steps"
        fix = "See the other findings; else a larger learning rate, or a loss that says what is meant"
        yield patient.finding("warning", "does not learn one batch", what, patient.loss, "forward", evidence, fix)


def _died(course: Course) -> Iterator[Finding]:
    """Rectifiers whose units are off at the end and were not at the beginning."""
    patient, first = course.last, course.frames[0].dead
    assert patient is not None
    for layer in units.layers(patient):
        name = patient.layer(layer.node)
        if layer.samples < units.SAMPLES or layer.share < units.MANY or first.get(name, 0.0) >= units.MANY:
            continue
        since = next(f.step for f in course.frames if f.dead.get(name, 0.0) >= units.MANY)
        dead, total = int(layer.dead.sum()), len(layer.dead)
        what = f"{dead} of {total} units ({layer.share:.0%}) are off for the whole batch since step {since}"
        evidence = [f"at step 0 it was {first.get(name, 0.0):.0%}"]
        before = course.frames[max(since - 1, 0)].updates
        if before:
            largest = max(before, key=lambda n: before[n])
            evidence.append(f"the step before moved {largest!r} by {before[largest]:.1e} of its size")
        fix = "A smaller learning rate, or a warm-up; nn.LeakyReLU(0.01) or nn.GELU(); weight decay off for biases"
        severity = "error" if dead == total else "warning"
        which = layer.dead.nonzero().flatten().tolist()
        yield patient.finding(
            severity, "dead units", what, layer.node, "forward", evidence, fix, since=since, which=which
        )


def batches_of(run: Run, example: tuple[tuple[Any, ...], dict[str, Any]]) -> list[Any]:
    """The batches of a run: those of ``data`` (each a tuple of arguments, or a dict), else the one that was given."""
    if run.data is None:
        return [example]
    batches = []
    for batch in run.data:
        batches.append(((), dict(batch)) if isinstance(batch, dict) else (_tuple(batch), {}))
        if len(batches) == run.steps:
            break
    if not batches:
        raise OptionError("`data` has no batch (an iterator that was used up?): a list, or a DataLoader")
    return batches


def _tuple(batch: Any) -> tuple[Any, ...]:
    return (batch,) if isinstance(batch, torch.Tensor) else tuple(batch)
