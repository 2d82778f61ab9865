"""Autoencoders of diffusers."""

from __future__ import annotations

from collections.abc import Callable

from .case import Case, image
from .diffusion import diffusion

VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "latent_channels": 2,
}


def _vae() -> Case:
    return diffusion("AutoencoderKL", VAE, image(2, 3, 16, 16), sample_posterior=True)


def _vq() -> Case:
    config = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "latent_channels": 2,
        "num_vq_embeddings": 16,
    }
    return diffusion("VQModel", config, image(2, 3, 16, 16))


def _asymmetric() -> Case:
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "down_block_out_channels": (8, 8),
        "layers_per_down_block": 1,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "up_block_out_channels": (8, 8),
        "layers_per_up_block": 1,
        "norm_num_groups": 4,
    }
    return diffusion("AsymmetricAutoencoderKL", config, image(2, 3, 16, 16), sample_posterior=True)


def _temporal_vae() -> Case:
    config = {
        "block_out_channels": [32, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "layers_per_block": 1,
        "latent_channels": 2,
    }
    return diffusion("AutoencoderKLTemporalDecoder", config, image(2, 3, 16, 16), sample_posterior=True, num_frames=2)


def _oobleck() -> Case:
    config = {
        "encoder_hidden_size": 8,
        "downsampling_ratios": [2, 4],
        "decoder_channels": 8,
        "decoder_input_channels": 4,
        "audio_channels": 2,
        "channel_multiples": [2, 4],
    }
    return diffusion("AutoencoderOobleck", config, image(2, 2, 32), sample_posterior=True)


def _dc() -> Case:
    config = {
        "in_channels": 3,
        "latent_channels": 4,
        "attention_head_dim": 2,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": [1, 1],
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "scaling_factor": 0.41,
    }
    return diffusion("AutoencoderDC", config, image(2, 3, 16, 16))


def _cog_vae() -> Case:
    config = {
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "temporal_compression_ratio": 4,
    }
    return diffusion("AutoencoderKLCogVideoX", config, image(1, 3, 9, 16, 16), sample_posterior=True)


def _wan_vae() -> Case:
    config = {
        "base_dim": 3,
        "z_dim": 8,
        "dim_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
        "latents_mean": [0.0] * 8,
        "latents_std": [1.0] * 8,
    }
    return diffusion("AutoencoderKLWan", config, image(1, 3, 5, 16, 16), sample_posterior=True)


MODELS: dict[str, Callable[[], Case]] = {
    "AutoencoderKL": _vae,
    "VQModel": _vq,
    "AsymmetricAutoencoderKL": _asymmetric,
    "AutoencoderKLTemporalDecoder": _temporal_vae,
    "AutoencoderOobleck": _oobleck,
    "AutoencoderDC": _dc,
    "AutoencoderKLCogVideoX": _cog_vae,
    "AutoencoderKLWan": _wan_vae,
}
