"""What is measured of a producer: the operator again in float64, what it met at the element, how people call it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from memograd.doctor.nan.producer import Producer
from memograd.doctor.nan.replay import bad_positions
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
    """What made a number that is not finite.

    Attributes:
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


def called(target: Any) -> str:
    """The name of an operator; of an application of a ``torch.autograd.Function``, which has no schema, as it is."""
    try:
        return name_of(target)
    except AttributeError:
        return getattr(target, "__name__", str(target))


def plain(name: str) -> str:
    """An operator as people call it."""
    known = {"linalg_vector_norm": "norm", "_softmax": "softmax", "_log_softmax": "log_softmax"}
    return known.get(name) or name.removeprefix("_").removeprefix("linalg_").removesuffix("_ex")


def said(producer: Producer, name: str) -> str:
    """``log(0.0) = -inf``, or for an operator that is none of elements how large its operands are."""
    result = producer.tensor.reshape(-1)[producer.position].item()
    operands = [v for v in producer.args if isinstance(v, (torch.Tensor, int, float)) and not isinstance(v, bool)]
    values = [producer.operand(v) for v in operands]
    elementwise = all(isinstance(v, (int, float, complex)) for v in values)
    tensors = [v for v in operands if isinstance(v, torch.Tensor)]
    if elementwise and values and all(t.numel() <= producer.tensor.numel() for t in tensors):
        return f"{plain(name)}({', '.join(number(v) for v in values)}) = {number(result)}"
    sizes = ", ".join(f"{largest_of(t):.4g}" for t in tensors_in(producer.args) if t.is_floating_point())
    return f"{plain(name)} of operands with absolute values up to {sizes} gives {number(result)}"


def readers(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """What reads ``node`` in the forward pass, or what has been made of it in the same shape: (that, who reads it).
    What a choice makes of it is not followed."""
    shape = node.meta["val"].shape
    waiting, reached = [node], {node}
    for value in waiting:
        for user in value.users:
            if user in reached or user.op == "output" or "adjoint_of" in user.meta:
                continue
            yield value, user
            choice = getattr(user.target, "overloadpacket", None) is torch.ops.aten.where
            if not choice and getattr(user.meta["val"], "shape", None) == shape:
                reached.add(user)
                waiting.append(user)


def number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def in_float64(producer: Producer) -> Any:
    """The operator's result on the same operands in float64; None where it does not run so."""
    target: Any = producer.node.target

    def widened(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.double()
        if isinstance(value, torch.dtype) and value.is_floating_point:
            return torch.float64
        return type(value)(widened(v) for v in value) if isinstance(value, (tuple, list)) else value

    try:
        with torch.no_grad():
            return target(*widened(producer.args), **{k: widened(v) for k, v in producer.kwargs.items()})
    except (RuntimeError, TypeError, IndexError, NotImplementedError):
        return None


def element(wide: Any, producer: Producer) -> float:
    """The number that ``wide``, the result in float64, has where the producer's is not finite; NaN if it has none."""
    tensors = tensors_in(wide)
    at = next(k for k, t in enumerate(tensors_in(producer.value)) if bad_positions(t).numel())
    if at >= len(tensors) or tensors[at].numel() <= producer.position:
        return math.nan
    value = tensors[at].reshape(-1)[producer.position]
    return float(value.abs()) if value.is_complex() else float(value)
