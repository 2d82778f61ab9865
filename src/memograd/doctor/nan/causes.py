"""What sort of fault it is, by evidence: the operator runs again in float64 on the same operands, and what it met is
looked at, element by element where it is one of elements.

finite in float64, and too large for the dtype       -> overflow (and then: of a recurrence, of the training?)
finite in float64, and not too large for the dtype   -> the kernel is wrong
not finite there either                              -> the mathematics: the edge of a domain, 0/0, inf - inf, ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from memograd.doctor.nan import growth
from memograd.doctor.nan.producer import Producer
from memograd.doctor.nan.replay import Step, bad_positions, mended
from memograd.doctor.probes import largest_of, tensors_in
from memograd.graph.bindings import name_of

DIVISIONS = frozenset({"div", "true_divide", "reciprocal", "addcdiv", "remainder", "fmod"})
NORMS = frozenset({"linalg_vector_norm", "norm", "_foreach_norm", "dist", "_cdist_forward", "_pdist_forward"})
SOFTMAXES = frozenset({"_softmax", "_log_softmax", "_safe_softmax", "logsumexp"})
SPREADS = frozenset({"var", "std", "var_mean", "std_mean"})
SOLVERS = frozenset(
    {
        *("linalg_inv_ex", "_linalg_det", "_linalg_slogdet", "_linalg_solve_ex", "linalg_cholesky_ex", "linalg_qr"),
        *("cholesky_inverse", "_linalg_svd", "_linalg_eigh", "linalg_solve_triangular"),
    }
)
NORMALIZATIONS = frozenset(
    {
        *("native_layer_norm", "native_group_norm", "native_batch_norm", "_fused_rms_norm"),
        *("_native_batch_norm_legit", "_native_batch_norm_legit_functional"),
    }
)
PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm", "mv", "dot", "convolution", "mul", "matmul"})


@dataclass(frozen=True)
class Cause:
    """Attributes:
    kind: always in the same words, for people and programs.
    name: of the operator (in the backward pass of the forward operator whose derivative it is).
    forward: the forward operator concerned.
    evidence: sentences.
    numbers: for programs.
    """

    kind: str
    name: str = ""
    forward: fx.Node | None = None
    evidence: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)


def cause_of(step: Step, made: Producer) -> Cause:
    """What sort of fault ``made`` is."""
    if made.is_input:
        return _of_input(step, made)
    name = name_of(made.node.target)
    if made.is_backward:
        return _of_derivative(step, made, name)
    return _of_operator(step, made, name, made.node)


# -- what was there before the step ----------------------------------------------------------------------------------


def _of_input(step: Step, made: Producer) -> Cause:
    entry = step.joint.inputs[step.joint.placeholders.index(made.node)]
    value = "NaN" if made.tensor.reshape(-1)[made.position].isnan() else "inf"
    count = f"{len(made.positions)} of {made.tensor.numel()} elements of {step.shown(entry.name)!r} are not finite"
    evidence = [f"{count} before the step begins"]
    if entry.kind == "cotangent":
        return Cause("not finite behind the model", evidence=(*evidence, "the model's own results are finite"))
    if entry.kind == "parameter":
        if rising := growth.training(step):
            evidence.append(f"the loss grew before: {growth.shown(rising)}")
            return Cause("exploding training", evidence=tuple(evidence), numbers={"losses": rising})
        evidence.append("it is the first step" if not step.number else f"{step.number} steps before were finite")
        return Cause(f"{value} in the weights", evidence=tuple(evidence))
    if entry.kind == "buffer":
        return Cause(f"{value} in a buffer", evidence=tuple(evidence))
    rows = _rows(made)
    return Cause(f"{value} in the data", evidence=(*evidence, *rows))


def _rows(made: Producer) -> list[str]:
    """Which samples of a batch are concerned."""
    shape = made.tensor.shape
    if not shape or made.tensor.dim() < 2:
        return []
    rows = torch.unique(made.positions.cpu() // max(1, math.prod(shape[1:]))).tolist()
    return [f"samples {', '.join(map(str, rows[:5]))}{' and others' if len(rows) > 5 else ''} of the batch"]


# -- operators of the forward pass -----------------------------------------------------------------------------------


def _of_operator(step: Step, made: Producer, name: str, forward: fx.Node) -> Cause:
    if (special := _special(made, name, forward)) is not None:
        return special
    wide = in_float64(made)
    if wide is None:
        return Cause(_edge(name, made), name, forward, (_said(made, name),))
    exact = _element(wide, made)
    if math.isfinite(exact):
        return _too_large(step, made, name, forward, exact)
    evidence = [_said(made, name), f"in float64 it is {exact:g} too: no matter of precision"]
    if name in ("exp", "exp2", "expm1", "cosh", "sinh", "pow", "square") and _only_large(made):
        return _growing(step, made, Cause("overflow", name, forward, tuple(evidence)))
    return Cause(_edge(name, made), name, forward, tuple(evidence))


def _special(made: Producer, name: str, forward: fx.Node) -> Cause | None:
    """Faults that one operator alone has."""
    first = next(iter(tensors_in(made.args)), None)
    if name in SOFTMAXES and made.written is not None:
        where = made.written.meta.get("source", "an input")
        row = f"all numbers of the row of element {list(made.index)} are -inf, which {where} has put there"
        return Cause("softmax over a fully masked row", name, forward, (row, "0/0: no probability is left to share"))
    if name in SPREADS and first is not None:
        n = first.numel() // max(1, made.tensor.numel())
        correction = made.kwargs.get("correction", 1)
        if n <= (1 if correction is None else correction):
            text = f"{name} over {n} element{'s' * (n != 1)} divides by {n} - {correction or 0}"
            return Cause("variance of one element", name, forward, (text,))
    if name.startswith("nll_loss") and first is not None:
        _, labels, _, _, ignored = made.args  # pyright: ignore[reportAssignmentType]
        text = f"all {labels.numel()} labels are {ignored} (ignore_index): the mean is one over nothing"
        if bool((labels == ignored).all()):
            return Cause("mean over no element", name, forward, (text,))
    if name == "mean" and first is not None and not first.numel():
        return Cause("mean over no element", name, forward, (f"the operand has shape {list(first.shape)}",))
    if name == "_ctc_loss":
        text = "a label that is longer than its input (with a blank between equal ones) has probability 0"
        return Cause("label out of range", name, forward, (text,))
    if name in NORMALIZATIONS and first is not None:
        return _of_normalization(made, name, forward)
    return None


def _of_normalization(made: Producer, name: str, forward: fx.Node) -> Cause | None:
    numbers = [a for a in made.args if isinstance(a, float)]
    if numbers and numbers[-1] == 0.0:
        return Cause("division by zero", name, forward, ("eps is 0, and all numbers of a group are equal",))
    return None


def _too_large(step: Step, made: Producer, name: str, forward: fx.Node, exact: float) -> Cause:
    dtype = made.tensor.dtype
    most = torch.finfo(dtype).max
    kind = str(dtype).removeprefix("torch.")
    if abs(exact) > most or _inside_too_large(made, name, most):
        evidence = [_said(made, name), f"in float64 it is {exact:.4g}; the largest {kind} is {most:.4g}"]
        return _growing(step, made, Cause(f"overflow in {kind}", name, forward, tuple(evidence)))
    evidence = (_said(made, name), f"in float64 it is {exact:.6g}, which {kind} holds: the kernel is wrong")
    return Cause("wrong kernel", name, forward, evidence)


def _inside_too_large(made: Producer, name: str, most: float) -> bool:
    """Whether squares or sums on the way, which are larger than the result, may be what overflowed."""
    sizes = [largest_of(t) for t in tensors_in((made.args, tuple(made.kwargs.values())))]
    largest = max(sizes, default=0.0)
    count = max((t.numel() for t in tensors_in(made.args)), default=1)
    power = 2 if name in NORMS | SPREADS | NORMALIZATIONS | PRODUCTS | {"pow", "mse_loss"} else 1
    return largest**power * count > most


def _growing(step: Step, made: Producer, cause: Cause) -> Cause:
    """An overflow that was long in coming."""
    told = cause.evidence
    if rising := growth.training(step):
        told = (*told, f"the loss grew from step to step: {growth.shown(rising)}")
        return Cause("exploding training", cause.name, cause.forward, told, {"losses": rising})
    name, weight = growth.heaviest(step)
    if step.number and growth.is_huge(weight):
        told = (*told, f"after {step.number} steps {name!r} has a weight of {weight:.3g}")
        return Cause("exploding training", cause.name, cause.forward, told, {"largest weight": weight})
    for sizes in (growth.recurrence(step, made), growth.layers(step, made)):
        if sizes:
            told = (*told, f"the same operator, one time after the other, gives up to {growth.shown(sizes)}")
            return Cause("exploding recurrence", cause.name, cause.forward, told, {"sizes": sizes})
    return cause


def _only_large(made: Producer) -> bool:
    return any(isinstance(v := made.operand(a), (int, float)) and abs(v) > 1 for a in made.args)


def _edge(name: str, made: Producer) -> str:
    values = [made.operand(a) for a in made.args]
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if name in DIVISIONS:
        return "division by zero"
    if name in PRODUCTS | {"addcmul"} and 0.0 in numbers:
        return "0 times inf"
    if name in SOLVERS:
        return "singular matrix"
    if name in NORMALIZATIONS | SPREADS:
        return "division by zero"
    if name in ("xlogy", "kl_div", "binary_cross_entropy") or name.startswith("nll_loss"):
        return "label out of range"
    return f"{plain(name)} at the edge of its domain"


def plain(name: str) -> str:
    """An operator as people call it."""
    return {"linalg_vector_norm": "norm", "_softmax": "softmax", "_log_softmax": "log_softmax"}.get(name, name)


def _said(made: Producer, name: str) -> str:
    """``log(0.0) = -inf``, or for an operator that is none of elements how large its operands are."""
    result = made.tensor.reshape(-1)[made.position].item()
    operands = [v for v in made.args if isinstance(v, (torch.Tensor, int, float)) and not isinstance(v, bool)]
    values = [made.operand(v) for v in operands]
    elementwise = all(isinstance(v, (int, float, complex)) for v in values)
    tensors = [v for v in operands if isinstance(v, torch.Tensor)]
    if elementwise and values and all(t.numel() <= made.tensor.numel() for t in tensors):
        return f"{plain(name)}({', '.join(_number(v) for v in values)}) = {_number(result)}"
    sizes = ", ".join(f"{largest_of(t):.4g}" for t in tensors_in(made.args) if t.is_floating_point())
    return f"{plain(name)} of operands with absolute values up to {sizes} gives {_number(result)}"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# -- products of rules -----------------------------------------------------------------------------------------------


def _of_derivative(step: Step, made: Producer, name: str) -> Cause:
    forward = forward_of(step, made)
    whose = name_of(forward.target) if forward is not None and not isinstance(forward.target, str) else name
    operands, adjoint = _met(step, made, forward)
    said = [f"the derivative of {plain(whose)}: {_said(made, name)}"]
    if operands:
        said.append(f"{plain(whose)} was called there with {', '.join(_number(v) for v in operands)}")
    if adjoint is not None:
        said.append(f"the adjoint that arrives there is {_number(adjoint)}")
    wide = in_float64(made)
    if wide is not None and math.isfinite(exact := _element(wide, made)):
        cause = _too_large(step, made, name, forward or made.node, exact)
        return Cause(cause.kind, whose, forward, (*said[:1], *cause.evidence[1:]), cause.numbers)
    if adjoint == 0.0:
        said.append("nobody reads that element, so its adjoint is 0; 0 times an infinite derivative is NaN")
        return Cause("where-gradient trap", whose, forward, tuple(said))
    if whose in DIVISIONS:
        kind = "division by zero"
    elif whose in NORMS:
        kind = "norm at the edge of its domain"
    elif whose in SPREADS and operands is not None:
        kind = f"{whose} at the edge of its domain"
    else:
        kind = f"{plain(whose)} at the edge of its domain"
    return Cause(kind, whose, forward, tuple(said))


def forward_of(step: Step, made: Producer) -> fx.Node | None:
    """The operator of the forward pass whose rule ``made`` is a product of."""
    name = made.node.meta.get("adjoint_of")
    return next((n for n in step.joint.nodes if n.name == name and "adjoint_of" not in n.meta), None)


def _met(step: Step, made: Producer, forward: fx.Node | None) -> tuple[list[Any], float | None]:
    """What the forward operator was called with at this element, and the adjoint that arrives there."""
    if forward is None or not isinstance(forward.meta["val"], torch.Tensor):
        return [], None
    shape = forward.meta["val"].shape
    if shape != made.tensor.shape:
        return [], None
    arriving = _adjoint(step, forward)
    nodes = {forward, *([arriving] if arriving is not None else [])}
    seen = mended(step, (made.written or made.node,), nodes).seen
    operands = [made.operand(a) for a in seen[forward][0]]
    numbers = [v for v in operands if isinstance(v, (int, float, complex)) and not isinstance(v, bool)]
    if arriving is None or arriving not in seen:
        return numbers, None
    return numbers, made.operand(seen[arriving][2])


def _adjoint(step: Step, forward: fx.Node) -> fx.Node | None:
    """The node that is adjoint(forward)."""
    own = [n for n in step.joint.nodes if n.meta.get("adjoint_of") == forward.name]
    shape = forward.meta["val"].shape
    for node in own:
        for operand in node.all_input_nodes:
            foreign = operand.meta.get("adjoint_of", forward.name) != forward.name
            if foreign and getattr(operand.meta["val"], "shape", None) == shape:
                return operand
    return None


# -- evidence --------------------------------------------------------------------------------------------------------


def in_float64(made: Producer) -> Any:
    """The operator's result on the same operands in float64; None where it does not run so."""
    target: Any = made.node.target

    def widened(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.double()
        if isinstance(value, torch.dtype) and value.is_floating_point:
            return torch.float64
        return type(value)(widened(v) for v in value) if isinstance(value, (tuple, list)) else value

    try:
        with torch.no_grad():
            return target(*widened(made.args), **{k: widened(v) for k, v in made.kwargs.items()})
    except (RuntimeError, TypeError, IndexError, NotImplementedError):
        return None


def _element(wide: Any, made: Producer) -> float:
    tensors = tensors_in(wide)
    at = next(k for k, t in enumerate(tensors_in(made.value)) if bad_positions(t).numel())
    if at >= len(tensors) or tensors[at].numel() <= made.position:
        return math.nan
    value = tensors[at].reshape(-1)[made.position]
    return float(value.abs()) if value.is_complex() else float(value)
