"""Loss and metrics after an epoch. Witness: the whole data as one batch."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from memograd.errors import DataError
from memograd.train.batches import Batches
from memograd.train.validation import Validation, accuracy


def setting(criterion, metrics=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    return model, Validation(model, criterion, metrics, Batches(criterion is not None), nullcontext)


def test_means_are_over_samples_and_not_over_batches():
    model, validation = setting(nn.CrossEntropyLoss())
    x, y = torch.randn(7, 3), torch.arange(7) % 4
    values = validation([(x[:5], y[:5]), (x[5:], y[5:])])
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    assert values["validation_loss"] == pytest.approx(nn.CrossEntropyLoss()(model(x), y).item(), rel=1e-6)
    assert values["validation_accuracy"] == pytest.approx(sum(model(x).argmax(1) == y).item() / 7)


def test_metrics_of_ones_own_stand_in_for_accuracy():
    _, validation = setting(nn.CrossEntropyLoss(), {"most": lambda output, target: output.max()})
    assert set(validation([(torch.ones(2, 3), torch.tensor([0, 1]))])) == {"validation_loss", "validation_most"}


def test_a_target_that_is_no_class_has_no_accuracy():
    _, validation = setting(nn.MSELoss())
    assert set(validation([(torch.ones(2, 3), torch.ones(2, 4))])) == {"validation_loss"}


def test_no_batches():
    with pytest.raises(DataError, match="no batches"):
        setting(nn.CrossEntropyLoss())[1]([])


def test_accuracy_counts_right_answers():
    output = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    assert accuracy(output, torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)
