"""From a step that is not finite to what is said about it."""

from __future__ import annotations

import itertools
import operator

from torch import fx

from memograd.doctor.nan.causes import cause_of
from memograd.doctor.nan.evidence import Cause
from memograd.doctor.nan.producer import Producer, producer_of, way
from memograd.doctor.nan.remedies import tried
from memograd.doctor.nan.replay import Run, Step
from memograd.doctor.report import Finding, Report, Where
from memograd.graph.bindings import name_of
from memograd.graph.entries import Output
from memograd.rules.registry import lookup
from memograd.tracing.functions import Call

_STATIONS = 7  # of the way from the operator to the loss, that are shown


def examine(step: Step) -> Report:
    """Which operator or rule made the step's loss or a gradient NaN or infinite, why, and what helps."""
    producer = producer_of(step)
    if producer is None:
        return Report("the step", (_not_again(step),), _headline(step, []))
    cause, code, outcome = _judged(step, producer)
    spoiled = _gradients(step, producer.before)
    bad, all_of_it = len(producer.positions), producer.tensor.numel()
    what = f"{bad} of {all_of_it} element{'s' * (all_of_it != 1)} {'are' if bad != 1 else 'is'} not finite"
    evidence = [*cause.evidence, *_turned(producer), *_way(step, producer)]
    numbers = {
        "step": step.number,
        "op": _op(producer.node),
        "forward_op": _op(cause.forward) if cause.forward is not None else "",
        "elements": bad,
        "of": all_of_it,
        "spoils": spoiled,
        "finite_with_fix": "is finite" in outcome,
        **cause.numbers,
    }
    where = _where(step, producer, cause)
    finding = Finding("error", cause.kind, what, where, tuple(evidence), code, outcome, tuple(spoiled), numbers)
    return Report("the step", (finding,), _headline(step, spoiled, producer))


def _judged(step: Step, producer: Producer) -> tuple[Cause, str, str]:
    """The cause, what to write, and what came of it. Whatever goes wrong here must not hide who did it."""
    try:
        cause = cause_of(step, producer)
    except Exception as error:
        cause = Cause("not finite", evidence=(f"the cause could not be looked for: {type(error).__name__}: {error}",))
    try:
        return (cause, *tried(step, producer, cause))
    except Exception as error:
        return cause, "", f"no remedy could be tried: {type(error).__name__}: {error}"


def _headline(step: Step, spoiled: list[str], producer: Producer | None = None) -> str:
    total = len(step.joint.positions("gradient"))
    gradients = f"{len(spoiled)} of {total} gradients are not finite"
    if producer is not None and producer.target in step.losses:
        named = "a result of the model" if step.outside else "the loss"
        what = f"{named} is {_value(producer)}"
    else:
        what = gradients if producer is not None else "the loss or a gradient is not finite"
    return f"step {step.number}: {what}\n{step.untouched}"


def _value(producer: Producer) -> str:
    return "NaN" if producer.target in producer.before.nan else "infinite"


def _where(step: Step, producer: Producer, cause: Cause) -> Where:
    meta = producer.node.meta
    if producer.is_input:
        entry = step.joint.inputs[step.joint.placeholders.index(producer.node)]
        kind = {"input": "argument", "cotangent": "adjoint that arrives from the loss"}.get(entry.kind, entry.kind)
        return Where(op=f"{kind} {step.shown(entry.name)!r}", index=producer.index)
    rule = ""
    if producer.is_backward and cause.forward is not None:
        entry = lookup(cause.forward.target)
        formula = f": {entry.formula}" if entry is not None else ""
        whose = cause.name if isinstance(cause.forward.target, Call) else cause.forward.target
        rule = f"derivative of {whose}{formula}"
    return Where(
        step.shown(meta.get("module") or ""),
        meta.get("source") or "",
        (meta.get("line") or "").strip(),
        str(producer.node.target),
        "backward" if producer.is_backward else "forward",
        rule,
        producer.index,
    )


def _turned(producer: Producer) -> list[str]:
    """Where an infinity becomes NaN."""
    if producer.turn is None:
        return []
    return [f"its infinity becomes NaN in {_label(producer.turn)}"]


def _way(step: Step, producer: Producer) -> list[str]:
    """From the operator to the loss, or to a gradient."""
    path = [n for n in way(producer) if n.op == "call_function" and n.target is not operator.getitem]
    names = {n: f"the gradient of {step.shown(o.name)!r}" for n, o in _results(step) if o.kind == "gradient"}
    forward = _stations([n for n in path[1:] if "adjoint_of" not in n.meta])
    backward = _stations([n for n in path[1:] if "adjoint_of" in n.meta])
    if producer.target not in names:
        end = "a result of the model" if step.outside else "the loss"
        return ["from there -> " + " -> ".join([*forward, end])]
    turned = " -> ".join(["from there", *forward]) + (", and in the backward pass" if forward else ", backwards")
    return [f"{turned} -> {' -> '.join([*backward, names[producer.target]])}"]


def _stations(nodes: list[fx.Node]) -> list[str]:
    """Some operators of a way, each only once in a row."""
    stations = [name for name, _ in itertools.groupby(map(_name, nodes))]
    if len(stations) > _STATIONS:
        return [*stations[:3], f"... {len(stations) - 6} more ...", *stations[-3:]]
    return stations


def _results(step: Step) -> list[tuple[fx.Node, Output]]:
    return list(zip(step.joint.results, step.joint.outputs, strict=True))


def _label(node: fx.Node) -> str:
    if node.op == "placeholder":
        return node.name
    name = _name(node)
    return f"{name} (derivative)" if "adjoint_of" in node.meta else name


def _name(node: fx.Node) -> str:
    try:
        return name_of(node.target)
    except Exception:  # what has no schema: an application of an autograd.Function
        return str(node.target)


def _op(node: fx.Node) -> str:
    return node.name if node.op == "placeholder" else str(node.target)


def _gradients(step: Step, run: Run) -> list[str]:
    """Names of the parameters (or arguments) whose gradient is not finite."""
    return [step.shown(o.name) for n, o in _results(step) if o.kind == "gradient" and n in run.bad]


def _not_again(step: Step) -> Finding:
    if step.backend == "eager":
        text = "the step, run again operator by operator, is finite: it does not do the same twice"
        return Finding("error", "not finite only once", text, fix="please report it with the model")
    text = f"operator by operator the step is finite: kernels of the {step.backend} backend overflow or are wrong"
    return Finding("error", "wrong kernel", text, Where(op=f"backend {step.backend}"), fix="backend='eager'")
