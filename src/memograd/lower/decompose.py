"""Operators taken apart where their parts can be kept, computed again or fused one by one.

* Batch normalization: the statistics are a few numbers, and with them the normalized values are one cheap pass.
* Layer normalization in half precision: its statistics have another dtype than PyTorch says.
* Zeros and ones of dropout are drawn as booleans: a quarter of the bytes wait for the backward pass. The draws are the
  same, which is asked of the generator before it is relied on.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from memograd import ops
from memograd._torch import without_modes
from memograd.draws import same_draws
from memograd.graph.graph import Graph
from memograd.lower.retrace import retrace

aten = torch.ops.aten


def parts(graph: Graph) -> Graph:
    """``graph``, lowered, with these operators taken apart."""
    return retrace(graph, REPLACED)


def _batch_norm(x: Any, w: Any, b: Any, running_mean: Any, running_var: Any, training: bool, momentum: Any, eps: Any):
    if not training:
        return aten._native_batch_norm_legit_functional(x, w, b, running_mean, running_var, training, momentum, eps)
    wide = _wide(x)
    over = [0, *range(2, x.dim())]
    var, mean = aten.var_mean.correction(wide, over, correction=0)
    rstd = (var + eps).rsqrt()
    y = (wide - _per_channel(mean, x)) * _per_channel(rstd, x)
    y = y if w is None else y * _per_channel(w, x)
    y = y if b is None else y + _per_channel(b, x)
    count = x.numel() // x.shape[1]
    new_mean = running_mean * (1 - momentum) + mean * momentum
    new_var = running_var * (1 - momentum) + var * (momentum * count / max(count - 1, 1))
    return y.to(x.dtype), mean, rstd, new_mean.to(running_mean.dtype), new_var.to(running_var.dtype)


def _batch_norm_backward(
    g: Any,
    x: Any,
    w: Any,
    running_mean: Any,
    running_var: Any,
    mean: Any,
    rstd: Any,
    training: bool,
    eps: Any,
    mask: Any,
):
    """x̄ = w ρ (ȳ - Σȳ/n - x̂ Σ(ȳ x̂)/n), w̄ = Σ ȳ x̂, b̄ = Σ ȳ: two small sums and a pass."""
    if not training:
        return aten.native_batch_norm_backward(g, x, w, running_mean, running_var, mean, rstd, training, eps, mask)
    over, count = [0, *range(2, x.dim())], x.numel() // x.shape[1]
    wide = _wide(g)
    x_hat = (_wide(x) - _per_channel(mean, x)) * _per_channel(rstd, x)
    b_bar, w_bar = wide.sum(over), (wide * x_hat).sum(over)
    scale = rstd if w is None else rstd * w
    centered = wide - _per_channel(b_bar / count, x) - x_hat * _per_channel(w_bar / count, x)
    x_bar = (centered * _per_channel(scale, x)).to(x.dtype) if mask[0] else None
    dtype = mean.dtype if w is None else w.dtype
    return x_bar, w_bar.to(dtype) if mask[1] else None, b_bar.to(dtype) if mask[2] else None


def _layer_norm(x: Any, shape: list[int], w: Any, b: Any, eps: float) -> Any:
    """In half precision the statistics are kept in single, of which PyTorch's shape functions know nothing."""
    if x.dtype == (wide := _wide(x)).dtype:
        return aten.native_layer_norm(x, shape, w, b, eps)
    var, mean = aten.var_mean.correction(wide, list(range(x.dim() - len(shape), x.dim())), correction=0, keepdim=True)
    rstd = (var + eps).rsqrt()
    y = (wide - mean) * rstd
    y = y if w is None else y * w
    y = y if b is None else y + b
    return y.to(x.dtype), mean, rstd


def _layer_norm_backward(
    g: Any, x: Any, shape: list[int], mean: Any, rstd: Any, w: Any, b: Any, mask: list[bool]
) -> Any:
    """x̄ = ρ (ĝ - mean ĝ - x̂ mean(ĝ x̂)) with ĝ = ȳ w, w̄ = Σ ȳ x̂, b̄ = Σ ȳ."""
    if x.dtype == (wide := _wide(x)).dtype:
        return aten.native_layer_norm_backward(g, x, shape, mean, rstd, w, b, mask)
    inner = list(range(x.dim() - len(shape), x.dim()))
    outer = list(range(x.dim() - len(shape)))
    wide_g, x_hat = _wide(g), (wide - mean) * rstd
    g_hat = wide_g if w is None else wide_g * w
    through = g_hat - g_hat.mean(inner, True) - x_hat * (g_hat * x_hat).mean(inner, True)
    x_bar = (rstd * through).to(x.dtype) if mask[0] else None
    w_bar = (wide_g * x_hat).sum(outer).to(w.dtype) if w is not None and mask[1] else None
    b_bar = wide_g.sum(outer).to(b.dtype) if b is not None and mask[2] else None
    return x_bar, w_bar, b_bar


def _bernoulli(like: Any, p: float) -> Any:
    if not _draws_alike(like.dtype, str(like.device)):
        return ops.bernoulli(like, p)
    return ops.bernoulli(torch.empty_like(like, dtype=torch.bool), p).to(like.dtype)


def _full_like(value: float) -> Any:
    """Constants of a given form: nobody has to keep the tensor whose form it is."""

    def replaced(like: Any, **options: Any) -> Any:
        if not like.is_contiguous() or options.get("memory_format") not in (None, torch.preserve_format):
            return (aten.ones_like if value else aten.zeros_like)(like, **options)
        return aten.full(like.shape, value, dtype=options.get("dtype") or like.dtype, device=like.device)

    return replaced


@lru_cache
def _draws_alike(dtype: torch.dtype, device: str) -> bool:
    """Whether booleans are drawn as numbers of ``dtype`` are."""
    with without_modes(), same_draws():
        drawn = []
        for kind in (dtype, torch.bool):
            torch.manual_seed(0)
            drawn.append(torch.empty(5003, dtype=kind, device=device).bernoulli_(0.3).to(torch.bool))
        return torch.equal(*drawn)


def _wide(x: Any) -> Any:
    """``x`` in the precision in which PyTorch's kernels sum: at least single."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _per_channel(s: Any, x: Any) -> Any:
    return s.reshape(1, -1, *[1] * (x.dim() - 2))


REPLACED = {
    aten._native_batch_norm_legit_functional.default: _batch_norm,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    ops.bernoulli: _bernoulli,
    aten.zeros_like.default: _full_like(0),
    aten.ones_like.default: _full_like(1),
}
