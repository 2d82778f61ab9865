"""Transformers of x-transformers: a decoder with one of its options at a time, and what else it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .case import Case, image

SMALL = {"dim": 16, "depth": 2, "heads": 2, "attn_dim_head": 8}


def _tokens(length: int = 8) -> torch.Tensor:
    return torch.randint(0, 20, (2, length))


def _decoder(**options: Any) -> Case:
    """A language model of x-transformers, with dropout."""
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    wrapper = {k: options.pop(k) for k in list(options) if k in ("num_memory_tokens", "use_abs_pos_emb", "logits_dim")}
    layers = Decoder(**SMALL | {"attn_dropout": 0.1, "ff_dropout": 0.1} | options)
    net = TransformerWrapper(num_tokens=20, max_seq_len=16, attn_layers=layers, **wrapper)
    return Case(AutoregressiveWrapper(net).double().train(), (_tokens(),))


def _encoder(**options: Any) -> Case:
    from x_transformers import Encoder, ViTransformerWrapper

    net = ViTransformerWrapper(
        image_size=16, patch_size=4, num_classes=5, attn_layers=Encoder(**SMALL | {"layer_dropout": 0.1} | options)
    )
    return Case(net.double().train(), (image(2, 3, 16, 16),))


def _pair() -> Case:
    from x_transformers import XTransformer

    net = XTransformer(
        dim=16,
        enc_num_tokens=20,
        enc_depth=1,
        enc_heads=2,
        enc_max_seq_len=8,
        dec_num_tokens=20,
        dec_depth=1,
        dec_heads=2,
        dec_max_seq_len=8,
        enc_attn_dim_head=8,
        dec_attn_dim_head=8,
    )
    return Case(net.double().train(), (_tokens(), _tokens()), {"mask": torch.ones(2, 8).bool()})


def _continuous() -> Case:
    from x_transformers import ContinuousTransformerWrapper, Decoder

    net = ContinuousTransformerWrapper(dim_in=4, dim_out=4, max_seq_len=8, attn_layers=Decoder(**SMALL))
    return Case(net.double().train(), (image(2, 8, 4),))


MODELS: dict[str, Callable[[], Case]] = {
    "decoder": _decoder,
    "decoder, rotary": lambda: _decoder(rotary_pos_emb=True),
    "decoder, ALiBi": lambda: _decoder(alibi_pos_bias=True, alibi_num_heads=1),
    "decoder, T5 bias": lambda: _decoder(rel_pos_bias=True),
    "decoder, flash": lambda: _decoder(attn_flash=True),
    "decoder, RMS norm and GLU": lambda: _decoder(use_rmsnorm=True, ff_glu=True, ff_swish=True),
    "decoder, squared ReLU, no biases": lambda: _decoder(ff_relu_squared=True, ff_no_bias=True, use_scalenorm=True),
    "decoder, grouped heads": lambda: _decoder(attn_kv_heads=1),
    "decoder, talking heads": lambda: _decoder(attn_pre_talking_heads=True),
    "decoder, top-k": lambda: _decoder(attn_sparse_topk=3),
    "decoder, sandwich": lambda: _decoder(sandwich_coef=1),
    "decoder, macaron": lambda: _decoder(macaron=True),
    "decoder, residual attention": lambda: _decoder(residual_attn=True),
    "decoder, gated residual": lambda: _decoder(gate_residual=True),
    "decoder, memories": lambda: _decoder(num_memory_tokens=3, attn_num_mem_kv=2),
    "decoder, shifted tokens": lambda: _decoder(shift_tokens=1),
    "decoder, normalised queries": lambda: _decoder(attn_qk_norm=True),
    "decoder, gated values": lambda: _decoder(attn_gate_values=True, attn_head_scale=True),
    "decoder, hyper connections": lambda: _decoder(num_residual_streams=2),
    "encoder of images": _encoder,
    "encoder and decoder": _pair,
    "continuous": _continuous,
}
