"""Table look-ups against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, double, rand, randn
from torch import nn
from torch.nn import functional as F

import memograd as mg
from memograd.rules.nn.embedding import embedding_bag_backward

INDICES = torch.tensor([[1, 2, 4, 5], [4, 3, 2, 2]])
OFFSETS = torch.tensor([0, 3, 4])


@pytest.mark.parametrize(
    "options",
    [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}, {"padding_idx": 2, "scale_grad_by_freq": True}],
    ids=str,
)
def test_embeddings_have_the_gradients_of_autograd(options):
    check(double(nn.Embedding(6, 3, **options)), INDICES)


def test_second_order():
    check_second(lambda w: F.embedding(INDICES, w, padding_idx=2).sin(), randn(6, 3))


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"include_last_offset": True}], ids=str)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_have_the_gradients_of_autograd(mode, options):
    check(double(nn.EmbeddingBag(6, 3, mode=mode, **options)), INDICES.flatten(), OFFSETS)
    if not options.get("include_last_offset"):
        check(double(nn.EmbeddingBag(6, 3, mode=mode, **options)), INDICES)


def test_weighted_bag():
    check(
        lambda w, s: F.embedding_bag(INDICES.flatten(), w, OFFSETS, mode="sum", per_sample_weights=s),
        randn(6, 3),
        rand(8),
    )


def bag_by_bag(weight, sample, mode, padding_idx=None):
    """The bags written out; autograd has no second derivative of its own kernel."""
    bags = []
    for places in torch.arange(8).tensor_split(OFFSETS[1:]):
        places = places[INDICES.flatten()[places] != (-1 if padding_idx is None else padding_idx)]
        rows = weight[INDICES.flatten()[places]] * sample[places].unsqueeze(1)
        bags.append(rows.amax(0) if mode == "max" else rows.mean(0) if mode == "mean" else rows.sum(0))
    return torch.stack(bags)


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_second_order_bag(mode, padding_idx):
    ones = torch.ones(8, dtype=torch.float64)
    check_second(
        lambda w: F.embedding_bag(INDICES.flatten(), w, OFFSETS, mode=mode, padding_idx=padding_idx).sin(),
        randn(6, 3),
        reference=lambda w: bag_by_bag(w, ones, mode, padding_idx).sin(),
    )


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_second_order_weighted_bag(padding_idx):
    def f(w, s):
        flat = INDICES.flatten()
        return F.embedding_bag(flat, w, OFFSETS, mode="sum", per_sample_weights=s, padding_idx=padding_idx).sin()

    check_second(f, randn(6, 3), rand(8), reference=lambda w, s: bag_by_bag(w, s, "sum", padding_idx).sin())


def test_second_order_bag_scaled_by_frequency_is_refused():
    def loss(w):
        return F.embedding_bag(INDICES.flatten(), w, OFFSETS, mode="sum", scale_grad_by_freq=True).sin().sum()

    with pytest.raises(mg.NotDifferentiableError, match="scale_grad_by_freq"):
        mg.grad(lambda w: mg.grad(loss)(w).sum())(randn(6, 3))


@pytest.mark.parametrize("padding_idx", [-1, 2])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("offsets", [[0, 3, 4], [0, 0, 5, 8], [0, 4, 8]], ids=str)
def test_bag_backward_written_out(mode, padding_idx, offsets):
    """The expansion against the kernel, empty bags and bags of nothing but padding included."""
    flat, offsets, weight = torch.tensor([1, 2, 4, 2, 4, 3, 2, 2]), torch.tensor(offsets), randn(6, 3)
    code = ("sum", "mean", "max").index(mode)
    y, *rest = torch.ops.aten._embedding_bag(weight, flat, offsets, False, code, False, None, False, padding_idx)
    given = (randn(*y.shape), flat, offsets, *rest, 6, False, code, False, None, padding_idx)
    torch.testing.assert_close(embedding_bag_backward(*given), torch.ops.aten._embedding_bag_backward(*given))
