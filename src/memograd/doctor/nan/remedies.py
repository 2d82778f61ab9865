"""What to write instead: for each sort of fault the changes that help against it, the likeliest first. Each is tried on
the step itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from memograd.doctor.nan import growth, repair
from memograd.doctor.nan.causes import cause_of, is_lost_in_halves
from memograd.doctor.nan.choices import of_mask, of_read_mask, of_trap
from memograd.doctor.nan.evidence import Cause, called
from memograd.doctor.nan.operators import READ_MASK
from memograd.doctor.nan.producer import Producer, producer_of
from memograd.doctor.nan.remedy import Remedy, line_of, operator_of
from memograd.doctor.nan.replay import Step
from memograd.doctor.nan.rewrites import of_operator
from memograd.doctor.probes import is_finite
from memograd.tracing.functions import Call

Tensor = torch.Tensor
_DEEPER = 2  # further faults behind one that is mended


def tried(step: Step, producer: Producer, cause: Cause, deeper: int = _DEEPER) -> tuple[str, str]:
    """(what to write, what came of it): the first remedy with which the step is finite, if need be with others for what
    is not finite behind it; else the first one."""
    first: tuple[str, str] = ("", "")
    for remedy in remedies(step, producer, cause):
        outcome = remedy.attempt() if remedy.attempt is not None else None
        answer = (remedy.code, outcome.text if outcome is not None else "")
        if outcome is not None and outcome.finite:
            return answer
        if outcome is not None and outcome.step is not None and deeper:
            code, text = _also(outcome.step, producer, remedy.code, deeper)
            if code:
                return code, text
        if not first[0]:
            first = answer
    return first


def _also(step: Step, before: Producer, code: str, deeper: int) -> tuple[str, str]:
    """The same for a step in which one remedy is tried already, and something else is wrong; nothing where that has
    none."""
    for node in (*step.forward.nodes, *step.joint.nodes):  # what is proposed next builds on this
        if node.meta.get("source") == before.node.meta.get("source") and "\n" not in code:
            node.meta["line"] = code
    producer = producer_of(step)
    if producer is None:
        return "", ""
    more, text = tried(step, producer, cause_of(step, producer), deeper - 1)
    if "is finite" not in text:
        return "", ""
    same = producer.node.meta.get("source") == before.node.meta.get("source")
    return (more if same else f"{code}\n{more}"), text


def remedies(step: Step, producer: Producer, cause: Cause) -> Iterator[Remedy]:
    """All that may help, the likeliest first."""
    kind, name, forward = cause.kind, cause.name, cause.forward
    if producer.is_input:
        yield from _of_input(step, producer, cause)
    elif kind == "exploding training":
        yield from _of_training(step)
    elif kind == "where-gradient trap" and forward is not None:
        yield from of_trap(step, name, forward)
        yield from of_operator(step, name, forward)
    elif kind == "softmax over a fully masked row" and forward is not None:
        yield from of_mask(step, producer, forward)
    elif kind == READ_MASK and forward is not None:
        yield from of_read_mask(step, forward)
    elif kind == "equal eigenvalues" and forward is not None:
        yield _apart(step, forward)
    elif kind.startswith("overflow in float16") or kind.startswith("overflow in bfloat16"):
        yield from _of_halves(step, producer)
        if forward is not None:
            yield from of_operator(step, name, forward)
    elif kind == "wrong kernel" and forward is not None:
        yield _in_float64(step, forward)
    elif kind == "exploding recurrence":
        yield from _of_recurrence(step)
    elif forward is not None and isinstance(forward.target, Call):  # the operator in the author's own backward
        yield from of_operator(step, called(producer.node.target), producer.node)
    elif forward is not None:
        yield from of_operator(step, name, forward)
        yield from _of_data(step)


# -- the step as a whole ---------------------------------------------------------------------------------------------


def _in_float64(step: Step, node: fx.Node) -> Remedy:
    """Another kernel of the same operator."""
    dtype = node.meta["val"].dtype if isinstance(node.meta["val"], torch.Tensor) else torch.float32

    def changed(*args: Any, **kwargs: Any) -> Any:
        wide = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
        return operator_of(node)(*wide, **kwargs).to(dtype)

    code = f"call it in float64 (x.double(), and .to({dtype}) behind it), and report the kernel"
    return Remedy(code, lambda: repair.with_operator(step, node, changed))


def _apart(step: Step, node: fx.Node) -> Remedy:
    """A diagonal that moves equal eigenvalues apart."""

    def changed(matrix: Tensor, *args: Any, **kwargs: Any) -> Any:
        own = torch.linspace(0, 1, matrix.shape[-1], dtype=torch.float64, device=matrix.device).to(matrix.dtype)
        wide = 1e-3 * torch.diag(own)[: matrix.shape[-2]]
        return operator_of(node)(matrix + wide if wide.shape == matrix.shape[-2:] else matrix, *args, **kwargs)

    code = "A = A + 1e-3 * torch.diag(torch.linspace(0, 1, A.shape[-1]))  # moves equal eigenvalues apart"
    return Remedy(code, lambda: repair.with_operator(step, node, changed))


def _of_halves(step: Step, producer: Producer) -> Iterator[Remedy]:
    device = producer.tensor.device.type
    code = f'with torch.autocast("{device}", enabled=False):  # float32 for this place, on x.float()'
    line = line_of(producer.node).text.strip()
    code = f"{code}\n    {line}" if line and not producer.is_backward else code
    yield Remedy(code, lambda: repair.in_precision(step, torch.float32))
    bf16 = lambda: repair.in_precision(step, torch.bfloat16, (torch.float16,))  # noqa: E731
    yield Remedy(f'torch.autocast("{device}", dtype=torch.bfloat16)', bf16)


def _of_input(step: Step, producer: Producer, cause: Cause) -> Iterator[Remedy]:
    entry = step.joint.inputs[step.joint.placeholders.index(producer.node)]
    name = step.shown(entry.name)
    if cause.kind == "not finite behind the model":
        yield Remedy("let the wrapped module return the loss, and the operator in it is named here")
    elif cause.kind == "exploding training":
        yield from _of_training(step)
    elif entry.kind == "parameter":
        spoiled = {
            i.name: _clean
            for i, t in zip(step.joint.inputs, step.flat, strict=True)
            if i.kind == "parameter" and not is_finite(t)
        }
        attempt = lambda: repair.with_inputs(step, spoiled)  # noqa: E731
        advice = f"start from finite weights: initialise {name!r} anew, or load an earlier checkpoint"
        if is_lost_in_halves(step, producer):
            halves = "weights in float32, and torch.autocast for the model; or torch.optim.Adam(..., eps=1e-4)"
            advice = f"{halves}\n{advice}"
        yield Remedy(advice, attempt)
    else:
        attempt = lambda: repair.with_inputs(step, {entry.name: _clean})  # noqa: E731
        yield Remedy(f"{name} = torch.nan_to_num({name}, posinf=0.0, neginf=0.0)  # or drop such samples", attempt)


def _clean(x: Tensor) -> Tensor:
    return torch.nan_to_num(x, posinf=0.0, neginf=0.0)


def _of_training(step: Step) -> Iterator[Remedy]:
    if growth.from_the_first(step):
        if wide := _wide(step):
            name = step.shown(wide[0])
            yield Remedy(f"{name} = ({name} - {name}.mean()) / {name}.std()  # bring the data to a scale of 1")
        yield Remedy(
            "smaller weights to begin with (torch.nn.init.kaiming_normal_), or normalisations between the layers "
            "(nn.LayerNorm, nn.BatchNorm1d): the learning rate is not to blame"
        )
        return
    yield Remedy(
        "start again with a tenth of the learning rate, and clip_grad_norm=1.0 (these weights are gone too far)"
    )


def _of_recurrence(step: Step) -> Iterator[Remedy]:
    """The square matrix that is multiplied again and again, made one that lengthens nothing."""
    squares = {
        i.name: t
        for i, t in zip(step.joint.inputs, step.flat, strict=True)
        if i.kind == "parameter" and t.dim() == 2 and t.shape[0] == t.shape[1] and t.shape[0] > 1
    }

    def shortened(weight: Tensor) -> Tensor:
        return weight / torch.linalg.matrix_norm(weight.double(), 2).clamp_min(1.0).to(weight.dtype)

    code = (
        "torch.nn.init.orthogonal_(weight)  # of the matrix that is multiplied again and again; or normalise its result"
    )
    changes = dict.fromkeys(squares, shortened)
    yield Remedy(code, (lambda: repair.with_inputs(step, changes)) if changes else None)


def _wide(step: Step) -> list[str]:
    """Names of inputs of a scale of their own."""
    return [
        i.name
        for i, t in zip(step.joint.inputs, step.flat, strict=True)
        if i.kind == "input" and t.is_floating_point() and t.numel() > 1 and t.abs().max() > 1e3
    ]


def _of_data(step: Step) -> Iterator[Remedy]:
    """Data on a scale of its own."""
    wide = _wide(step)
    if wide:
        name = step.shown(wide[0])

        def normal(x: Tensor) -> Tensor:
            return (x - x.mean()) / x.std().clamp_min(1e-6)

        changes = dict.fromkeys(wide, normal)
        yield Remedy(f"{name} = ({name} - {name}.mean()) / {name}.std()  # bring the data to a scale of 1",
                     lambda: repair.with_inputs(step, changes))  # fmt: skip
