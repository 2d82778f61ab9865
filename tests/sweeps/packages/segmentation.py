"""Networks of segmentation_models_pytorch, each with its own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .case import Case, image

NETWORKS: dict[str, dict[str, Any]] = {
    "Unet": {"decoder_channels": (32, 16, 8, 8, 8)},
    "UnetPlusPlus": {"decoder_channels": (32, 16, 8, 8, 8)},
    "MAnet": {"decoder_channels": (32, 16, 8, 8, 8)},
    "Linknet": {},
    "FPN": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
    "PSPNet": {"psp_out_channels": 16},
    "DeepLabV3": {"decoder_channels": 16},
    "DeepLabV3Plus": {"decoder_channels": 16},
    "PAN": {"decoder_channels": 8},
    "UPerNet": {"decoder_channels": 16},
    "Segformer": {"decoder_segmentation_channels": 16},
}
LOSSES: dict[str, tuple[dict[str, Any], str]] = {
    "DiceLoss": ({"mode": "multiclass"}, "classes"),
    "JaccardLoss": ({"mode": "multiclass"}, "classes"),
    "TverskyLoss": ({"mode": "multiclass"}, "classes"),
    "FocalLoss": ({"mode": "multiclass"}, "classes"),
    "LovaszLoss": ({"mode": "multiclass"}, "classes"),
    "SoftCrossEntropyLoss": ({"smooth_factor": 0.1}, "classes"),
    "SoftBCEWithLogitsLoss": ({}, "masks"),
    "MCCLoss": ({}, "masks"),
}


def _network(name: str) -> Case:
    import segmentation_models_pytorch as smp

    kind = list(LOSSES)[list(NETWORKS).index(name) % len(LOSSES)]
    return _case(smp, name, kind)


def _case(smp: Any, name: str, kind: str) -> Case:
    options, target = LOSSES[kind]
    classes = 3 if target == "classes" else 1
    model = getattr(smp, name)("resnet18", encoder_weights=None, classes=classes, **NETWORKS[name])
    criterion = getattr(smp.losses, kind)(**options)
    size = 128 if name == "PAN" else 64
    labels = torch.randint(0, 3, (2, size, size)) if classes == 3 else torch.randint(0, 2, (2, 1, size, size)).double()
    return Case(model.double().train(), (image(2, 3, size, size),), loss=lambda out: criterion(out, labels))


MODELS: dict[str, Callable[[], Case]] = {name: lambda name=name: _network(name) for name in NETWORKS}
