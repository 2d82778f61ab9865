"""Softmax and its logarithm against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, randn
from torch.nn import functional as F


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("f", [F.softmax, F.log_softmax, F.softmin], ids=lambda f: f.__name__)
def test_softmaxes_along_each_dimension_have_the_gradients_of_autograd(f, dim):
    check(lambda x: f(x, dim), randn(2, 3, 4))
    check_second(lambda x: f(x, dim).sin(), randn(2, 3, 4))


@pytest.mark.parametrize("f", [F.softmax, F.log_softmax], ids=lambda f: f.__name__)
def test_softmaxes_in_another_precision_have_the_gradients_of_autograd(f):
    check(lambda x: f(x, 1, dtype=torch.float64), torch.randn(2, 3), tolerance=1e-5)


def test_gumbel_free_composites():
    check(lambda x: torch.logsumexp(x, 1), randn(2, 3))
    check(lambda x: -(x.softmax(1) * x.log_softmax(1)).sum(1), randn(2, 3))
