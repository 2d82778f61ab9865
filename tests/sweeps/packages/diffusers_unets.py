"""UNets of diffusers, ControlNet and adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .case import Case, image
from .diffusion import TIME, diffusion

BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    **BLOCKS,
}


def _unet2d() -> Case:
    config = {
        "sample_size": 16,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "dropout": 0.1,
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        **BLOCKS,
    }
    return diffusion("UNet2DModel", config, image(2, 3, 16, 16), TIME)


def _unet2d_condition(**more: Any) -> Case:
    config = {"sample_size": 16, "dropout": 0.1, **CROSS, **more}
    return diffusion("UNet2DConditionModel", config, image(2, 4, 16, 16), TIME, image(2, 5, 8))


def _unet3d() -> Case:
    config = {
        **CROSS,
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "attention_head_dim": 4,
    }
    return diffusion("UNet3DConditionModel", config, image(2, 4, 3, 8, 8), TIME, image(2, 5, 8))


def _svd() -> Case:
    config = {
        "sample_size": 8,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "num_attention_heads": (2, 2),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
    }
    return diffusion(
        "UNetSpatioTemporalConditionModel", config, image(2, 2, 8, 8, 8), TIME, image(2, 1, 8), image(2, 3)
    )


def _controlnet() -> Case:
    config = {**CROSS, "conditioning_embedding_out_channels": (8, 16)}
    config.pop("up_block_types")
    return diffusion("ControlNetModel", config, image(2, 4, 16, 16), TIME, image(2, 5, 8), image(2, 3, 32, 32))


def _adapter() -> Case:
    return diffusion(
        "T2IAdapter",
        {"in_channels": 3, "channels": [8, 8], "num_res_blocks": 1, "downscale_factor": 8},
        image(2, 3, 32, 32),
    )


def _uvit() -> Case:
    config = {
        "hidden_size": 16,
        "hidden_dropout": 0.1,
        "cond_embed_dim": 8,
        "micro_cond_encode_dim": 4,
        "micro_cond_embed_dim": 20,
        "encoder_hidden_size": 8,
        "vocab_size": 20,
        "codebook_size": 16,
        "in_channels": 16,
        "block_out_channels": 16,
        "num_res_blocks": 1,
        "block_num_heads": 2,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "sample_size": 8,
    }
    return diffusion("UVit2DModel", config, torch.randint(0, 16, (2, 8, 8)), image(2, 5, 8), image(2, 8), image(2, 5))


MODELS: dict[str, Callable[[], Case]] = {
    "UNet2D": _unet2d,
    "UNet2DCondition": _unet2d_condition,
    "UNet2DCondition, linear and scale-shift": lambda: _unet2d_condition(
        use_linear_projection=True, resnet_time_scale_shift="scale_shift"
    ),
    "UNet3DCondition": _unet3d,
    "UNetSpatioTemporalCondition": _svd,
    "ControlNet": _controlnet,
    "T2IAdapter": _adapter,
    "UVit2D": _uvit,
}
