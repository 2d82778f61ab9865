"""Attention against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, double, randn
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Q, K = (2, 3, 5, 4), (2, 3, 6, 4)


def causal(length, width):
    return torch.ones(length, width, dtype=torch.bool).tril()


CASES = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "boolean mask": {"attn_mask": causal(5, 6)},
    "additive mask": {"attn_mask": torch.randn(5, 6, dtype=torch.float64)},
}


@pytest.mark.parametrize("name", CASES)
def test_scaled_dot_products_have_the_gradients_of_autograd(name):
    check(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **CASES[name]), randn(*Q), randn(*K), randn(*K))


@pytest.mark.parametrize("name", CASES)
def test_sdpa_second_order(name):
    def f(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, **CASES[name]).sin()

    def reference(q, k, v):  # autograd does not differentiate the fused kernel twice
        with sdpa_kernel(SDPBackend.MATH):
            return f(q, k, v)

    check_second(f, randn(*Q), randn(*K), randn(*K), reference=reference)


def test_fused_kernel_is_used():
    graph = check(F.scaled_dot_product_attention, randn(*Q), randn(*K), randn(*K))
    assert any("flash_attention_for_cpu_backward" in str(n.target) for n in graph.nodes)


def test_learned_mask_and_grouped_queries():
    check(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), randn(*Q), randn(*K), randn(*K), randn(5, 6))
    q, k = randn(2, 6, 5, 4), randn(2, 3, 5, 4)
    check(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), q, k, k + 1)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_has_the_gradients_of_autograd(need_weights, batch_first):
    module = double(nn.MultiheadAttention(8, 2, batch_first=batch_first))
    check(lambda x: module(x, x, x, need_weights=need_weights), randn(3, 4, 8))


def test_multihead_cross_and_bias():
    module = double(nn.MultiheadAttention(8, 2, kdim=6, vdim=5, add_bias_kv=True, add_zero_attn=True, batch_first=True))
    check(module, randn(3, 4, 8), randn(3, 5, 6), randn(3, 5, 5))


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu"}], ids=str)
def test_transformer_layers(options):
    options = {"dropout": 0.0, "batch_first": True, **options}
    check(double(nn.TransformerEncoderLayer(8, 2, 16, **options)), randn(2, 5, 8))
    check(double(nn.TransformerDecoderLayer(8, 2, 16, **options)), randn(2, 5, 8), randn(2, 4, 8))


def test_transformer_masks():
    module = double(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True))
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    check(lambda x: module(x, src_key_padding_mask=padding), randn(2, 5, 8))
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    check(lambda x: module(x, src_mask=mask, is_causal=True), randn(2, 5, 8))
