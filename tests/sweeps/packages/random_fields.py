"""An LSTM with the conditional random field of pytorch-crf behind it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .case import Case, image


class _Tagger(nn.Module):
    """An LSTM with a conditional random field behind it."""

    def __init__(self) -> None:
        from torchcrf import CRF

        super().__init__()
        self.lstm, self.score, self.field = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 5), CRF(5, batch_first=True)

    def forward(self, x: torch.Tensor, tags: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return -self.field(self.score(self.lstm(x)[0]), tags, mask=mask, reduction="mean")


def _tagger() -> Case:
    mask = torch.arange(7)[None] < torch.tensor([[7], [4]])
    return Case(_Tagger().double(), (image(2, 7, 4), torch.randint(0, 5, (2, 7)), mask))


MODELS: dict[str, Callable[[], Case]] = {"LSTM and CRF": _tagger}
