"""The chunked linear_cross_entropy against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, randn
from torch.nn import functional as F

import memograd as mg

pytest.importorskip("torch.nn.modules.linear_cross_entropy", reason="PyTorch 2.11 does not have it")

TARGET = torch.tensor([0, 3, 1, 1, 2])


def chunked(reduction, **more):
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2, allow_retain_graph=reduction != "none")
    return lambda x, w, b: F.linear_cross_entropy(
        x, w, TARGET, linear_bias=b, reduction=reduction, options=options, **more
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_chunks(reduction):
    given = randn(5, 3), randn(4, 3), randn(4)
    code = check(chunked(reduction), *given).code
    assert ("_log_softmax" in code) == (reduction == "none")  # otherwise the logits are never held
    check(chunked(reduction, ignore_index=1), *given)
    check(chunked(reduction, weight=torch.rand(4, dtype=torch.float64)), *given)


def test_second_order_of_chunks():
    """Autograd has none; that of the whole is the witness."""
    given = randn(5, 3), randn(4, 3), randn(4)
    whole = lambda x, w, b: F.linear_cross_entropy(x, w, TARGET, linear_bias=b, reduction="none")  # noqa: E731
    check_second(chunked("none"), *given, reference=whole)
    x, w, b = given
    with pytest.raises(mg.NotDifferentiableError, match="without options"):
        mg.grad(lambda x: mg.grad(lambda x: chunked("mean")(x, w, b))(x).sum())(x)
