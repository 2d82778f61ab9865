"""Table look-ups against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, double, rand, randn
from torch import nn
from torch.nn import functional as F

INDICES = torch.tensor([[1, 2, 4, 5], [4, 3, 2, 2]])
OFFSETS = torch.tensor([0, 3, 4])


@pytest.mark.parametrize(
    "options",
    [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}, {"padding_idx": 2, "scale_grad_by_freq": True}],
    ids=str,
)
def test_embedding(options):
    check(double(nn.Embedding(6, 3, **options)), INDICES)


def test_second_order():
    check_second(lambda w: F.embedding(INDICES, w, padding_idx=2).sin(), randn(6, 3))


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"include_last_offset": True}], ids=str)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bag(mode, options):
    check(double(nn.EmbeddingBag(6, 3, mode=mode, **options)), INDICES.flatten(), OFFSETS)
    if not options.get("include_last_offset"):
        check(double(nn.EmbeddingBag(6, 3, mode=mode, **options)), INDICES)


def test_weighted_bag():
    check(
        lambda w, s: F.embedding_bag(INDICES.flatten(), w, OFFSETS, mode="sum", per_sample_weights=s),
        randn(6, 3),
        rand(8),
    )
