"""What a data loader may give. Witness: the arguments that the plain loop would use."""

import pytest
import torch

from memograd.errors import DataError
from memograd.train.batches import Batches, size_of


def test_a_labelled_batch_is_inputs_and_a_target():
    x, y = torch.ones(2, 3), torch.zeros(2)
    assert Batches(labelled=True).arguments((x, y), "batch 1") == ([x, y], {})


def test_a_model_with_a_loss_of_its_own_takes_any_batch():
    x = torch.ones(2, 3)
    batches = Batches(labelled=False)
    assert batches.arguments({"x": x}, "batch 1") == ([], {"x": x})
    assert batches.arguments(x, "batch 1") == ([x], {})
    assert batches.arguments([x, x], "batch 1") == ([x, x], {})


@pytest.mark.parametrize("batch", [torch.ones(2), (torch.ones(2),), {"x": torch.ones(2)}])
def test_a_batch_without_a_target_is_refused(batch):
    with pytest.raises(DataError, match=r"batch 7: .* must yield \(inputs, target\)"):
        Batches(labelled=True).arguments(batch, "batch 7")


def test_nan_is_refused():
    with pytest.raises(DataError, match="batch 7: the data contain NaN"):
        Batches(labelled=False).arguments(torch.tensor([1.0, float("nan")]), "batch 7")


def test_the_number_of_samples():
    assert size_of({"name": "x", "x": torch.ones(5, 3)}) == 5
    assert size_of(torch.tensor(1.0)) == size_of("text") == 1
