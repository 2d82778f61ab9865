"""Transformers of diffusers: of images, videos and sound."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .case import Case, image
from .diffusion import TIME, diffusion

HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}


def _dit() -> Case:
    config = {
        **HEADS,
        "in_channels": 4,
        "sample_size": 8,
        "patch_size": 2,
        "norm_type": "ada_norm_zero",
        "num_embeds_ada_norm": 10,
        "dropout": 0.1,
    }
    return diffusion("DiTTransformer2DModel", config, image(2, 4, 8, 8), TIME, torch.tensor([1, 3]))


def _pixart() -> Case:
    config = {
        **HEADS,
        "in_channels": 4,
        "sample_size": 8,
        "cross_attention_dim": 16,
        "caption_channels": 8,
        "use_additional_conditions": False,
        "dropout": 0.1,
    }
    return diffusion(
        "PixArtTransformer2DModel",
        config,
        image(2, 4, 8, 8),
        encoder_hidden_states=image(2, 5, 8),
        timestep=TIME,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    )


def _sd3() -> Case:
    config = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 6,
        "out_channels": 4,
        "pos_embed_max_size": 8,
    }
    return diffusion("SD3Transformer2DModel", config, image(2, 4, 8, 8), image(2, 5, 12), image(2, 6), TIME)


def _flux() -> Case:
    config = {
        "patch_size": 1,
        "in_channels": 4,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "pooled_projection_dim": 6,
        "axes_dims_rope": (2, 2, 4),
    }
    return diffusion(
        "FluxTransformer2DModel",
        config,
        image(2, 16, 4),
        image(2, 5, 12),
        image(2, 6),
        torch.tensor([0.1, 0.7]).double(),
        img_ids=torch.randint(0, 4, (16, 3)).double(),
        txt_ids=torch.zeros(5, 3).double(),
    )


def _prior() -> Case:
    config = {**HEADS, "embedding_dim": 8, "num_embeddings": 5, "additional_embeddings": 4, "dropout": 0.1}
    return diffusion("PriorTransformer", config, image(2, 8), TIME, image(2, 8), image(2, 5, 8))


def _sana() -> Case:
    config = {
        **HEADS,
        "in_channels": 4,
        "out_channels": 4,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 8,
        "sample_size": 8,
    }
    return diffusion(
        "SanaTransformer2DModel", config, image(2, 4, 8, 8), encoder_hidden_states=image(2, 5, 8), timestep=TIME
    )


def _hunyuan_dit() -> Case:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "in_channels": 4,
        "sample_size": 8,
        "patch_size": 2,
        "cross_attention_dim": 8,
        "cross_attention_dim_t5": 8,
        "pooled_projection_dim": 4,
        "hidden_size": 16,
        "text_len": 4,
        "text_len_t5": 4,
    }
    return diffusion(
        "HunyuanDiT2DModel",
        config,
        image(2, 4, 8, 8),
        TIME.double(),
        encoder_hidden_states=image(2, 4, 8),
        text_embedding_mask=torch.ones(2, 4).double(),
        encoder_hidden_states_t5=image(2, 4, 8),
        text_embedding_mask_t5=torch.ones(2, 4).double(),
        image_meta_size=image(2, 6),
        style=torch.zeros(2, dtype=torch.long),
        image_rotary_emb=[image(16, 8), image(16, 8)],
    )


def _cogvideo() -> Case:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 4,
        "text_embed_dim": 8,
        "num_layers": 1,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 5,
        "max_text_seq_length": 5,
        "dropout": 0.1,
    }
    return diffusion("CogVideoXTransformer3DModel", config, image(2, 2, 4, 8, 8), image(2, 5, 8), TIME)


def _latte() -> Case:
    config = {
        **HEADS,
        "in_channels": 4,
        "sample_size": 8,
        "patch_size": 2,
        "cross_attention_dim": 16,
        "caption_channels": 8,
        "video_length": 2,
        "dropout": 0.1,
    }
    return diffusion(
        "LatteTransformer3DModel",
        config,
        image(2, 4, 2, 8, 8),
        TIME,
        encoder_hidden_states=image(2, 5, 8),
        enable_temporal_attentions=True,
    )


def _wan() -> Case:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 8,
        "freq_dim": 8,
        "ffn_dim": 16,
        "num_layers": 1,
    }
    return diffusion("WanTransformer3DModel", config, image(2, 4, 2, 8, 8), TIME, image(2, 5, 8))


def _hunyuan_video() -> Case:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": 8,
        "pooled_projection_dim": 6,
        "rope_axes_dim": (2, 4, 4),
    }
    return diffusion(
        "HunyuanVideoTransformer3DModel",
        config,
        image(2, 4, 2, 4, 4),
        TIME,
        image(2, 5, 8),
        torch.ones(2, 5).double(),
        image(2, 6),
        torch.tensor([1.0, 2.0]).double(),
    )


def _ltx() -> Case:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "num_layers": 1,
        "caption_channels": 8,
    }
    return diffusion(
        "LTXVideoTransformer3DModel",
        config,
        image(2, 32, 4),
        image(2, 5, 8),
        TIME,
        torch.ones(2, 5).double(),
        num_frames=2,
        height=4,
        width=4,
    )


def _mochi() -> Case:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "pooled_projection_dim": 16,
        "in_channels": 4,
        "text_embed_dim": 8,
        "time_embed_dim": 4,
        "max_sequence_length": 5,
    }
    return diffusion(
        "MochiTransformer3DModel", config, image(2, 4, 2, 8, 8), image(2, 5, 8), TIME, torch.ones(2, 5).bool()
    )


def _auraflow() -> Case:
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "num_mmdit_layers": 1,
        "num_single_dit_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "caption_projection_dim": 16,
        "pos_embed_max_size": 16,
    }
    return diffusion("AuraFlowTransformer2DModel", config, image(2, 4, 8, 8), image(2, 5, 8), TIME.double())


def _lumina2() -> Case:
    config = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "hidden_size": 24,
        "num_layers": 1,
        "num_refiner_layers": 1,
        "num_attention_heads": 3,
        "num_kv_heads": 1,
        "multiple_of": 2,
        "axes_dim_rope": (4, 2, 2),
        "axes_lens": (32, 32, 32),
        "cap_feat_dim": 8,
    }
    return diffusion(
        "Lumina2Transformer2DModel", config, image(2, 4, 8, 8), TIME.double(), image(2, 5, 8), torch.ones(2, 5).bool()
    )


def _stable_audio() -> Case:
    config = {
        "sample_size": 16,
        "in_channels": 4,
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "num_key_value_attention_heads": 2,
        "out_channels": 4,
        "cross_attention_dim": 8,
        "time_proj_dim": 8,
        "global_states_input_dim": 8,
        "cross_attention_input_dim": 8,
    }
    rotary = image(17, 4), image(17, 4)
    return diffusion(
        "StableAudioDiTModel", config, image(2, 4, 16), TIME.double(), image(2, 5, 8), image(2, 1, 8), rotary
    )


MODELS: dict[str, Callable[[], Case]] = {
    "DiTTransformer2D": _dit,
    "PixArtTransformer2D": _pixart,
    "SD3Transformer2D": _sd3,
    "FluxTransformer2D": _flux,
    "AuraFlowTransformer2D": _auraflow,
    "Lumina2Transformer2D": _lumina2,
    "SanaTransformer2D": _sana,
    "HunyuanDiT2D": _hunyuan_dit,
    "PriorTransformer": _prior,
    "StableAudioDiT": _stable_audio,
    "CogVideoXTransformer3D": _cogvideo,
    "LatteTransformer3D": _latte,
    "WanTransformer3D": _wan,
    "HunyuanVideoTransformer3D": _hunyuan_video,
    "LTXVideoTransformer3D": _ltx,
    "MochiTransformer3D": _mochi,
}
