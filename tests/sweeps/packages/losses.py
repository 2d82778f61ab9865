"""Losses and metrics that packages offer, behind a small network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .case import Case, image


class Behind(nn.Module):
    """``loss(network(x), *rest)``; the loss may have parameters."""

    def __init__(self, network: nn.Module, loss: Any) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, x: torch.Tensor, *rest: Any) -> Any:
        return self.loss(self.network(x), *rest)


def embedded(loss: Any, *rest: Any) -> Case:
    """Twelve embeddings of 8 numbers, of four classes."""
    labels = torch.tensor([0, 1, 2, 3] * 3)
    network = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8))
    return Case(Behind(network, loss).double(), (image(12, 5), *(rest or (labels,))))


def _metric(name: str, **options: Any) -> Case:
    from pytorch_metric_learning import losses

    return embedded(getattr(losses, name)(**options))


def _mined(miner: str, **options: Any) -> Case:
    from pytorch_metric_learning import losses, miners

    mine, loss = getattr(miners, miner)(**options), losses.TripletMarginLoss()
    return embedded(lambda x, labels: loss(x, labels, mine(x.detach(), labels)))


CLASSES = {"num_classes": 4, "embedding_size": 8}
METRIC_LEARNING: dict[str, Callable[[], Case]] = {
    "angular": lambda: _metric("AngularLoss"),
    "ArcFace": lambda: _metric("ArcFaceLoss", **CLASSES),
    "circle": lambda: _metric("CircleLoss"),
    "contrastive": lambda: _metric("ContrastiveLoss"),
    "CosFace": lambda: _metric("CosFaceLoss", **CLASSES),
    "fast AP": lambda: _metric("FastAPLoss"),
    "generalised lifted": lambda: _metric("GeneralizedLiftedStructureLoss"),
    "histogram": lambda: _metric("HistogramLoss", n_bins=10),
    "intra-pair variance": lambda: _metric("IntraPairVarianceLoss"),
    "large-margin softmax": lambda: _metric("LargeMarginSoftmaxLoss", **CLASSES),
    "lifted structure": lambda: _metric("LiftedStructureLoss"),
    "margin": lambda: _metric("MarginLoss", learn_beta=True, num_classes=4),
    "multi-similarity": lambda: _metric("MultiSimilarityLoss"),
    "N pairs": lambda: _metric("NPairsLoss"),
    "normalised softmax": lambda: _metric("NormalizedSoftmaxLoss", **CLASSES),
    "NTXent": lambda: _metric("NTXentLoss"),
    "P2S gradient": lambda: _metric("PNPLoss"),
    "proxy anchor": lambda: _metric("ProxyAnchorLoss", **CLASSES),
    "proxy NCA": lambda: _metric("ProxyNCALoss", **CLASSES),
    "rank": lambda: _metric("RankedListLoss", margin=1, Tn=0, imbalance=0.5),
    "signal to noise": lambda: _metric("SignalToNoiseRatioContrastiveLoss"),
    "smooth AP": lambda: _metric("SmoothAPLoss"),
    "soft triple": lambda: _metric("SoftTripleLoss", **CLASSES),
    "sphere face": lambda: _metric("SphereFaceLoss", **CLASSES),
    "sub-centre ArcFace": lambda: _metric("SubCenterArcFaceLoss", **CLASSES),
    "supervised contrast": lambda: _metric("SupConLoss"),
    "threshold consistent": lambda: _metric("ThresholdConsistentMarginLoss"),
    "triplet margin": lambda: _metric("TripletMarginLoss"),
    "tuplet margin": lambda: _metric("TupletMarginLoss"),
    "hard miner": lambda: _mined("BatchHardMiner"),
    "easy-hard miner": lambda: _mined("BatchEasyHardMiner"),
    "distance-weighted miner": lambda: _mined("DistanceWeightedMiner"),
    "multi-similarity miner": lambda: _mined("MultiSimilarityMiner"),
    "HDC miner": lambda: _mined("HDCMiner"),
}


class Pair(nn.Module):
    """Two views of a batch by one network."""

    def __init__(self, loss: Any, project: nn.Module | None = None) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        self.project, self.loss = project or nn.Identity(), loss

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.loss(self.project(self.network(x)), self.project(self.network(y)))


def _pair(make: Callable[[Any], Any], project: Callable[[Any], nn.Module] | None = None) -> Case:
    from lightly import loss
    from lightly.models.modules import heads

    return Case(Pair(make(loss), project and project(heads)).double(), (image(6, 5), image(6, 5)))


def _dino() -> Case:
    from lightly.loss import DINOLoss

    dino = DINOLoss(output_dim=8, warmup_teacher_temp_epochs=2).double()
    return _pair(lambda loss: lambda x, y: dino([x.detach(), y.detach()], [x, y], epoch=1))


LIGHTLY: dict[str, Callable[[], Case]] = {
    "NTXent": lambda: _pair(lambda loss: loss.NTXentLoss()),
    "NTXent, memory bank": lambda: _pair(lambda loss: loss.NTXentLoss(memory_bank_size=(16, 8))),
    "Barlow twins": lambda: _pair(lambda loss: loss.BarlowTwinsLoss()),
    "VICReg": lambda: _pair(lambda loss: loss.VICRegLoss()),
    "negative cosine": lambda: _pair(lambda loss: loss.NegativeCosineSimilarity()),
    "TiCo": lambda: _pair(lambda loss: loss.TiCoLoss()),
    "DCL": lambda: _pair(lambda loss: loss.DCLLoss()),
    "DCLW": lambda: _pair(lambda loss: loss.DCLWLoss()),
    "MMCR": lambda: _pair(lambda loss: (lambda f: lambda x, y: f(x[:, None], y[:, None]))(loss.MMCRLoss())),
    "KoLeo": lambda: _pair(lambda loss: (lambda f: lambda x, y: f(x) + f(y))(loss.KoLeoLoss())),
    "SwAV": lambda: _pair(
        lambda loss: (lambda f: lambda x, y: f([x, y], []))(loss.SwaVLoss(sinkhorn_iterations=3)),
        lambda heads: heads.SwaVPrototypes(8, 6),
    ),
    "DINO": _dino,
    "BYOL heads": lambda: _pair(
        lambda loss: loss.NegativeCosineSimilarity(), lambda heads: heads.BYOLProjectionHead(8, 6, 4)
    ),
}


def _images(loss: Any, channels: int = 3, size: int = 24, two: bool = True) -> Case:
    """A network that paints images between 0 and 1."""
    network = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Sigmoid())
    x, y = torch.rand(2, 2, channels, size, size, dtype=torch.float64)
    return Case(Behind(network, loss).double(), (x, y) if two else (x,))


def _signals(loss: Any, length: int = 400, batch: tuple[int, ...] = (2, 1)) -> Case:
    network = nn.Sequential(nn.Conv1d(1, 1, 9, padding=4), nn.Tanh())
    y = torch.rand(*batch, length, dtype=torch.float64) - 0.5
    return Case(Behind(network, loss).double(), (torch.rand(*batch, length, dtype=torch.float64) - 0.5, y))


def _torchmetrics(name: str, make: Callable[..., Case] = _images, part: str = "image", **options: Any) -> Case:
    from importlib import import_module

    f = getattr(import_module(f"torchmetrics.functional.{part}"), name)
    return make(lambda x, *rest: f(x, *rest, **options))


TORCHMETRICS: dict[str, Callable[[], Case]] = {
    "SSIM": lambda: _torchmetrics("structural_similarity_index_measure", data_range=1.0),
    "multi-scale SSIM": lambda: _torchmetrics(
        "multiscale_structural_similarity_index_measure", data_range=1.0, betas=(0.4, 0.6), kernel_size=5, sigma=0.8
    ),
    "universal quality": lambda: _torchmetrics("universal_image_quality_index"),
    "spectral angle": lambda: _torchmetrics("spectral_angle_mapper"),
    "ERGAS": lambda: _torchmetrics("error_relative_global_dimensionless_synthesis"),
    "PSNR": lambda: _torchmetrics("peak_signal_noise_ratio", data_range=1.0),
    "total variation": lambda: _torchmetrics("total_variation", lambda f: _images(f, two=False)),
    "RASE": lambda: _torchmetrics("relative_average_spectral_error"),
    "RMSE, sliding": lambda: _torchmetrics("root_mean_squared_error_using_sliding_window"),
    "SCC": lambda: _torchmetrics("spatial_correlation_coefficient"),
    "SI-SDR": lambda: _torchmetrics("scale_invariant_signal_distortion_ratio", _signals, "audio"),
    "SI-SNR": lambda: _torchmetrics("scale_invariant_signal_noise_ratio", _signals, "audio"),
    "SDR": lambda: _torchmetrics("signal_distortion_ratio", _signals, "audio", filter_length=16),
    "cosine similarity": lambda: _torchmetrics("pairwise_cosine_similarity", embedded_pair, "pairwise"),
    "Minkowski": lambda: _torchmetrics("pairwise_minkowski_distance", embedded_pair, "pairwise", exponent=3),
    "KL": lambda: _torchmetrics(
        "kl_divergence", lambda f: embedded_pair(lambda x, y: f(x.softmax(-1), y.softmax(-1))), "regression"
    ),
    "Pearson": lambda: _torchmetrics("pearson_corrcoef", embedded_pair, "regression"),
    "concordance": lambda: _torchmetrics("concordance_corrcoef", embedded_pair, "regression"),
    "explained variance": lambda: _torchmetrics("explained_variance", embedded_pair, "regression"),
    "Tweedie": lambda: _torchmetrics(
        "tweedie_deviance_score", lambda f: embedded_pair(lambda x, y: f(x.exp(), y.exp())), "regression", power=1.5
    ),
}


def embedded_pair(loss: Any) -> Case:
    return embedded(loss, image(12, 8))


def _piqa(name: str, **options: Any) -> Case:
    import piqa

    return _images(getattr(piqa, name)(**options), size=48)


PIQA: dict[str, Callable[[], Case]] = {
    "SSIM": lambda: _piqa("SSIM"),
    "TV": lambda: _images(__import__("piqa").TV(), two=False),
    "GMSD": lambda: _piqa("GMSD"),
    "MS-GMSD": lambda: _piqa("MS_GMSD"),
    "MDSI": lambda: _piqa("MDSI"),
    "VSI": lambda: _piqa("VSI"),
    "FSIM": lambda: _piqa("FSIM"),
}


def _msssim(name: str, **options: Any) -> Case:
    import pytorch_msssim

    return _images(getattr(pytorch_msssim, name)(data_range=1.0, **options), size=48)


MSSSIM: dict[str, Callable[[], Case]] = {
    "SSIM": lambda: _msssim("SSIM", nonnegative_ssim=True),
    "MS-SSIM": lambda: _msssim("MS_SSIM", win_size=3),
}


def _entmax(call: Callable[[Any], Any], *rest: Any) -> Case:
    import entmax

    return embedded(call(entmax), *rest)


def _learned_alpha() -> Case:
    import entmax

    class Alpha(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.alpha = nn.Linear(5, 8), nn.Parameter(torch.tensor(0.3))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (entmax.entmax_bisect(self.network(x), 1 + self.alpha.sigmoid()) - y).square().sum()

    return Case(Alpha().double(), (image(12, 5), image(12, 8)))


ENTMAX: dict[str, Callable[[], Case]] = {
    "sparsemax": lambda: _entmax(lambda e: lambda x, y: e.sparsemax(x) * y, image(12, 8)),
    "entmax 1.5": lambda: _entmax(lambda e: lambda x, y: e.entmax15(x) * y, image(12, 8)),
    "entmax by bisection": lambda: _entmax(lambda e: lambda x, y: e.entmax_bisect(x, 1.3) * y, image(12, 8)),
    "normmax by bisection": lambda: _entmax(lambda e: lambda x, y: e.normmax_bisect(x, 2) * y, image(12, 8)),
    "budget by bisection": lambda: _entmax(lambda e: lambda x, y: e.budget_bisect(x, 2) * y, image(12, 8)),
    "sparsemax loss": lambda: _entmax(lambda e: e.SparsemaxLoss()),
    "entmax loss": lambda: _entmax(lambda e: e.Entmax15Loss()),
    "entmax loss by bisection": lambda: _entmax(lambda e: e.EntmaxBisectLoss(1.3)),
    "alpha learned": _learned_alpha,
}


def _auraloss(part: str, name: str, **options: Any) -> Case:
    import auraloss

    stereo = name.startswith("SumAnd")
    case = _signals(getattr(getattr(auraloss, part), name)(**options))
    if stereo:
        network = nn.Sequential(nn.Conv1d(2, 2, 9, padding=4), nn.Tanh())
        loss = getattr(auraloss.freq, name)(**options)
        case = Case(Behind(network, loss).double(), (image(2, 2, 400), image(2, 2, 400)))
    return case


STFT = {"fft_sizes": [64, 32], "hop_sizes": [16, 8], "win_lengths": [64, 32]}
AURALOSS: dict[str, Callable[[], Case]] = {
    "ESR": lambda: _auraloss("time", "ESRLoss"),
    "DC": lambda: _auraloss("time", "DCLoss"),
    "log-cosh": lambda: _auraloss("time", "LogCoshLoss"),
    "SNR": lambda: _auraloss("time", "SNRLoss"),
    "SI-SDR": lambda: _auraloss("time", "SISDRLoss"),
    "SD-SDR": lambda: _auraloss("time", "SDSDRLoss"),
    "STFT": lambda: _auraloss("freq", "STFTLoss", fft_size=64, hop_size=16, win_length=64),
    "several resolutions": lambda: _auraloss("freq", "MultiResolutionSTFTLoss", **STFT),
    "random resolutions": lambda: _auraloss(
        "freq", "RandomResolutionSTFTLoss", resolutions=2, min_fft_size=16, max_fft_size=128
    ),
    "sum and difference": lambda: _auraloss("freq", "SumAndDifferenceSTFTLoss", **STFT),
}
