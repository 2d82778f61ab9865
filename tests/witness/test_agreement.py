"""Differences beyond rounding, and what is no difference."""

from math import inf, nan

import pytest
import torch
from single_precision import fp32_precision

import memograd as mg
from memograd._torch import FAKE
from memograd.witness.agreement import FLOAT64, Results, difference, differences, largest, precision_of


def far(ours, theirs, share=1e-5, noise=0.0):
    return difference("x", "x", torch.tensor(ours), torch.tensor(theirs), share, noise)


def test_within_a_share_of_the_largest_element_is_rounding():
    assert far([100.0, 1e-4], [100.0, 2e-4]) is None
    found = far([100.0, 1.0], [100.0, 2.0])
    assert found is not None and (found.error, found.scale, found.index) == (1.0, 100.0, (1,))
    assert "ours is 1 at index (1,), PyTorch's 2" in str(found)


def test_sparse_gradients_have_a_largest_element_and_are_compared():
    indices = torch.tensor([[3, 1, 3]])
    sparse = torch.sparse_coo_tensor(
        indices, torch.tensor([[1.0, 2.0], [0.5, -7.0], [4.0, 0.0]]), (5, 2), check_invariants=False
    )
    assert largest(sparse) == 7.0 and largest(torch.sparse_coo_tensor(size=(5, 2), check_invariants=False)) == 0.0
    assert difference("x", "x", sparse, sparse.to_dense(), 0.0, 0.0) is None


def test_noise_is_allowed_element_by_element():
    assert far([1.0, 5.0], [1.0, 2.0], noise=torch.tensor([0.0, 3.0])) is None
    assert far([2.0, 5.0], [1.0, 2.0], noise=torch.tensor([0.0, 3.0])).index == (0,)


def test_only_numbers_of_theirs_are_compared():
    assert far([1.0, 3.0], [1.0, nan]) is None
    assert far([nan, inf], [nan, inf]) is None
    assert far([1.0, nan], [1.0, 2.0]).error == inf
    assert far([1.0, inf], [1.0, 2.0]).error == inf


def test_other_shapes_dtypes_and_nothing_at_all():
    assert far([], []) is None
    assert far([1, 2], [1, 2]) is None and far([1, 2], [1, 3]).error == 1
    assert far([1 + 1j], [1 - 1j]).error == 2
    assert difference("x", "x", torch.ones(2, dtype=torch.bfloat16), torch.ones(2), 0.0, 0.0) is None


def test_a_gradient_that_one_side_lacks_is_zero():
    def named(gradient):
        return Results(torch.tensor(1.0), {"w": gradient, "v": torch.ones(1)}, {})

    assert not list(differences(named(None), named(torch.zeros(2)), 1e-5))
    assert not list(differences(named(torch.zeros(2)), named(None), 1e-5))
    assert [d.name for d in differences(named(torch.ones(2)), named(None), 1e-5)] == ["w"]
    assert [d.name for d in differences(named(None), named(torch.ones(2)), 1e-5)] == ["w"]


def test_a_gradient_far_below_all_others_may_be_noise():
    def of(w):
        return Results(torch.tensor(1.0), {"w": torch.tensor([w]), "v": torch.ones(1)}, {})

    assert not list(differences(of(3e-8), of(-2e-8), 1e-5))
    assert list(differences(of(3e-6), of(-2e-6), 1e-5))


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float64, "float64"), (torch.float32, "float32"), (torch.bfloat16, "bfloat16")]
)
def test_the_lowest_precision_in_a_graph_counts(dtype, name):
    graph = mg.capture(lambda x: x.to(dtype).sin().double().sum(), torch.ones(2, dtype=torch.float64))
    assert precision_of(graph).name == name


def test_integers_have_no_precision():
    assert precision_of(mg.capture(lambda x: x + 1, torch.ones(2, dtype=torch.long))) is FLOAT64


@pytest.mark.parametrize("shortened", [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn])
def test_cudas_single_precision_is_what_was_asked_for(shortened):
    """By the newer settings, kind by kind: where these are used PyTorch's older questions raise an error."""
    cudnn = torch.backends.cudnn
    graph = mg.capture(lambda x: x + 1, torch.ones(2))
    with FAKE:
        graph.placeholders[0].meta["val"] = torch.empty(2, device="cuda")
    with fp32_precision(cudnn.conv, "ieee"), fp32_precision(cudnn.rnn, "ieee"):
        assert precision_of(graph).name == "float32"
        with fp32_precision(shortened, "tf32"):
            assert precision_of(graph).name == "TensorFloat32"
