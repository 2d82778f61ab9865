"""Normalizations: batch, layer, group, RMS.

All of them compute x̂ = (x - μ) ρ over some set of elements, with ρ = 1/√(var + ε), and y = w x̂ + b. Through μ and ρ
every element of the set depends on every other, which gives (ĝ = w ȳ, means over the set)

    x̄ = ρ (ĝ - mean ĝ - x̂ mean(ĝ x̂))        w̄ = Σ ȳ x̂        b̄ = Σ ȳ

The kernels return μ and ρ too, and their backward kernels take them. Here both are treated as what they are: results
that can have adjoints of their own (``statistics``), and arguments on which the formula above depends. So the formula
can be differentiated again, without computing the statistics a second time. What a program makes of them is another
matter: autograd calls them constants (``constant_results.py``).
"""

from typing import Any

import torch

from memograd.rules.registry import expand, rule

aten = torch.ops.aten

FORMULA = "x̄ = ρ (ĝ - mean ĝ - x̂ mean(ĝ x̂)), w̄ = Σ ȳ x̂, b̄ = Σ ȳ, where ĝ = w ȳ"


def statistics(x, mean, rstd, mean_bar, rstd_bar, dims) -> Any:
    """The adjoint of x from those of μ and ρ: ∂μ/∂x = 1/n, ∂ρ/∂x = -ρ³ (x - μ)/n; None when both are None."""
    n = 1
    for dim in dims:
        n *= x.shape[dim]
    total = None
    if mean_bar is not None:
        total = (mean_bar / n).expand(x.shape)
    if rstd_bar is not None:
        # not rstd³, which leaves the range of half precision
        through_rstd = (x - mean) * rstd * (rstd_bar * rstd * rstd / -n)
        total = through_rstd if total is None else total + through_rstd
    return total


def normalized_backward(g_hat, x_hat, rstd, dims):
    """ρ (ĝ - mean ĝ - x̂ mean(ĝ x̂))."""
    return rstd * (g_hat - g_hat.mean(dims, keepdim=True) - x_hat * (g_hat * x_hat).mean(dims, keepdim=True))


def plus(a, b):
    """Sum of two contributions, either of which may be None."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


# -- layer norm --------------------------------------------------------------------------------------------------------


@rule(aten.native_layer_norm.default, formula=FORMULA)
def layer_norm(adjoint, y, x, normalized_shape, w, b, eps):
    g, mean_bar, rstd_bar = adjoint
    _, mean, rstd = y
    dims = _last(x, normalized_shape)
    x_bar = statistics(x, mean, rstd, mean_bar, rstd_bar, dims)
    if g is None:
        return x_bar
    mask = [True, w is not None, b is not None]
    through_y, w_bar, b_bar = aten.native_layer_norm_backward(g, x, normalized_shape, mean, rstd, w, b, mask)
    return plus(through_y, x_bar), None, w_bar, b_bar


@expand(aten.native_layer_norm_backward.default, formula=FORMULA)
def layer_norm_backward(g, x, normalized_shape, mean, rstd, w, b, mask):
    dims = _last(x, normalized_shape)
    outer = list(range(x.dim() - len(normalized_shape)))
    x_hat = (x - mean) * rstd
    x_bar = normalized_backward(g if w is None else g * w, x_hat, rstd, dims).to(x.dtype) if mask[0] else None
    w_bar = _as(w, _total(g * x_hat, outer)) if mask[1] else None
    b_bar = _total(g, outer) if mask[2] else None
    return x_bar, w_bar, b_bar


@rule(aten._fused_rms_norm.default, formula="x̄ = ρ (ĝ - x̂ mean(ĝ x̂)), w̄ = Σ ȳ x̂, where ĝ = w ȳ, x̂ = ρ x")
def rms_norm(adjoint, y, x, normalized_shape, w, eps):
    g, rstd_bar = adjoint
    rstd = y[1]
    x_bar = statistics(x, 0, rstd, None, rstd_bar, _last(x, normalized_shape))
    if g is None:
        return x_bar
    through_y, w_bar = aten._fused_rms_norm_backward(g, x, normalized_shape, rstd, w, [True, w is not None])
    return plus(through_y, x_bar), None, w_bar


@expand(aten._fused_rms_norm_backward.default, formula="x̄ = ρ (ĝ - x̂ mean(ĝ x̂)), w̄ = Σ ȳ x̂")
def rms_norm_backward(g, x, normalized_shape, rstd, w, mask):
    dims = _last(x, normalized_shape)
    outer = list(range(x.dim() - len(normalized_shape)))
    x_hat, g_hat = x * rstd, g if w is None else g * w
    x_bar = (rstd * (g_hat - x_hat * (g_hat * x_hat).mean(dims, keepdim=True))).to(x.dtype) if mask[0] else None
    return x_bar, _as(w, _total(g * x_hat, outer)) if mask[1] else None


# -- group norm --------------------------------------------------------------------------------------------------------


@rule(aten.native_group_norm.default, formula=FORMULA)
def group_norm(adjoint, y, x, w, b, n, c, hxw, group, eps):
    g, mean_bar, rstd_bar = adjoint
    _, mean, rstd = y
    if not x.numel():  # nothing to take a mean of
        return torch.zeros_like(x), *(None if p is None else torch.zeros_like(p) for p in (w, b))
    x_bar = None
    if mean_bar is not None or rstd_bar is not None:
        grouped, per_group = x.reshape(n, group, c // group * hxw), (n, group, 1)
        mean_bar, rstd_bar = (None if s is None else s.reshape(per_group) for s in (mean_bar, rstd_bar))
        mean_of, rstd_of = mean.reshape(per_group), rstd.reshape(per_group)
        x_bar = statistics(grouped, mean_of, rstd_of, mean_bar, rstd_bar, [2]).reshape(x.shape)
    if g is None:
        return x_bar
    mask = [True, w is not None, b is not None]
    through_y, w_bar, b_bar = aten.native_group_norm_backward(
        g.contiguous(), x.contiguous(), mean, rstd, w, n, c, hxw, group, mask
    )
    return plus(through_y, x_bar), w_bar, b_bar


@expand(aten.native_group_norm_backward.default, formula=FORMULA)
def group_norm_backward(g, x, mean, rstd, w, n, c, hxw, group, mask):
    grouped, per_group = (n, group, c // group, hxw), (n, group, 1, 1)
    rstd = rstd.reshape(per_group)
    x_hat = (x.reshape(grouped) - mean.reshape(per_group)) * rstd
    g_grouped = g.reshape(grouped)
    g_hat = g_grouped if w is None else g_grouped * w.reshape(1, group, -1, 1)
    x_bar = normalized_backward(g_hat, x_hat, rstd, [2, 3]).reshape(x.shape).to(x.dtype) if mask[0] else None
    w_bar = _as(w, (g_grouped * x_hat).sum([0, 3]).reshape(c)) if mask[1] else None
    b_bar = g_grouped.sum([0, 3]).reshape(c) if mask[2] else None
    return x_bar, w_bar, b_bar


# -- batch norm --------------------------------------------------------------------------------------------------------


@rule(
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_functional.default,
    aten._native_batch_norm_legit.default,
    formula=FORMULA + "; with running statistics: x̄ = w ρ ȳ",
)
def batch_norm(adjoint, y, x, w, b, running_mean, running_var, training, momentum, eps):
    return _batch_norm(adjoint, y, x, w, b, running_mean, running_var, training, eps)


@rule(aten._native_batch_norm_legit.no_stats, formula=FORMULA)
def batch_norm_no_stats(adjoint, y, x, w, b, training, momentum, eps):
    return _batch_norm(adjoint, y, x, w, b, None, None, training, eps)


@rule(aten._batch_norm_with_update_functional.default, formula=FORMULA)
def batch_norm_with_update(adjoint, y, x, w, b, running_mean, running_var, momentum, eps):
    return _batch_norm(adjoint, y, x, w, b, running_mean, running_var, True, eps)


@rule(aten._batch_norm_no_update.default, formula="x̄ = w ρ ȳ, w̄ = Σ ȳ x̂, b̄ = Σ ȳ")
def batch_norm_no_update(adjoint, y, x, w, b, running_mean, running_var, momentum, eps):
    return _batch_norm(adjoint, y, x, w, b, running_mean, running_var, False, eps)


@rule(aten._native_batch_norm_legit_no_training.default, formula="x̄ = w ρ ȳ, w̄ = Σ ȳ x̂, b̄ = Σ ȳ")
def batch_norm_no_training(adjoint, y, x, w, b, running_mean, running_var, momentum, eps):
    return _batch_norm(adjoint, y, x, w, b, running_mean, running_var, False, eps)


def _batch_norm(adjoint, y, x, w, b, running_mean, running_var, training, eps):
    """The adjoints of x, w, b. Those of the new running statistics, if asked for, are nothing, as in autograd."""
    g, mean_bar, rstd_bar = adjoint[:3]
    mean, rstd = y[1:3]
    x_bar = None
    if training:
        running_mean = running_var = None  # not part of the result
        mean_bar, rstd_bar = (None if s is None else _per_channel(s, x) for s in (mean_bar, rstd_bar))
        x_bar = statistics(x, _per_channel(mean, x), _per_channel(rstd, x), mean_bar, rstd_bar, _but_channel(x))
    if g is None:
        return x_bar
    mask = [True, w is not None, b is not None]
    through_y, w_bar, b_bar = aten.native_batch_norm_backward(
        g, x, w, running_mean, running_var, mean, rstd, training, eps, mask
    )
    return plus(through_y, x_bar), w_bar, b_bar


@expand(aten.native_batch_norm_backward.default, formula=FORMULA + "; with running statistics: x̄ = w ρ ȳ")
def batch_norm_backward(g, x, w, running_mean, running_var, mean, rstd, training, eps, mask):
    if not training:
        mean, rstd = running_mean, (running_var + eps).rsqrt()
    rstd = _per_channel(rstd, x)
    x_hat = (x - _per_channel(mean, x)) * rstd
    g_hat = g if w is None else g * _per_channel(w, x)
    x_bar = w_bar = b_bar = None
    if mask[0]:
        x_bar = normalized_backward(g_hat, x_hat, rstd, _but_channel(x)) if training else g_hat * rstd
        x_bar = x_bar.to(x.dtype)
    if mask[1]:
        w_bar = _as(w, (g * x_hat).sum(_but_channel(x)))
    if mask[2]:
        b_bar = g.sum(_but_channel(x))
    return x_bar, w_bar, b_bar


@rule(aten.cudnn_batch_norm.default, formula=FORMULA)
def cudnn_batch_norm(adjoint, y, x, w, b, running_mean, running_var, training, momentum, eps):
    if adjoint[0] is None or adjoint[1] is not None or adjoint[2] is not None or not training:
        return _batch_norm(adjoint, y, x, w, b, running_mean, running_var, training, eps)
    return aten.cudnn_batch_norm_backward(x, adjoint[0].contiguous(), w, None, None, y[1], y[2], eps, y[3])


@expand(aten.batch_norm_backward.default, formula=FORMULA + "; with running statistics: x̄ = w ρ ȳ")
def batch_norm_backward_of_either(g, x, w, running_mean, running_var, mean, rstd, update, eps, mask, reserve):
    return batch_norm_backward(g, x, w, running_mean, running_var, mean, rstd, update, eps, mask)


@expand(aten.cudnn_batch_norm_backward.default, formula=FORMULA)
def cudnn_batch_norm_backward(x, g, w, running_mean, running_var, mean, rstd, eps, reserve):
    return batch_norm_backward(g, x, w, None, None, mean, rstd, True, eps, [True, True, True])


@expand(aten.renorm.default, formula="y = x · c / (‖x‖ₚ + 1e-7) in every slice along dim with ‖x‖ₚ > c, else x")
def renorm(x, p, dim, maxnorm):
    others = [d for d in range(x.dim()) if d != dim % x.dim()]
    norm = torch.linalg.vector_norm(x, p, others, keepdim=True)
    return x * torch.where(norm > maxnorm, maxnorm / (norm + 1e-7), torch.ones_like(norm))


def _last(x, normalized_shape):
    return list(range(x.dim() - len(normalized_shape), x.dim()))


def _total(x, dims):
    return x.sum(dims) if dims else x


def _as(w, w_bar):
    """``w_bar`` in the dtype of ``w``."""
    return w_bar.to(w.dtype)


def _per_channel(s, x):
    return s.reshape(1, -1, *[1] * (x.dim() - 2))


def _but_channel(x):
    return [0, *range(2, x.dim())]
