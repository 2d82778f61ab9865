"""Elementwise operators as C expressions of one element.

In a formula ``{a}``, ``{b}``, ``{c}`` are the operands, ``T`` is the C type, and ``@exp`` the function of that type.
Operands are cast to the dtype the operator computes in before they are put in.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from memograd._torch import schema_of
from memograd.errors import BackendError
from memograd.run.native.emit import Builder, kernel
from memograd.run.native.values import FLOATS, Const, Lazy, Value, cast, formula

aten = torch.ops.aten

UNARY = {
    "neg": "-{a}",
    "abs": "({a} < 0 ? -{a} : {a} + (T)0)",
    "sgn sign": "(T)(({a} > 0) - ({a} < 0))",
    "reciprocal": "(T)1 / {a}",
    "exp": "@exp({a})",
    "exp2": "@exp2({a})",
    "expm1": "@expm1({a})",
    "log": "@log({a})",
    "log2": "@log2({a})",
    "log10": "@log10({a})",
    "log1p": "@log1p({a})",
    "sqrt": "@sqrt({a})",
    "rsqrt": "(T)1 / @sqrt({a})",
    "sin": "@sin({a})",
    "cos": "@cos({a})",
    "tan": "@tan({a})",
    "asin": "@asin({a})",
    "acos": "@acos({a})",
    "atan": "@atan({a})",
    "sinh": "@sinh({a})",
    "cosh": "@cosh({a})",
    "tanh": "@tanh({a})",
    "erf": "@erf({a})",
    "erfc": "@erfc({a})",
    "floor": "@floor({a})",
    "ceil": "@ceil({a})",
    "trunc": "@trunc({a})",
    "round": "@rint({a})",
    "relu": "({a} < 0 ? (T)0 : {a})",  # a NaN stays
    "sigmoid": "(T)1 / ((T)1 + @exp(-{a}))",
    "silu": "{a} / ((T)1 + @exp(-{a}))",
    "square": "{a} * {a}",
}
FLOAT_ONLY = set(UNARY) - {"neg", "abs", "sgn sign", "relu", "square"}

# The result has the dtype the operator computes in; names with several overloads (Tensor, Scalar) are all entered.
BINARY = {
    "mul": "{a} * {b}",
    "div true_divide": "{a} / {b}",
    "maximum": "({a} != {a} || {a} > {b} ? {a} : {b})",
    "minimum": "({a} != {a} || {a} < {b} ? {a} : {b})",
    "atan2": "@atan2({a}, {b})",
    "fmod": "@fmod({a}, {b})",
    "sigmoid_backward": "{a} * ((T)1 - {b}) * {b}",
    "tanh_backward": "{a} * ((T)1 - {b} * {b})",
    "silu_backward": "{a} * (((T)1 / ((T)1 + @exp(-{b}))) * ((T)1 + {b} * ((T)1 - (T)1 / ((T)1 + @exp(-{b})))))",
    "bitwise_and": "({a} & {b})",
    "bitwise_or": "({a} | {b})",
    "bitwise_xor": "({a} ^ {b})",
}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
LOGICAL = {"logical_and": "({a} != 0) && ({b} != 0)", "logical_or": "({a} != 0) || ({b} != 0)",
           "logical_xor": "({a} != 0) != ({b} != 0)"}  # fmt: skip


def overloads(name: str) -> list[Any]:
    """The functional overloads of an operator."""
    packet = getattr(aten, name)
    return [op for o in packet.overloads() if not schema_of(op := getattr(packet, o)).is_mutable]


def operand(value: Any, dtype: torch.dtype) -> Value:
    """A tensor operand as it is, a Python number as a constant."""
    return value if isinstance(value, Value) else Const((), dtype, value)


def build(b: Builder, node: fx.Node, compute: torch.dtype, text: str, *operands: Any) -> Lazy:
    """The formula ``text`` computed in dtype ``compute``, of the shape and dtype the node has."""
    value = node.meta["val"]
    write = formula(text, compute)
    values = [operand(o, compute) for o in operands]
    if value.dtype == compute or value.dtype == torch.bool:
        return b.lazy(value.shape, value.dtype, compute, write, *values)
    return b.lazy(value.shape, value.dtype, compute, lambda *a: cast(write(*a), compute, value.dtype), *values)


def pointwise(b: Builder, node: fx.Node, text: str, *operands: Any) -> Lazy:
    """A formula computed in the dtype of its result."""
    return build(b, node, node.meta["val"].dtype, text, *operands)


def promoted(node: fx.Node) -> torch.dtype:
    """The dtype in which a comparison compares."""
    operands: Any = node.args[:2]
    left, right = (a.meta["val"] if isinstance(a, fx.Node) else a for a in operands)
    return torch.result_type(left, right)


def _enter_tables() -> None:
    for names, text in UNARY.items():
        for name in names.split():
            kernel(getattr(aten, name).default)(_unary(text, names in FLOAT_ONLY))
    for names, text in BINARY.items():
        for name in names.split():
            kernel(*(op for op in overloads(name) if len(schema_of(op).arguments) == 2))(_binary(text))
    for name, sign in COMPARE.items():
        kernel(*overloads(name))(_compare(sign))
    for name, text in LOGICAL.items():
        kernel(getattr(aten, name).default)(
            lambda b, node, x, y, text=text: b.lazy(
                node.meta["val"].shape, torch.bool, None, formula(text, torch.bool), x, y
            )
        )


def _unary(text: str, floats: bool) -> Any:
    def emit(b: Builder, node: fx.Node, x: Any) -> Lazy:
        if floats and node.meta["val"].dtype not in FLOATS:
            raise BackendError(f"the native backend computes {node.target} of floating-point numbers only")
        return pointwise(b, node, text, x)

    return emit


def _binary(text: str) -> Any:
    return lambda b, node, x, y: pointwise(b, node, text, x, y)


def _compare(sign: str) -> Any:
    return lambda b, node, x, y: build(b, node, promoted(node), "{a} " + sign + " {b}", x, y)


_enter_tables()


@kernel(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar, aten.rsub.Tensor)
def add(b: Builder, node: fx.Node, x: Any, y: Any, alpha: Any = 1) -> Lazy:
    target: Any = node.target
    name = schema_of(target).name
    if name == "aten::rsub":
        x, y = y, x
    sign = "+" if name == "aten::add" else "-"
    if alpha == 1:
        return pointwise(b, node, "{a} " + sign + " {b}", x, y)
    if name == "aten::rsub":
        return pointwise(b, node, "{a} - {c} * {b}", x, y, alpha)
    return pointwise(b, node, "{a} " + sign + " {c} * {b}", x, y, alpha)


@kernel(aten.pow.Tensor_Scalar)
def power(b: Builder, node: fx.Node, x: Value, exponent: Any) -> Lazy:
    simple = {0: "(T)1", 1: "{a}", 2: "{a} * {a}", 3: "{a} * {a} * {a}"}
    real = {0.5: "@sqrt({a})", -0.5: "(T)1 / @sqrt({a})", -1: "(T)1 / {a}", -2: "(T)1 / ({a} * {a})"}
    text = simple.get(exponent) or (real.get(exponent) if node.meta["val"].dtype in FLOATS else None)
    return pointwise(b, node, text, x) if text else power_of(b, node, x, exponent)


@kernel(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def power_of(b: Builder, node: fx.Node, x: Any, exponent: Any) -> Lazy:
    if node.meta["val"].dtype not in FLOATS:
        raise BackendError("the native backend raises integers to the powers 0, 1, 2 and 3 only")
    return pointwise(b, node, "@pow({a}, {b})", x, exponent)


@kernel(aten.logical_not.default)
def logical_not(b: Builder, node: fx.Node, x: Value) -> Lazy:
    return b.lazy(x.shape, torch.bool, None, formula("{a} == 0", torch.bool), x)


@kernel(aten.bitwise_not.default)
def bitwise_not(b: Builder, node: fx.Node, x: Value) -> Lazy:
    return pointwise(b, node, "!{a}" if x.dtype == torch.bool else "~{a}", x)


@kernel(aten.isnan.default)
def isnan(b: Builder, node: fx.Node, x: Value) -> Lazy:
    return b.lazy(x.shape, torch.bool, None, formula("{a} != {a}", x.dtype), x)


@kernel(aten.threshold_backward.default)
def threshold_backward(b: Builder, node: fx.Node, grad: Value, x: Value, threshold: Any) -> Lazy:
    return pointwise(b, node, "({b} <= {c} ? (T)0 : {a})", grad, x, threshold)


@kernel(aten.clamp.default, aten.clamp.Tensor, aten.hardtanh.default)
def clamp(b: Builder, node: fx.Node, x: Value, low: Any = None, high: Any = None) -> Lazy:
    if node.target is aten.hardtanh.default:
        low, high = -1 if low is None else low, 1 if high is None else high
    if high is None:
        return clamp_min(b, node, x, low)
    if low is None:
        return clamp_max(b, node, x, high)
    return pointwise(b, node, "({a} != {a} ? {a} : (({a} < {b} ? {b} : {a}) > {c} ? {c} : ({a} < {b} ? {b} : {a})))",
                     x, low, high)  # fmt: skip


@kernel(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(b: Builder, node: fx.Node, x: Value, low: Any) -> Lazy:
    return pointwise(b, node, "({b} != {b} || {a} < {b} ? {b} : {a})", x, low)


@kernel(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(b: Builder, node: fx.Node, x: Value, high: Any) -> Lazy:
    return pointwise(b, node, "({b} != {b} || {a} > {b} ? {b} : {a})", x, high)


@kernel(aten.where.self, aten.where.Scalar, aten.where.ScalarSelf, aten.where.ScalarOther)
def where(b: Builder, node: fx.Node, condition: Value, x: Any, y: Any) -> Lazy:
    value = node.meta["val"]
    dtype = value.dtype
    x, y = operand(x, dtype), operand(y, dtype)

    def write(c: str, p: str, q: str) -> str:
        return f"{c} ? {cast(p, x.dtype, dtype)} : {cast(q, y.dtype, dtype)}"

    return b.lazy(value.shape, dtype, None, write, condition, x, y)


@kernel(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(b: Builder, node: fx.Node, x: Value, mask: Value, number: Any) -> Lazy:
    return where(b, node, mask, number, x)


@kernel(aten.addcmul.default)
def addcmul(b: Builder, node: fx.Node, x: Value, y: Value, z: Value, value: Any = 1) -> Lazy:
    return pointwise(b, node, "{a} + {d} * {b} * {c}", x, y, z, value)


@kernel(aten.addcdiv.default)
def addcdiv(b: Builder, node: fx.Node, x: Value, y: Value, z: Value, value: Any = 1) -> Lazy:
    return pointwise(b, node, "{a} + {d} * {b} / {c}", x, y, z, value)


@kernel(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(b: Builder, node: fx.Node, x: Value, end: Value, weight: Any) -> Lazy:
    text = "(({c} < 0 ? -{c} : {c}) < (T)0.5 ? {a} + {c} * ({b} - {a}) : {b} - ({b} - {a}) * ((T)1 - {c}))"
    return pointwise(b, node, text, x, end, weight)


@kernel(aten.softplus.default)
def softplus(b: Builder, node: fx.Node, x: Value, beta: Any = 1, threshold: Any = 20) -> Lazy:
    return pointwise(b, node, "({a} * {b} > {c} ? {a} : @log1p(@exp({a} * {b})) / {b})", x, beta, threshold)


@kernel(aten.softplus_backward.default)
def softplus_backward(b: Builder, node: fx.Node, grad: Value, x: Value, beta: Any, threshold: Any) -> Lazy:
    return pointwise(b, node, "({b} * {c} > {d} ? {a} : {a} / ((T)1 + @exp(-{b} * {c})))", grad, x, beta, threshold)


@kernel(aten.leaky_relu.default)
def leaky_relu(b: Builder, node: fx.Node, x: Value, slope: Any = 0.01) -> Lazy:
    return pointwise(b, node, "({a} > 0 ? {a} : {a} * {b})", x, slope)


@kernel(aten.leaky_relu_backward.default)
def leaky_relu_backward(b: Builder, node: fx.Node, grad: Value, x: Value, slope: Any, is_result: bool) -> Lazy:
    return pointwise(b, node, "({b} > 0 ? {a} : {a} * {c})", grad, x, slope)


@kernel(aten.gelu.default)
def gelu(b: Builder, node: fx.Node, x: Value, approximate: str = "none") -> Lazy:
    if approximate == "tanh":
        inner = f"(T){math.sqrt(2 / math.pi)!r} * ({{a}} + (T)0.044715 * {{a}} * {{a}} * {{a}})"
        return pointwise(b, node, f"(T)0.5 * {{a}} * ((T)1 + @tanh({inner}))", x)
    return pointwise(b, node, f"{{a}} * (T)0.5 * ((T)1 + @erf({{a}} * (T){math.sqrt(0.5)!r}))", x)


@kernel(aten.gelu_backward.default)
def gelu_backward(b: Builder, node: fx.Node, grad: Value, x: Value, approximate: str = "none") -> Lazy:
    if approximate == "tanh":
        beta = f"(T){math.sqrt(2 / math.pi)!r}"
        tanh = f"@tanh({beta} * ({{b}} + (T)0.044715 * {{b}} * {{b}} * {{b}}))"
        slope = f"{beta} * ((T)1 + (T)0.134145 * {{b}} * {{b}})"
        return pointwise(b, node, f"{{a}} * ((T)0.5 * ((T)1 + {tanh}) + (T)0.5 * {{b}} * ((T)1 - {tanh} * {tanh})"
                                  f" * {slope})", grad, x)  # fmt: skip
    cdf = f"(T)0.5 * ((T)1 + @erf({{b}} * (T){math.sqrt(0.5)!r}))"
    pdf = f"(T){1 / math.sqrt(2 * math.pi)!r} * @exp({{b}} * {{b}} * (T)-0.5)"
    return pointwise(b, node, f"{{a}} * ({cdf} + {{b}} * {pdf})", grad, x)


@kernel(aten.log_sigmoid_forward.default)
def log_sigmoid_forward(b: Builder, node: fx.Node, x: Value) -> tuple[Lazy, None]:
    text = formula("({a} < 0 ? {a} : (T)0) - @log1p(@exp(-@fabs({a})))", x.dtype)
    return b.lazy(x.shape, x.dtype, x.dtype, text, x), None
