"""Scaled dot-product attention: y = P v with P = softmax(s q kᵀ + mask).

The fused kernels never store P; their backward kernels compute it again from the logarithm of its normalizer. For a
second derivative those kernels are restated with P written out:

    v̄ = Pᵀ ȳ,  P̄ = ȳ vᵀ,  S̄ = P (P̄ - Σ P̄ P),  q̄ = s S̄ k,  k̄ = s S̄ᵀ q
"""

import torch

from memograd.errors import NotDifferentiableError
from memograd.rules.registry import expand, rule

aten = torch.ops.aten

FORMULA = "P = softmax(s q kᵀ + m): v̄ = Pᵀ ȳ, S̄ = P (P̄ - Σ P̄ P) with P̄ = ȳ vᵀ, q̄ = s S̄ k, k̄ = s S̄ᵀ q"


@rule(aten._scaled_dot_product_flash_attention_for_cpu.default, formula=FORMULA)
def flash_for_cpu(adjoint, y, q, k, v, dropout_p=0.0, is_causal=False, attn_mask=None, scale=None):
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(
        adjoint[0], q, k, v, y[0], y[1], dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )


@expand(aten._scaled_dot_product_flash_attention_for_cpu_backward.default, formula=FORMULA)
def flash_for_cpu_backward(g, q, k, v, out, logsumexp, dropout_p, is_causal, attn_mask=None, scale=None):
    return attention_backward(g, q, k, v, attn_mask, dropout_p, is_causal, scale)[:3]


@rule(aten._scaled_dot_product_efficient_attention.default, formula=FORMULA)
def efficient(adjoint, y, q, k, v, attn_bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, scale=None):
    out, logsumexp, seed, offset = y
    mask = [True, True, True, attn_bias is not None]
    q_bar, k_bar, v_bar, bias_bar = aten._scaled_dot_product_efficient_attention_backward(
        adjoint[0], q, k, v, attn_bias, out, logsumexp, seed, offset, dropout_p, mask, is_causal, scale=scale
    )
    return q_bar, k_bar, v_bar, bias_bar if attn_bias is not None else None


@expand(aten._scaled_dot_product_efficient_attention_backward.default, formula=FORMULA)
def efficient_backward(g, q, k, v, bias, out, logsumexp, seed, offset, dropout_p, mask, is_causal=False, scale=None):
    q_bar, k_bar, v_bar, s_bar = attention_backward(g, q, k, v, bias, dropout_p, is_causal, scale)
    return q_bar, k_bar, v_bar, s_bar if mask[3] else None


@rule(aten._scaled_dot_product_flash_attention.default, formula=FORMULA)
def flash(adjoint, y, q, k, v, dropout_p=0.0, is_causal=False, return_debug_mask=False, scale=None):
    out, logsumexp, cum_q, cum_k, _, _, seed, offset, _ = y
    lengths = (q.shape[-2], k.shape[-2])
    return aten._scaled_dot_product_flash_attention_backward(
        adjoint[0], q, k, v, out, logsumexp, cum_q, cum_k, *lengths, dropout_p, is_causal, seed, offset, scale=scale
    )


@expand(aten._scaled_dot_product_flash_attention_backward.default, formula=FORMULA)
def flash_backward(
    g, q, k, v, out, logsumexp, cum_q, cum_k, max_q, max_k, dropout_p, is_causal, seed, offset, scale=None
):
    return attention_backward(g, q, k, v, None, dropout_p, is_causal, scale)[:3]


@rule(aten._scaled_dot_product_cudnn_attention.default, formula=FORMULA)
def cudnn(
    adjoint,
    y,
    q,
    k,
    v,
    attn_bias,
    compute_log_sumexp,
    dropout_p=0.0,
    is_causal=False,
    return_debug_mask=False,
    scale=None,
):
    out, logsumexp, cum_q, cum_k, _, _, seed, offset, _ = y
    rest = (attn_bias, cum_q, cum_k, q.shape[-2], k.shape[-2], dropout_p, is_causal)
    return aten._scaled_dot_product_cudnn_attention_backward(
        adjoint[0], q, k, v, out, logsumexp, seed, offset, *rest, scale=scale
    )


@expand(aten._scaled_dot_product_cudnn_attention_backward.default, formula=FORMULA)
def cudnn_backward(
    g, q, k, v, out, logsumexp, seed, offset, bias, cum_q, cum_k, max_q, max_k, dropout_p, is_causal, scale=None
):
    return attention_backward(g, q, k, v, bias, dropout_p, is_causal, scale)[:3]


def attention_backward(g, q, k, v, mask, dropout_p, is_causal, scale):
    """(q̄, k̄, v̄, S̄) with the probabilities written out."""
    if dropout_p:
        raise NotDifferentiableError(
            "attention with dropout inside its kernel cannot be differentiated twice: the kernel does not say which "
            "probabilities it dropped; use dropout_p=0, or torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = q @ k.mT * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    p = scores.softmax(-1)
    p_bar = g @ v.mT
    s_bar = p * (p_bar - (p_bar * p).sum(-1, keepdim=True))
    return s_bar @ k * scale, s_bar.mT @ q * scale, p.mT @ g, s_bar
