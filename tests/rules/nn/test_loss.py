"""Loss functions against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, rand, randn
from torch import nn
from torch.nn import functional as F

import memograd as mg

REDUCTIONS = ["none", "mean", "sum"]
LABELS = torch.tensor([1, 0, 3])
PLUS_MINUS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)

DIFFERENCES = {
    "l1": nn.L1Loss,
    "mse": nn.MSELoss,
    "huber": lambda **k: nn.HuberLoss(delta=0.7, **k),
    "smooth_l1": lambda **k: nn.SmoothL1Loss(beta=0.6, **k),
    "smooth_l1 with beta 0": lambda **k: nn.SmoothL1Loss(beta=0.0, **k),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", DIFFERENCES)
def test_losses_of_differences_have_the_gradients_of_autograd(name, reduction):
    module = DIFFERENCES[name](reduction=reduction)
    check(module, randn(3, 4), randn(3, 4))
    check_second(module, randn(3, 4), randn(3, 4))


def test_a_difference_of_just_delta_has_the_second_derivative_of_autograd():
    x = torch.tensor([1.0, -1.0, 3.0, 0.5], dtype=torch.float64)

    def loss(x):
        return F.huber_loss(x, torch.zeros_like(x), reduction="sum")

    torch.testing.assert_close(mg.hessian(loss)(x), torch.autograd.functional.hessian(loss, x))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_soft_margin(reduction):
    target = randn(3, 4).sign()
    check(lambda x: F.soft_margin_loss(x, target, reduction=reduction), randn(3, 4))
    check_second(lambda x: F.soft_margin_loss(x, target, reduction=reduction), randn(3, 4))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [True, False])
def test_binary_cross_entropy(weighted, reduction):
    weight = rand(3, 4) if weighted else None
    check(lambda x, t: F.binary_cross_entropy(x, t, weight, reduction=reduction), rand(3, 4), rand(3, 4))
    check_second(lambda x: F.binary_cross_entropy(x, x.detach() * 0.5, weight, reduction=reduction), rand(3, 4))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("positive", [True, False])
def test_binary_cross_entropy_with_logits(positive, weighted, reduction):
    weight, pos_weight = rand(3, 4) if weighted else None, rand(4) + 1 if positive else None

    def f(x, t):
        return F.binary_cross_entropy_with_logits(x, t, weight, reduction=reduction, pos_weight=pos_weight)

    check(f, randn(3, 4) * 3, rand(3, 4))
    check_second(f, randn(3, 4) * 3, rand(3, 4))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "options", [{}, {"ignore_index": 0}, {"label_smoothing": 0.1}, {"ignore_index": 0, "label_smoothing": 0.1}], ids=str
)
@pytest.mark.parametrize("weighted", [True, False])
def test_cross_entropy(weighted, options, reduction):
    weight = rand(4) if weighted else None

    def f(x):
        return F.cross_entropy(x, LABELS, weight, reduction=reduction, **options)

    check(f, randn(3, 4))
    check_second(f, randn(3, 4))


def test_cross_entropy_of_probabilities_and_without_batch():
    check(nn.CrossEntropyLoss(), randn(3, 4), randn(3, 4).softmax(1))
    check(lambda x: F.cross_entropy(x, LABELS[0]), randn(4))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_of_images(reduction):
    labels, weight = torch.randint(0, 4, (3, 5, 2)), rand(4)
    check(lambda x: F.cross_entropy(x, labels, weight, reduction=reduction, ignore_index=2), randn(3, 4, 5, 2))
    check_second(lambda x: F.cross_entropy(x, labels, weight, reduction=reduction), randn(3, 4, 5, 2))
    check(lambda x: F.nll_loss(x, labels[..., 0], reduction=reduction), randn(3, 4, 5))


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("log_target", [True, False])
def test_kl_div(log_target, reduction):
    target = randn(3, 4).log_softmax(1) if log_target else randn(3, 4).softmax(1)
    check(nn.KLDivLoss(reduction=reduction, log_target=log_target), randn(3, 4).log_softmax(1), target)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_poisson_and_gaussian(reduction):
    check(nn.PoissonNLLLoss(reduction=reduction), randn(3, 4), rand(3, 4))
    check(nn.PoissonNLLLoss(log_input=False, full=True, reduction=reduction), rand(3, 4), rand(3, 4) * 5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", [{}, {"p": 2}, {"margin": 0.3}], ids=str)
@pytest.mark.parametrize("weighted", [True, False])
def test_multi_margin(weighted, options, reduction):
    weight = rand(4) if weighted else None

    def f(x):
        return F.multi_margin_loss(x, LABELS, reduction=reduction, weight=weight, **options)

    check(f, randn(3, 4))
    if reduction == "mean" and weighted:
        import memograd as mg

        x = randn(3, 4)
        hessian = mg.hessian(f)(x)
        expected = torch.autograd.functional.hessian(_multi_margin(weight, **options), x)
        torch.testing.assert_close(hessian, expected, rtol=1e-9, atol=1e-12)


def _multi_margin(weight, p=1, margin=1.0):
    """The definition, for autograd (which has no second derivative of the kernel)."""

    def f(x):
        z = (margin - x.gather(1, LABELS[:, None]) + x).clamp_min(0) ** p * weight[LABELS][:, None]
        return (z * (torch.arange(4) != LABELS[:, None])).sum(1).mean() / 4

    return f


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_multilabel_losses_have_the_gradients_of_autograd(reduction):
    target = torch.tensor([[3, 0, -1, 1], [0, 1, 2, 3], [-1, 0, 0, 0]])
    check(lambda x: F.multilabel_margin_loss(x, target, reduction=reduction), randn(3, 4))
    weight = rand(4)
    check(lambda x, t: F.multilabel_soft_margin_loss(x, t, weight, reduction=reduction), randn(3, 4), rand(3, 4))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_pairs_and_triplets(reduction):
    check(lambda a, b: F.margin_ranking_loss(a, b, PLUS_MINUS, 0.3, reduction=reduction), randn(3), randn(3))
    check(lambda a: F.hinge_embedding_loss(a, PLUS_MINUS, reduction=reduction), randn(3))
    check(lambda a, b: F.cosine_embedding_loss(a, b, PLUS_MINUS, reduction=reduction), randn(3, 4), randn(3, 4))
    check(nn.TripletMarginLoss(reduction=reduction, swap=True), randn(3, 4), randn(3, 4), randn(3, 4))
    distance = nn.TripletMarginWithDistanceLoss(distance_function=F.pairwise_distance, reduction=reduction)
    check(distance, randn(3, 4), randn(3, 4), randn(3, 4))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("zero_infinity", [True, False])
def test_ctc_has_the_gradients_of_autograd(zero_infinity, reduction):
    targets, lengths, sizes = torch.randint(1, 5, (3, 4)), torch.tensor([7, 8, 8]), torch.tensor([2, 4, 3])

    def f(x):
        return F.ctc_loss(x.log_softmax(2), targets, lengths, sizes, reduction=reduction, zero_infinity=zero_infinity)

    check(f, randn(8, 3, 5), tolerance=1e-9)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, float("inf")])
def test_losses_of_distances_have_the_gradients_of_autograd(p):
    check(
        lambda a, b: torch.cdist(a, b, p, compute_mode="donot_use_mm_for_euclid_dist"), randn(2, 4, 3), randn(2, 5, 3)
    )
    check(lambda a: torch.pdist(a, p), randn(5, 3))


def test_cosine_similarity_and_pairwise_distance():
    check(nn.CosineSimilarity(), randn(3, 4), randn(3, 4))
    check(nn.PairwiseDistance(), randn(3, 4), randn(3, 4))


def test_multi_margin_of_a_single_score():
    x, target = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0)
    assert mg.jacfwd(lambda x: F.multi_margin_loss(x, target))(x) == 0
