"""What to write in the place of one operator, as a line of code and as a change of the graph."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from memograd.doctor.nan import repair, source
from memograd.doctor.nan.evidence import NORMS, SOLVERS, SPREADS
from memograd.doctor.nan.remedy import Remedy, line_of, on_operand, operator_of, with_option_at, with_options
from memograd.doctor.nan.replay import Step
from memograd.graph.bindings import name_of

Tensor = torch.Tensor


# Where an operand too near to an edge, or too large, is all there is to it: the method that keeps it away.
_CLAMPS: dict[str, str] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt", "pow", "float_power"), "clamp_min({eps})"),
    "log1p": "clamp_min(-1 + {eps})",
    **dict.fromkeys(("acos", "asin", "atanh", "erfinv"), "clamp(-1 + 1e-06, 1 - 1e-06)"),
    "acosh": "clamp_min(1 + 1e-06)",
    "logit": "clamp(1e-06, 1 - 1e-06)",
    **dict.fromkeys(("exp", "exp2", "expm1", "sinh", "cosh", "square"), "clamp_max(80.0)"),
}


def of_operator(step: Step, name: str, node: fx.Node) -> Iterator[Remedy]:
    """What helps where one operator of this name is at fault."""
    eps = _eps(node)
    if name in _CLAMPS:
        yield from _of_log(step, name, node)
        yield on_operand(step, node, _spellings(name), _CLAMPS[name].format(eps=eps))
    elif name in ("div", "true_divide"):
        yield on_operand(step, node, {"/", "div", "divide", "true_divide"}, f"clamp_min({eps})", 1)
        yield _away_from_zero(step, node, eps)
    elif name == "reciprocal":
        inverse = {"reciprocal"} if "reciprocal" in line_of(node).text else {"/"}
        yield on_operand(step, node, inverse, f"clamp_min({eps})", 0, int("/" in inverse))
    elif name in SOLVERS:
        yield _of_matrix(step, node)
    elif name in NORMS:
        yield _of_norm(step, node, eps)
    elif name in SPREADS:
        yield from _of_spread(step, name, node, eps)
    elif name.startswith("nll_loss"):
        yield from _of_labels(step, node)
    elif name == "_ctc_loss":
        yield _of_ctc(step, node)
    elif name == "mul":
        yield from _of_product(step, node)
    elif name == "atan2":
        yield _of_atan2(step, node, eps)
    elif name == "_fused_rms_norm" or name.startswith("native_"):
        yield from _of_eps(step, node)
    elif name in ("xlogy", "kl_div", "binary_cross_entropy"):
        yield Remedy("labels must be probabilities: between 0 and 1")
    elif name == "mean":
        yield Remedy("x.sum() / max(x.numel(), 1)  # or leave a batch without any such element out")


def _spellings(name: str) -> set[str]:
    """How a program may write an operator."""
    if name in ("pow", "float_power"):
        return {"pow", "**"}
    inverse = name in ("acos", "asin", "atanh", "acosh", "erfinv")
    return {name, f"arc{name[1:]}"} if inverse else {name}


def _eps(node: fx.Node) -> str:
    dtype = getattr(node.meta["val"], "dtype", torch.float32)
    return {torch.float16: "0.0001", torch.float64: "1e-12"}.get(dtype, "1e-08")


def _of_log(step: Step, name: str, node: fx.Node) -> Iterator[Remedy]:
    """The logarithm of a softmax or sigmoid has a stable form of its own."""
    inner: Any = node.args[0]
    if name != "log" or not isinstance(inner, fx.Node) or inner.op != "call_function":
        return
    before = name_of(inner.target) if not isinstance(inner.target, str) else ""
    line = line_of(node)
    if before == "_softmax":
        logits, dim = inner.args[0], inner.args[1]
        code = _stable(line, "softmax", "torch.log_softmax({x}, {d})") or (
            f"torch.log_softmax(z, {dim}) in place of the logarithm of softmax(z, {dim})"
        )

        def changed(others: list[Tensor], x: Tensor) -> Tensor:
            return torch.log_softmax(others[0], dim)  # pyright: ignore[reportArgumentType]

        if isinstance(logits, fx.Node):
            yield Remedy(code, lambda: repair.with_operator(step, node, changed, (logits,)))
    elif before == "sigmoid":
        logits = inner.args[0]
        code = _stable(line, "sigmoid", "torch.nn.functional.logsigmoid({x})") or (
            "torch.nn.functional.logsigmoid(z) in place of the logarithm of sigmoid(z)"
        )

        def logsigmoid(others: list[Tensor], x: Tensor) -> Tensor:
            return -torch.nn.functional.softplus(-others[0])

        if isinstance(logits, fx.Node):
            yield Remedy(code, lambda: repair.with_operator(step, node, logsigmoid, (logits,)))


def _stable(line: source.Line, inner: str, form: str) -> str | None:
    """``line`` with log(inner(x)) replaced."""

    def change(node: Any) -> Any:
        call = source.operand(node)
        if call is None or source.called(call) != inner:
            return None
        x, dim = source.operand(call), source.operand(call, 1)
        keywords = {k.arg: k.value for k in getattr(call, "keywords", ())}
        dim = dim if dim is not None else keywords.get("dim")
        if x is None:
            return None
        return source.parsed(form.format(x=ast.unparse(x), d=ast.unparse(dim) if dim is not None else -1))

    return source.edited(line, {"log"}, change)


def _away_from_zero(step: Step, node: fx.Node, eps: str) -> Remedy:
    """A divisor that may be negative, too."""

    def changed(x: Any, y: Any, **kwargs: Any) -> Any:
        return operator_of(node)(x, torch.where(y == 0, float(eps), y), **kwargs)

    divisor = source.argument(line_of(node), {"/", "div", "divide", "true_divide"}, 1) or "y"
    code = f"{divisor} = torch.where({divisor} == 0, {eps}, {divisor})  # before the division"
    return Remedy(code, lambda: repair.with_operator(step, node, changed))


def _of_norm(step: Step, node: fx.Node, eps: str) -> Remedy:
    def changed(x: Tensor, order: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
        return (x.square().sum(dim, keepdim) + float(eps)).sqrt()

    x = source.argument(line_of(node), {"norm", "vector_norm", "pairwise_distance", "cdist"}, 0) or "x"
    dim = node.args[2] if len(node.args) > 2 else None
    dims = dim[0] if isinstance(dim, (list, tuple)) and len(dim) == 1 else dim
    code = f"({x}.square().sum({'' if dims is None else dims}) + {eps}).sqrt()  # in place of the norm"
    return Remedy(code, lambda: repair.with_operator(step, node, changed))


def _of_spread(step: Step, name: str, node: fx.Node, eps: str) -> Iterator[Remedy]:
    line = line_of(node)

    def biased(call: Any) -> Any:
        call.keywords = [k for k in call.keywords if k.arg not in ("unbiased", "correction")]
        call.keywords.append(ast.keyword("correction", ast.Constant(0)))
        return call

    code = source.edited(line, {name}, biased) or f"{name}(..., correction=0)"
    yield with_options(step, node, code, correction=0)

    def rooted(x: Tensor, dim: Any = None, **kwargs: Any) -> Tensor:
        return (torch.var(x, dim, correction=0, keepdim=kwargs.get("keepdim", False)) + float(eps)).sqrt()

    if name == "std":
        x = source.argument(line, {"std"}, 0) or "x"
        dim = node.args[1] if len(node.args) > 1 else None
        dims = dim[0] if isinstance(dim, (list, tuple)) and len(dim) == 1 else dim
        code = f"({x}.var({'' if dims is None else f'{dims}, '}correction=0) + {eps}).sqrt()  # in place of the std"
        yield Remedy(code, lambda: repair.with_operator(step, node, rooted))


def _of_labels(step: Step, node: fx.Node) -> Iterator[Remedy]:
    """A mean over labels that are all ignored."""
    args: Any = node.args
    ignored = args[4] if len(args) > 4 else -100
    code = f"F.cross_entropy(x, y, reduction='sum') / (y != {ignored}).sum().clamp_min(1)"

    def changed(x: Tensor, target: Tensor, weight: Any, reduction: int, ignore: int) -> Any:
        total, weights = operator_of(node)(x, target, weight, 2, ignore)
        return total / weights.clamp_min(1), weights

    yield Remedy(code, lambda: repair.with_operator(step, node, changed))


def _of_eps(step: Step, node: fx.Node) -> Iterator[Remedy]:
    args: Any = node.args
    at = [k for k, a in enumerate(args) if isinstance(a, float)]
    if at:
        yield with_option_at(step, node, "eps=1e-5 in the normalization", at[-1], 1e-5)


def _of_matrix(step: Step, node: fx.Node) -> Remedy:
    """Something on the diagonal of a matrix that has no inverse."""

    def changed(matrix: Tensor, *args: Any, **kwargs: Any) -> Any:
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return operator_of(node)(matrix + 1e-4 * eye, *args, **kwargs)

    code = "A = A + 1e-4 * torch.eye(A.shape[-1])  # before its inverse, determinant or factorization is asked for"
    return Remedy(code, lambda: repair.with_operator(step, node, changed))


def _of_ctc(step: Step, node: fx.Node) -> Remedy:
    def changed(*args: Any, **_: Any) -> Any:
        loss, alpha = operator_of(node)(*args[:4], args[4] if len(args) > 4 else 0, True)
        return torch.where(loss == torch.inf, 0.0, loss), alpha

    def ignoring(call: Any) -> Any:
        call.keywords.append(ast.keyword("zero_infinity", ast.Constant(True)))
        return call

    code = source.edited(line_of(node), {"ctc_loss"}, ignoring) or "torch.nn.CTCLoss(zero_infinity=True)"
    return Remedy(code, lambda: repair.with_operator(step, node, changed))


def _of_product(step: Step, node: fx.Node) -> Iterator[Remedy]:
    """A mask times infinity."""
    factor: Any = node.args[1]
    if not (isinstance(factor, float) and math.isinf(factor)):
        return

    def changed(x: Tensor, y: float) -> Tensor:
        return torch.where(x == 0, 0.0, y)

    def chosen(product: Any) -> Any:
        return source.parsed(f"torch.where({ast.unparse(product.left)} == 0, 0.0, {ast.unparse(product.right)})")

    code = source.edited(line_of(node), {"*"}, chosen) or f"torch.where(mask == 0, 0.0, {factor})"
    yield Remedy(code, lambda: repair.with_operator(step, node, changed))


def _of_atan2(step: Step, node: fx.Node, eps: str) -> Remedy:
    def changed(y: Tensor, x: Tensor) -> Tensor:
        return torch.atan2(y, torch.where((x == 0) & (y == 0), float(eps), x))

    y, x = (source.argument(line_of(node), {"atan2", "arctan2"}, k) or name for k, name in enumerate("yx"))
    code = f"torch.atan2({y}, torch.where(({x} == 0) & ({y} == 0), {eps}, {x}))"
    return Remedy(code, lambda: repair.with_operator(step, node, changed))
