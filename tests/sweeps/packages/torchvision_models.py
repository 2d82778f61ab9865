"""Models of torchvision: classification, segmentation, detection, video, optical flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .case import Case, entropy, image

# 64 pixels where the last layers of 32 would be one: BatchNorm over two numbers makes chaos of a rounding.
CLASSIFIERS = {
    "alexnet": 64,
    "squeezenet1_1": 64,
    "resnet18": 32,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "densenet121": 64,
    "googlenet": 64,
    "inception_v3": 299,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mnasnet0_5": 64,
    "shufflenet_v2_x0_5": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
}
SEGMENTERS = {"fcn_resnet50": 32, "deeplabv3_mobilenet_v3_large": 32, "lraspp_mobilenet_v3_large": 32}
DETECTORS = [
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
]
CLIPS = {"r3d_18": 4, "mc3_18": 4, "r2plus1d_18": 4, "swin3d_t": 4}


def _classifier(name: str, size: int, **options: Any) -> Case:
    from torchvision.models import get_model

    model = get_model(name, weights=None, num_classes=5, **options)
    return Case(model.double().train(), (image(2, 3, size, size),), loss=entropy(1, 3))


def _vit() -> Case:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 2, 16, 32, dropout=0.1, attention_dropout=0.1, num_classes=5)
    return Case(model.double().train(), (image(2, 3, 32, 32),), loss=entropy(1, 3))


def _maxvit() -> Case:
    from torchvision.models import MaxVit

    model = MaxVit((64, 64), 8, 4, [8, 16], [1, 1], 8, stochastic_depth_prob=0.2, num_classes=5)
    return Case(model.double().train(), (image(2, 3, 64, 64),), loss=entropy(1, 3))


def _segmenter(name: str, size: int) -> Case:
    from torchvision.models import get_model

    model = get_model(name, weights=None, weights_backbone=None, num_classes=4, **_aux(name))
    target = torch.randint(0, 4, (2, size, size))

    def loss(out: dict[str, torch.Tensor]) -> torch.Tensor:
        parts = [torch.nn.functional.cross_entropy(x, target) for x in out.values()]
        return torch.stack(parts).sum()

    return Case(model.double().train(), (image(2, 3, size, size),), loss=loss)


def _aux(name: str) -> dict[str, Any]:
    return {"aux_loss": True} if name != "lraspp_mobilenet_v3_large" else {}


def _detector(name: str) -> Case:
    from torchvision.models import get_model

    sizes = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 96}
    if "rcnn" in name:
        sizes |= {"rpn_pre_nms_top_n_train": 50, "rpn_post_nms_top_n_train": 30, "box_batch_size_per_image": 16}
    model = get_model(name, weights=None, weights_backbone=None, num_classes=4, **sizes)
    targets = [
        {
            "boxes": torch.tensor([[4.0, 5.0, 40.0, 44.0], [20.0, 22.0, 60.0, 58.0]], dtype=torch.float64),
            "labels": torch.tensor([1, 2]),
            "masks": torch.randint(0, 2, (2, 64, 64), dtype=torch.uint8),
            "keypoints": torch.tensor([[[20.0, 20.0, 1.0]] * 17, [[40.0, 40.0, 1.0]] * 17]),
        },
        {
            "boxes": torch.tensor([[10.0, 12.0, 50.0, 40.0]], dtype=torch.float64),
            "labels": torch.tensor([3]),
            "masks": torch.randint(0, 2, (1, 64, 64), dtype=torch.uint8),
            "keypoints": torch.tensor([[[30.0, 20.0, 1.0]] * 17]),
        },
    ]
    images = [image(3, 64, 64).sigmoid(), image(3, 60, 64).sigmoid()]
    return Case(model.double().train(), (images, targets), loss=lambda losses: sum(losses.values()))


def _clip(name: str, frames: int) -> Case:
    from torchvision.models import get_model

    model = get_model(name, weights=None, num_classes=5)
    return Case(model.double().train(), (image(2, 3, frames, 32, 32),), loss=entropy(1, 3))


def _mvit() -> Case:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(1, 8, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    model = MViT((32, 32), 4, blocks, True, True, True, True, dropout=0.1, num_classes=5, stochastic_depth_prob=0.2)
    return Case(model.double().train(), (image(2, 3, 4, 32, 32),), loss=entropy(1, 3))


def _raft() -> Case:
    from torchvision.models.optical_flow import raft_small

    frames = image(1, 3, 128, 128).tanh().float(), image(1, 3, 128, 128).tanh().float()
    return Case(raft_small(weights=None).train(), frames, {"num_flow_updates": 2}, tolerance=1e-4)


MODELS: dict[str, Callable[[], Case]] = {
    **{name: lambda name=name, size=size: _classifier(name, size) for name, size in CLASSIFIERS.items()},
    "vit": _vit,
    "maxvit": _maxvit,
    **{name: lambda name=name, size=size: _segmenter(name, size) for name, size in SEGMENTERS.items()},
    **{name: lambda name=name: _detector(name) for name in DETECTORS},
    **{name: lambda name=name, frames=frames: _clip(name, frames) for name, frames in CLIPS.items()},
    "mvit": _mvit,
    "raft_small": _raft,
}
