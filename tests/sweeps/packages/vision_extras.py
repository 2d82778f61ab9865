"""Layers, losses and networks of kornia, monai and vit-pytorch, small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .case import Case, entropy, image
from .losses import Behind


def _painted(loss: Any, channels: int = 3, size: int = 16, *rest: Any) -> Case:
    """A network that paints two images between 0 and 1, and ``loss`` of them and another image."""
    network = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Sigmoid())
    x, y = torch.rand(2, 2, channels, size, size, dtype=torch.float64)
    return Case(Behind(network, loss).double(), (x, *(rest or (y,))))


def _kornia(call: Callable[[Any], Any], *rest: Any, channels: int = 3) -> Case:
    import kornia

    return _painted(call(kornia), channels, 16, *rest)


def _warped(kind: str) -> Case:
    import kornia

    class Warp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.angle, self.shift = nn.Parameter(torch.tensor([3.0, -5.0])), nn.Parameter(torch.randn(2, 2) * 0.1)
            self.bend = nn.Parameter(torch.randn(2, 3, 3) * 0.01)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            g = kornia.geometry
            if kind == "rotate":
                out = g.translate(g.rotate(x, self.angle), self.shift)
            elif kind == "homography":
                out = g.transform.homography_warp(x, torch.eye(3) + self.bend, (16, 16))
            elif kind == "perspective":
                out = g.warp_perspective(x, torch.eye(3) + self.bend, (16, 16))
            elif kind == "elastic":
                noise = self.shift.mean() * torch.linspace(-1, 1, 256).view(1, 1, 16, 16).expand(2, 2, 16, 16)
                out = g.transform.elastic_transform2d(x, noise, kernel_size=(5, 5), sigma=(2.0, 2.0))
            else:
                grid = kornia.utils.create_meshgrid(16, 16).expand(2, -1, -1, -1)
                out = g.remap(x, grid[..., 0] + self.shift[:, :1, None], grid[..., 1], normalized_coordinates=True)
            return (out - y).square().mean()

    x, y = torch.rand(2, 2, 3, 16, 16, dtype=torch.float64)
    return Case(Warp().double(), (x, y))


def _rotations() -> Case:
    import kornia

    class Rotations(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.axis = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            c = kornia.geometry.conversions
            r = c.quaternion_to_rotation_matrix(kornia.geometry.conversions.normalize_quaternion(self.q))
            s = c.axis_angle_to_rotation_matrix(self.axis)
            back = c.rotation_matrix_to_axis_angle(r @ s)
            return ((r @ s @ x[:, :, None]).squeeze(-1) - x.flip(0)).square().sum() + back.square().sum()

    return Case(Rotations().double(), (image(4, 3),))


def _pose() -> Case:
    """Points seen by two cameras: bundle adjustment through kornia's projections."""
    import kornia

    class Pose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn, self.move = nn.Parameter(torch.randn(1, 3) * 0.1), nn.Parameter(torch.randn(1, 3, 1) * 0.1)

        def forward(self, points: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            g = kornia.geometry
            rotation = g.axis_angle_to_rotation_matrix(self.turn)
            moved = g.transform_points(
                torch.cat([torch.cat([rotation, self.move], 2), torch.eye(4)[None, 3:]], 1), points
            )
            return (g.project_points(moved, torch.eye(3)[None, None]) - seen).abs().sum()

    points = image(1, 6, 3)
    points[..., 2] += 5
    return Case(Pose().double(), (points, image(1, 6, 2)))


HARD = torch.randint(0, 3, (2, 16, 16))
KORNIA: dict[str, Callable[[], Case]] = {
    "SSIM loss": lambda: _kornia(lambda k: k.losses.SSIMLoss(5)),
    "MS-SSIM loss": lambda: _kornia(lambda k: k.losses.MS_SSIMLoss(sigmas=[0.5, 1.0], data_range=1.0)),
    "PSNR loss": lambda: _kornia(lambda k: k.losses.PSNRLoss(1.0)),
    "dice": lambda: _kornia(lambda k: k.losses.DiceLoss(), HARD),
    "focal": lambda: _kornia(lambda k: k.losses.FocalLoss(0.5, reduction="mean"), HARD),
    "Tversky": lambda: _kornia(lambda k: k.losses.TverskyLoss(0.5, 0.5), HARD),
    "Lovasz": lambda: _kornia(lambda k: k.losses.LovaszSoftmaxLoss(), HARD),
    "Lovasz hinge": lambda: _kornia(lambda k: k.losses.LovaszHingeLoss(), HARD % 2, channels=1),
    "Charbonnier": lambda: _kornia(lambda k: k.losses.CharbonnierLoss()),
    "Welsch": lambda: _kornia(lambda k: k.losses.WelschLoss()),
    "Geman-McClure": lambda: _kornia(lambda k: k.losses.GemanMcclureLoss()),
    "Cauchy": lambda: _kornia(lambda k: k.losses.CauchyLoss()),
    "total variation": lambda: _kornia(lambda k: lambda x, y: k.losses.total_variation(x).sum()),
    "inverse depth smoothness": lambda: _kornia(
        lambda k: lambda x, y: k.losses.inverse_depth_smoothness_loss(x[:, :1], y)
    ),
    "divergence": lambda: _kornia(
        lambda k: lambda x, y: k.losses.js_div_loss_2d(x / x.sum((2, 3), True), y / y.sum((2, 3), True))
    ),
    "Hausdorff": lambda: _kornia(lambda k: lambda x, y: k.losses.HausdorffERLoss()(x, HARD[:, None])),
    "Gaussian and Laplacian": lambda: _kornia(
        lambda k: lambda x, y: k.filters.laplacian(k.filters.gaussian_blur2d(x, (5, 5), (1.5, 1.5)), 3) * y
    ),
    "bilateral": lambda: _kornia(lambda k: lambda x, y: k.filters.bilateral_blur(x, 3, 0.1, (1.5, 1.5)) * y),
    "guided": lambda: _kornia(lambda k: lambda x, y: k.filters.guided_blur(y, x, 3, 0.1)),
    "median": lambda: _kornia(lambda k: lambda x, y: k.filters.median_blur(x, 3) * y),
    "Sobel": lambda: _kornia(lambda k: lambda x, y: k.filters.sobel(x) * y),
    "Canny": lambda: _kornia(lambda k: lambda x, y: k.filters.canny(x)[0] * y[:, :1]),
    "unsharp": lambda: _kornia(lambda k: lambda x, y: k.filters.unsharp_mask(x, (3, 3), (1.5, 1.5)) * y),
    "motion blur": lambda: _kornia(lambda k: lambda x, y: k.filters.motion_blur(x, 5, 35.0, 0.5) * y),
    "HSV and back": lambda: _kornia(lambda k: lambda x, y: k.color.hsv_to_rgb(k.color.rgb_to_hsv(x)) * y),
    "Lab": lambda: _kornia(lambda k: lambda x, y: k.color.rgb_to_lab(x) * y),
    "Luv and YCbCr": lambda: _kornia(lambda k: lambda x, y: k.color.rgb_to_luv(x) * k.color.rgb_to_ycbcr(y)),
    "erosion and dilation": lambda: _kornia(
        lambda k: lambda x, y: k.morphology.opening(x, torch.ones(3, 3, dtype=x.dtype)) * y
    ),
    "equalized": lambda: _kornia(lambda k: lambda x, y: k.enhance.equalize_clahe(x, grid_size=(2, 2)) * y),
    "colours adjusted": lambda: _kornia(
        lambda k: lambda x, y: k.enhance.adjust_gamma(k.enhance.adjust_contrast(x + 0.1, 0.8), 0.7) * y
    ),
    "histogram": lambda: _kornia(
        lambda k: (
            lambda x, y: k.enhance.histogram(x.flatten(1), torch.linspace(0, 1, 8, dtype=x.dtype), torch.tensor(0.1))
        )
    ),
    "ZCA": lambda: _kornia(lambda k: lambda x, y: k.enhance.zca_whiten(x.reshape(96, 16), eps=0.1)),
    "JPEG": lambda: _kornia(
        lambda k: lambda x, y: k.enhance.jpeg_codec_differentiable(x, torch.tensor([50.0, 60.0])) * y
    ),
    "Harris": lambda: _kornia(lambda k: lambda x, y: k.feature.harris_response(x) * y),
    "soft argmax": lambda: _kornia(lambda k: lambda x, y: k.geometry.SpatialSoftArgmax2d()(x)),
    "soft argmax, convolved": lambda: _kornia(lambda k: lambda x, y: k.geometry.ConvSoftArgmax2d()(x)),
    "pyramid": lambda: _kornia(lambda k: lambda x, y: k.geometry.build_pyramid(x, 3)),
    "SIFT": lambda: _kornia(lambda k: lambda x, y: k.feature.SIFTDescriptor(16)(x[:, :1])),
    "rotate": lambda: _warped("rotate"),
    "homography": lambda: _warped("homography"),
    "perspective": lambda: _warped("perspective"),
    "elastic": lambda: _warped("elastic"),
    "remap": lambda: _warped("remap"),
    "rotations": _rotations,
    "camera pose": _pose,
    "augmentation": lambda: _kornia(
        lambda k: (
            lambda x, y: (
                k.augmentation.AugmentationSequential(
                    k.augmentation.RandomAffine(20.0, p=0.7), k.augmentation.ColorJitter(0.1, 0.1, 0.1, 0.1, p=0.5)
                )(x)
                * y
            )
        )
    ),
}

VOLUME = (1, 1, 16, 16, 16)


def _monai(name: str, *size: int, **options: Any) -> Case:
    from monai.networks import nets

    return Case(getattr(nets, name)(**options).double().train(), (image(*(size or VOLUME)),))


def _monai_loss(name: str, **options: Any) -> Case:
    from monai import losses

    return _painted(
        getattr(losses, name)(**options), 3, 16, torch.nn.functional.one_hot(HARD).permute(0, 3, 1, 2).double()
    )


def _registered(name: str, one: bool = False, **options: Any) -> Case:
    from monai import losses

    loss = getattr(losses, name)(**options)
    return _painted((lambda x, y: loss(x[:, :2])) if one else (lambda x, y: loss(x[:, :1], y[:, :1])))


UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
STRIDES = {"channels": (4, 8), "strides": (2, 2)}
MONAI: dict[str, Callable[[], Case]] = {
    "UNet": lambda: _monai("UNet", **UNET, channels=(4, 8, 16), strides=(2, 2), num_res_units=2, dropout=0.1),
    "AttentionUnet": lambda: _monai("AttentionUnet", **UNET, **STRIDES, dropout=0.1),
    "DynUNet": lambda: _monai(
        "DynUNet",
        **UNET,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[4, 8, 8],
        deep_supervision=True,
        deep_supr_num=1,
    ),
    "SegResNet": lambda: _monai(
        "SegResNet", **UNET, init_filters=8, blocks_down=(1, 1), blocks_up=(1,), dropout_prob=0.1
    ),
    "SegResNetVAE": lambda: _monai(
        "SegResNetVAE", **UNET, input_image_size=(16, 16, 16), init_filters=8, blocks_down=(1, 1), blocks_up=(1,)
    ),
    "UNETR": lambda: _monai(
        "UNETR", in_channels=1, out_channels=2, img_size=16, feature_size=4, hidden_size=16, mlp_dim=16, num_heads=2
    ),
    "HighResNet": lambda: _monai("HighResNet", **UNET),
    "DenseNet": lambda: _monai("DenseNet", **UNET, init_features=4, growth_rate=4, block_config=(2, 2)),
    "ResNet": lambda: _monai(
        "ResNet",
        2,
        1,
        64,
        64,
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[4, 4, 8, 8],
        spatial_dims=2,
        n_input_channels=1,
    ),
    "SENet": lambda: _monai("SEResNet50", 2, 3, 64, 64, spatial_dims=2, in_channels=3, num_classes=4),
    "EfficientNet": lambda: _monai(
        "EfficientNetBN", 2, 3, 32, 32, model_name="efficientnet-b0", spatial_dims=2, pretrained=False
    ),
    "ViT": lambda: _monai(
        "ViT",
        in_channels=1,
        img_size=(16, 16, 16),
        patch_size=(8, 8, 8),
        hidden_size=24,
        mlp_dim=24,
        num_layers=2,
        num_heads=2,
    ),
    "AutoEncoder": lambda: _monai("AutoEncoder", **UNET, **STRIDES),
    "VarAutoEncoder": lambda: _monai(
        "VarAutoEncoder", spatial_dims=3, in_shape=(1, 16, 16, 16), out_channels=1, latent_size=4, **STRIDES
    ),
    "LocalNet": lambda: _monai("LocalNet", **UNET, num_channel_initial=4, extract_levels=[0, 1, 2]),
    "MILModel": lambda: _monai("MILModel", 2, 3, 3, 32, 32, num_classes=2, mil_mode="att_trans", pretrained=False),
    "DiNTS-like AHNet": lambda: _monai("AHNet", 1, 1, 32, 32, 32, layers=(1, 1, 1, 1), spatial_dims=3, in_channels=1),
    "dice": lambda: _monai_loss("DiceLoss", softmax=True),
    "dice and entropy": lambda: _monai_loss("DiceCELoss", softmax=True),
    "dice and focal": lambda: _monai_loss("DiceFocalLoss", softmax=True),
    "generalised dice": lambda: _monai_loss("GeneralizedDiceLoss", softmax=True),
    "Tversky": lambda: _monai_loss("TverskyLoss", softmax=True),
    "soft clDice": lambda: _monai_loss("SoftclDiceLoss"),
    "asymmetric focal": lambda: _monai_loss("AsymmetricUnifiedFocalLoss"),
    "NACL": lambda: _painted(__import__("monai.losses").losses.NACLLoss(classes=3, dim=2), 3, 16, HARD),
    "mutual information": lambda: _registered("GlobalMutualInformationLoss", num_bins=8),
    "local correlation": lambda: _registered("LocalNormalizedCrossCorrelationLoss", spatial_dims=2, kernel_size=3),
    "bending energy": lambda: _registered("BendingEnergyLoss", one=True),
    "diffusion": lambda: _registered("DiffusionLoss", one=True),
    "SSIM": lambda: _registered("SSIMLoss", spatial_dims=2, win_size=5),
}

VIT = {"image_size": 32, "num_classes": 5, "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 16}
DROPS = {"dropout": 0.1, "emb_dropout": 0.1}


def _vit(module: str, name: str, size: int = 32, **options: Any) -> Case:
    from importlib import import_module

    model = getattr(import_module(f"vit_pytorch.{module}"), name)(**options)
    return Case(model.double().train(), (image(2, 3, size, size),), loss=entropy(1, 3))


def _masked(kind: str) -> Case:
    from importlib import import_module

    encoder = import_module("vit_pytorch").ViT(**VIT, patch_size=8)
    if kind == "MAE":
        model = import_module("vit_pytorch.mae").MAE(
            encoder=encoder, masking_ratio=0.75, decoder_dim=16, decoder_depth=1
        )
    elif kind == "SimMIM":
        model = import_module("vit_pytorch.simmim").SimMIM(encoder=encoder, masking_ratio=0.5)
    else:
        model = import_module("vit_pytorch.mpp").MPP(
            transformer=encoder, patch_size=8, dim=16, mask_prob=0.5, random_patch_prob=0.3, replace_prob=0.5
        )
    return Case(model.double().train(), (torch.rand(2, 3, 32, 32, dtype=torch.float64),))


def _taught(kind: str) -> Case:
    from importlib import import_module

    if kind == "DINO":
        vit = import_module("vit_pytorch").ViT(**VIT, patch_size=8)
        model = import_module("vit_pytorch.dino").Dino(
            vit, image_size=32, hidden_layer="to_latent", projection_hidden_size=8, projection_layers=2, num_classes_K=8
        )
    else:
        vit = import_module("vit_pytorch.distill").DistillableViT(**VIT, patch_size=8)
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
        model = import_module("vit_pytorch.distill").DistillWrapper(
            student=vit, teacher=teacher, temperature=3, alpha=0.5
        )
        return Case(model.double().train(), (image(2, 3, 32, 32), torch.tensor([1, 3])))
    return Case(model.double().train(), (torch.rand(2, 3, 32, 32, dtype=torch.float64),))


STAGES = {"num_classes": 5, "dropout": 0.1}
VIT_PYTORCH: dict[str, Callable[[], Case]] = {
    "ViT": lambda: _vit("vit", "ViT", **VIT, **DROPS, patch_size=8),
    "SimpleViT": lambda: _vit("simple_vit", "SimpleViT", **VIT, patch_size=8),
    "SimpleViT, normalised queries": lambda: _vit("simple_vit_with_qk_norm", "SimpleViT", **VIT, patch_size=8),
    "SimpleViT, registers": lambda: _vit("simple_vit_with_register_tokens", "SimpleViT", **VIT, patch_size=8),
    "SimpleViT, patch dropout": lambda: _vit("simple_vit_with_patch_dropout", "SimpleViT", **VIT, patch_size=8),
    "SimpleViT, spectrum": lambda: _vit("simple_vit_with_fft", "SimpleViT", **VIT, patch_size=8, freq_patch_size=8),
    "SimpleViT, hyper connections": lambda: _vit(
        "simple_vit_with_hyper_connections", "SimpleViT", **VIT, patch_size=8, num_residual_streams=2
    ),
    "SimpleViT, value residual": lambda: _vit("simple_vit_with_value_residual", "SimpleViT", **VIT, patch_size=8),
    "normalized ViT": lambda: _vit(
        "normalized_vit",
        "nViT",
        image_size=32,
        num_classes=5,
        dim=16,
        depth=2,
        heads=2,
        dim_head=8,
        patch_size=8,
        mlp_dim=16,
    ),
    "ViT for small data": lambda: _vit("vit_for_small_dataset", "ViT", **VIT, **DROPS, patch_size=8),
    "ViT with patch dropout": lambda: _vit("vit_with_patch_dropout", "ViT", **VIT, patch_size=8, patch_dropout=0.25),
    "ViT with patch merger": lambda: _vit(
        "vit_with_patch_merger", "ViT", **VIT, patch_size=8, patch_merge_layer=1, patch_merge_num_tokens=4
    ),
    "DeepViT": lambda: _vit("deepvit", "DeepViT", **VIT, **DROPS, patch_size=8),
    "CaiT": lambda: _vit("cait", "CaiT", **VIT, **DROPS, patch_size=8, cls_depth=1, layer_dropout=0.2),
    "T2T": lambda: _vit(
        "t2t", "T2TViT", image_size=32, num_classes=5, dim=16, depth=1, heads=2, mlp_dim=16, t2t_layers=((7, 4), (3, 2))
    ),
    "CCT": lambda: _vit(
        "cct",
        "CCT",
        img_size=32,
        embedding_dim=16,
        n_conv_layers=1,
        num_layers=2,
        num_heads=2,
        mlp_ratio=1.0,
        num_classes=5,
        positional_embedding="learnable",
    ),
    "CrossViT": lambda: _vit(
        "cross_vit",
        "CrossViT",
        image_size=32,
        num_classes=5,
        sm_dim=8,
        lg_dim=16,
        sm_patch_size=8,
        lg_patch_size=16,
        sm_enc_depth=1,
        lg_enc_depth=1,
        sm_enc_heads=2,
        lg_enc_heads=2,
        cross_attn_depth=1,
        cross_attn_heads=2,
        depth=1,
    ),
    "PiT": lambda: _vit(
        "pit", "PiT", image_size=32, num_classes=5, dim=16, depth=(1, 1), heads=2, mlp_dim=16, patch_size=8, **DROPS
    ),
    "LeViT": lambda: _vit(
        "levit", "LeViT", **STAGES, image_size=64, size=64, dim=(8, 16), depth=1, heads=(2, 2), mlp_mult=2, stages=2
    ),
    "CvT": lambda: _vit(
        "cvt",
        "CvT",
        **STAGES,
        s1_emb_dim=8,
        s1_heads=1,
        s1_depth=1,
        s2_emb_dim=8,
        s2_heads=1,
        s2_depth=1,
        s3_emb_dim=8,
        s3_heads=1,
        s3_depth=1,
    ),
    "TwinsSVT": lambda: _vit(
        "twins_svt",
        "TwinsSVT",
        **STAGES,
        size=64,
        s1_emb_dim=8,
        s1_local_patch_size=4,
        s1_global_k=4,
        s1_depth=1,
        s2_emb_dim=8,
        s2_local_patch_size=2,
        s2_global_k=2,
        s2_depth=1,
        s3_emb_dim=8,
        s3_local_patch_size=2,
        s3_global_k=2,
        s3_depth=1,
        s4_emb_dim=8,
        s4_local_patch_size=1,
        s4_global_k=1,
        s4_depth=1,
        s4_patch_size=1,
    ),
    "CrossFormer": lambda: _vit(
        "crossformer",
        "CrossFormer",
        num_classes=5,
        dim=(16, 16, 16, 16),
        depth=(1, 1, 1, 1),
        global_window_size=(4, 2, 2, 1),
        local_window_size=2,
        attn_dropout=0.1,
        size=64,
    ),
    "NesT": lambda: _vit(
        "nest",
        "NesT",
        image_size=32,
        patch_size=4,
        dim=16,
        heads=2,
        num_hierarchies=2,
        block_repeats=(1, 1),
        num_classes=5,
    ),
    "MobileViT": lambda: _vit(
        "mobile_vit",
        "MobileViT",
        size=64,
        image_size=(64, 64),
        dims=[16, 16, 16],
        channels=[8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 16],
        num_classes=5,
    ),
    "XCiT": lambda: _vit("xcit", "XCiT", **VIT, **DROPS, patch_size=8, cls_depth=1, layer_dropout=0.1),
    "MaxViT": lambda: _vit(
        "max_vit", "MaxViT", num_classes=5, dim_conv_stem=8, dim=8, dim_head=4, depth=(1, 1), window_size=2, dropout=0.1
    ),
    "SepViT": lambda: _vit(
        "sep_vit", "SepViT", num_classes=5, dim=8, dim_head=4, heads=(1, 2), depth=(1, 1), window_size=4, dropout=0.1
    ),
    "ScalableViT": lambda: _vit(
        "scalable_vit",
        "ScalableViT",
        num_classes=5,
        dim=8,
        heads=(1, 2),
        depth=(1, 1),
        ssa_dim_key=(4, 4),
        reduction_factor=(2, 1),
        window_size=(4, None),
        dropout=0.1,
    ),
    "RegionViT": lambda: _vit(
        "regionvit",
        "RegionViT",
        size=64,
        dim=(8, 8, 16, 16),
        depth=(1, 1, 1, 1),
        window_size=2,
        num_classes=5,
        use_peg=True,
    ),
    "adaptive tokens": lambda: _vit("ats_vit", "ViT", **VIT, max_tokens_per_depth=(8, 4), patch_size=8),
    "RVT": lambda: _vit("rvt", "RvT", **VIT, patch_size=8),
    "local ViT": lambda: _vit("local_vit", "LocalViT", **VIT, patch_size=8, dropout=0.1),
    "parallel ViT": lambda: _vit("parallel_vit", "ViT", **VIT, patch_size=8, num_parallel_branches=2),
    "learnable memory": lambda: _vit("learnable_memory_vit", "ViT", **VIT, patch_size=8),
    "LookViT": lambda: _vit(
        "look_vit",
        "LookViT",
        image_size=32,
        num_classes=5,
        dim=16,
        depth=1,
        heads=2,
        patch_size=8,
        highres_patch_size=4,
    ),
    "jumbo": lambda: _vit(
        "jumbo_vit", "JumboViT", **VIT, patch_size=8, num_jumbo_cls=1, jumbo_cls_k=2, jumbo_ff_mult=2
    ),
    "MAE": lambda: _masked("MAE"),
    "SimMIM": lambda: _masked("SimMIM"),
    "MPP": lambda: _masked("MPP"),
    "DINO": lambda: _taught("DINO"),
    "distilled": lambda: _taught("distilled"),
}
