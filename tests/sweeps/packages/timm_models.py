"""Models of timm: one small one of each family, with stochastic depth and dropout where it has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .case import Case, entropy, image

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
MODELS_AND_SIZES: dict[str, tuple[int, dict[str, Any]]] = {
    "vit_tiny_patch16_224": (32, {"img_size": 32, "patch_size": 8, **SMALL}),
    "vit_relpos_small_patch16_224": (32, {"img_size": 32, "patch_size": 8, **SMALL}),
    "vit_tiny_r_s16_p8_224": (64, {"img_size": 64, **SMALL}),
    "deit_tiny_distilled_patch16_224": (32, {"img_size": 32, "patch_size": 8, **SMALL}),
    "beit_base_patch16_224": (32, {"img_size": 32, "patch_size": 8, **SMALL}),
    "eva02_tiny_patch14_224": (28, {"img_size": 28, "patch_size": 7, **SMALL}),
    "cait_xxs24_224": (32, {"img_size": 32, "patch_size": 8, **SMALL}),
    "xcit_nano_12_p8_224": (32, {"img_size": 32, **SMALL}),
    "volo_d1_224": (64, {"img_size": 64}),
    "pit_ti_224": (64, {"img_size": 64}),
    "tnt_s_legacy_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "convit_tiny": (32, {"img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 2, "local_up_to_layer": 2}),
    "crossvit_tiny_240": (240, {}),
    "coat_tiny": (64, {"img_size": 64}),
    "coat_lite_tiny": (64, {"img_size": 64}),
    "swin_tiny_patch4_window7_224": (32, {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 2)}),
    "swinv2_cr_tiny_224": (64, {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2)}),
    "swinv2_tiny_window8_256": (32, {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 2)}),
    "twins_svt_small": (64, {"img_size": 64}),
    "nest_tiny": (32, {"img_size": 32}),
    "davit_tiny": (32, {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (2, 2)}),
    "focalnet_tiny_srf": (64, {}),
    "gcvit_xxtiny": (64, {"img_size": 64}),
    "maxvit_rmlp_pico_rw_256": (64, {"img_size": 64}),
    "coatnet_pico_rw_224": (64, {"img_size": 64}),
    "mvitv2_tiny": (64, {"img_size": 64}),
    "pvt_v2_b0": (64, {}),
    "levit_128s": (64, {"img_size": 64}),
    "edgenext_xx_small": (64, {}),
    "efficientformer_l1": (224, {}),
    "efficientformerv2_s0": (64, {"img_size": 64}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (64, {"img_size": 64}),
    "fastvit_t8": (64, {}),
    "fasternet_t0": (64, {}),
    "hiera_tiny_224": (64, {"img_size": 64}),
    "inception_next_atto": (64, {}),
    "mambaout_femto": (64, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "poolformer_s12": (64, {}),
    "caformer_s18": (64, {}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "gmlp_ti16_224": (64, {"img_size": 64}),
    "resmlp_12_224": (64, {"img_size": 64}),
    "sequencer2d_s": (
        28,
        {
            "img_size": 28,
            "layers": (1, 1),
            "patch_sizes": (7, 1),
            "embed_dims": (16, 32),
            "hidden_sizes": (8, 8),
            "mlp_ratios": (2.0, 2.0),
        },
    ),
    "convnext_atto": (32, {}),
    "convnextv2_atto": (32, {}),
    "convmixer_768_32": (28, {}),
    "efficientnet_lite0": (64, {}),
    "tf_efficientnetv2_b0": (64, {}),
    "mixnet_s": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small_050": (64, {}),
    "mobilenetv4_hybrid_medium": (64, {}),
    "lcnet_050": (64, {}),
    "fbnetc_100": (64, {}),
    "ghostnetv2_100": (64, {}),
    "repghostnet_050": (64, {}),
    "repvit_m0_9": (64, {}),
    "rexnet_100": (64, {}),
    "regnetx_002": (32, {}),
    "regnetz_b16": (64, {}),
    "resnet18": (32, {}),
    "resnetblur50": (64, {}),
    "resnetaa50": (64, {}),
    "ecaresnet50t": (64, {}),
    "res2net50_14w_8s": (32, {}),
    "resnest14d": (64, {}),
    "skresnet18": (32, {}),
    "resnetv2_50": (32, {}),
    "halonet26t": (256, {}),
    "lambda_resnet26t": (256, {}),
    "botnet26t_256": (256, {}),
    "gcresnet33ts": (64, {}),
    "nfnet_l0": (64, {}),
    "nf_regnet_b0": (64, {}),
    "dla34": (64, {}),
    "dpn48b": (64, {}),
    "densenet121": (64, {}),
    "hrnet_w18_small": (64, {}),
    "cspresnet50": (64, {}),
    "hardcorenas_a": (64, {}),
    "hgnetv2_b0": (64, {}),
    "nextvit_small": (64, {}),
    "rdnet_tiny": (64, {}),
    "repvgg_a0": (64, {}),
    "selecsls42": (64, {}),
    "shvit_s1": (64, {}),
    "starnet_s1": (64, {}),
    "swiftformer_xs": (64, {}),
    "tiny_vit_5m_224": (64, {}),
    "tresnet_m": (64, {}),
    "visformer_tiny": (64, {"img_size": 64}),
    "vitamin_small_224": (64, {"img_size": 64}),
    "vovnet39a": (64, {}),
    "xception41": (64, {}),
    "naflexvit_base_patch16_gap": (32, {"embed_dim": 32, "depth": 2, "num_heads": 2}),
}


def _model(name: str, size: int, options: dict[str, Any]) -> Case:
    import timm

    rates = {"drop_rate": 0.1, "drop_path_rate": 0.1}
    for given in (rates, {"drop_rate": 0.1}, {}):
        try:
            model = timm.create_model(name, num_classes=5, **given, **options)
            break
        except TypeError as error:
            if "drop" not in str(error):
                raise
    else:
        raise TypeError(f"no way to build {name}")
    return Case(model.double().train(), (image(2, 3, size, size),), loss=entropy(1, 3))


MODELS: dict[str, Callable[[], Case]] = {
    name: lambda name=name, size=size, options=options: _model(name, size, options)
    for name, (size, options) in MODELS_AND_SIZES.items()
}
