"""The trip-wire of a wrapped model: gradients that are not finite are not handed on, so that no ``.grad`` is written,
and the backward pass that has them ends with ``NonFiniteError``. On an accelerator, where that would mean to wait, it
is the optimizer's step that ends so, before it has begun (``late.py``).

What lies in the wrapped model is run again in its own graph. What lies behind it, in the loop's own loss, is looked up
in the loop's source (``loss_source``).
"""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from memograd import finite
from memograd.doctor.nan.examine import Step, examine
from memograd.doctor.nan.repair import without_scale
from memograd.doctor.nan.replay import as_it_was
from memograd.doctor.probes import is_finite
from memograd.doctor.report import Finding, Report
from memograd.draws import drawing
from memograd.errors import MemogradError, NonFiniteError
from memograd.frontend.answers import Question
from memograd.frontend.boundary import Call
from memograd.frontend.late import UNDER_WAY, Pass
from memograd.frontend.loss_source import loss_program, root
from memograd.frontend.running import derived
from memograd.graph.graph import Graph
from memograd.largest_number import largest_number
from memograd.pipeline import capture_for, differentiate

Tensor = torch.Tensor
_TRAIL = 16  # largest gradients of former passes, to see how they grow
_PATIENCE = 20  # passes in a row that a gradient scaler may find its scale with
_UNTOUCHED = "(no .grad of this model was written by this backward pass)"
_NOT_STEPPED = "(no optimizer has made a step with these gradients; zero_grad() forgets them)"


@dataclass(eq=False)
class Watch:
    """What is remembered of the last backward passes.

    Attributes:
        passes: how many had finite gradients.
        scaled: how many in a row had none only because of a gradient scaler's scale.
    """

    passes: int = 0
    scaled: int = 0
    trail: deque[float] = field(default_factory=lambda: deque(maxlen=_TRAIL))

    def look(self, call: Call, question: Question, gradients: Iterable[Any], arriving: Sequence[Any]) -> None:
        """Raises NonFiniteError where a gradient is not finite, unless a scaler will leave this step out anyway; on an
        accelerator as soon as that is known (``late.py``)."""
        values = [g for g in gradients if isinstance(g, Tensor)]
        loss = root()
        loss = loss.detach() if loss is not None and loss.numel() == 1 else None
        if finite.lies_on_cpu(values):
            size, beside = largest_number(values), 0.0 if loss is None else abs(loss.item())
            self._judge(call, question, arriving, size, beside, _UNTOUCHED)
            return
        number = finite.measured([g.detach() for g in values])
        numbers = torch.stack([number, number * 0 if loss is None else loss.abs().reshape(()).to(number)])

        def judge(arrived: Tensor) -> None:
            size, beside = arrived.tolist()
            self._judge(call, question, arriving, size, beside, _NOT_STEPPED)

        UNDER_WAY.add(Pass(self, finite.Sent(numbers), judge))

    def _judge(
        self, call: Call, question: Question, arriving: Sequence[Any], size: float, loss: float, untouched: str
    ) -> None:
        """``size``: the largest number of the gradients."""
        if math.isfinite(size) and math.isfinite(loss):
            self.passes += 1
            self.scaled = 0
            self.trail.append(size)
            return
        with drawing(call.drawn), torch.no_grad():
            step = _step(call, question, arriving, self, untouched)
            scale = _scale()
            if scale > 1.0 and self.scaled < _PATIENCE and _is_scaling(step, arriving, scale):
                self.scaled += 1
                return
            report = examine(step) if not math.isfinite(size) or step.results else _only_the_loss(step)
            if report.findings[0].kind == "not finite behind the model":
                report = _behind(call, report, step) or report
        raise NonFiniteError(str(report), report)


def _step(call: Call, question: Question, arriving: Sequence[Any], watch: Watch, untouched: str) -> Step:
    """The pass of the program alone. Where its own results are not finite, nor are the cotangents, and others stand for
    these."""
    program = call.program
    used, wanted = question
    among = [program.forward.outputs[k].name for k in used]
    names = [program.forward.inputs[k].name for k in wanted]
    joint = derived(program.forward, program.first, question)
    late, given = iter(arriving), iter(call.flat)
    count = program.first.inputs
    flat = [
        next(late) if i.kind == "cotangent" else next(given) if k < count else i.tensor
        for k, i in enumerate(joint.inputs)
    ]
    flat: list[Any] = [t.detach() if isinstance(t, Tensor) else t for t in flat]
    step = Step(
        program.forward,
        joint,
        flat,
        number=watch.passes,
        trail=[*watch.trail],
        trail_of="the largest gradient",
        results=tuple(used),
        outside=True,
        root="self",
        untouched=untouched,
        differentiate=lambda graph: differentiate(graph, names, cotangents="output", among=among),
    )
    bad = as_it_was(step).bad
    if not any(joint.results[k] in bad for k in used):
        return replace(step, results=())
    late_ones = [k for k, i in enumerate(joint.inputs) if i.kind == "cotangent"]
    flat = [
        torch.full_like(t, 1 / max(1, t.numel())) if k in late_ones and not is_finite(t) else t
        for k, t in enumerate(flat)
    ]
    return replace(step, flat=flat)


def _only_the_loss(step: Step) -> Report:
    """What is to be said where all gradients are finite."""
    text = "the model's results and all gradients are finite; the loss that was made of them is not"
    fix = "let the wrapped module return the loss, and the operator in it is named here"
    finding = Finding("error", "not finite behind the model", text, fix=fix)
    return Report("the step", (finding,), f"step {step.number}: the loss is not finite\n{step.untouched}")


def _behind(call: Call, report: Report, step: Step) -> Report | None:
    """What made the cotangents so: the loss, if its source can be found and run."""
    source = loss_program(call)
    if source is None:
        return None
    function, inputs, names = source
    try:
        graphs = _differentiated(function, inputs)
        if graphs is None:
            return None
        forward, joint = graphs
        flat = [t.detach() if isinstance(t, Tensor) else t for t in joint.bind(inputs, {})]
        known = {f"arg{k}": name for k, name in enumerate(names)}
        behind = Step(forward, joint, flat, number=step.number, names=known, untouched=step.untouched, trail=step.trail)
        examined = examine(behind)
    except (MemogradError, RuntimeError, ValueError, TypeError):
        return None
    finding = examined.findings[0]
    if "step" not in finding.numbers:
        return None
    spoiled = report.findings[0].names
    numbers = {**finding.numbers, "spoils": list(spoiled)}
    return replace(examined, findings=(replace(finding, names=spoiled, numbers=numbers),))


def _differentiated(function: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Graph, Graph] | None:
    with torch.enable_grad():
        wrt = list(range(len(inputs)))
        try:
            forward = capture_for(function, inputs, {}, wrt)
        except MemogradError:
            forward = capture_for(function, inputs, {}, wrt, concrete=True)
        names = [i.name for i in forward.inputs if i.tensor is None]
        names += [n for n, t in forward.parameters.items() if t.requires_grad]
        return (forward, differentiate(forward, names)) if names else None


def _scale() -> float:
    """The scale of a gradient scaler that is at work somewhere; 1 where none is."""
    kind: Any = torch.amp.GradScaler  # pyright: ignore[reportPrivateImportUsage]
    scalers = [o for o in gc.get_objects() if issubclass(type(o), kind) and o.is_enabled()]
    return max((s.get_scale() for s in scalers), default=1.0)


def _is_scaling(step: Step, arriving: Sequence[Any], scale: float) -> bool:
    """Whether the gradients are finite without the scale."""
    if step.results:
        return False  # the forward pass knows of no scale
    if not all(map(is_finite, arriving)):
        return True  # the loss's own derivative overflows: the scaler will say how long
    return without_scale(step, scale)
