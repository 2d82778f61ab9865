"""A run taken up again has the weights and the optimizer's state that were saved. Witness: copies of them."""

import copy

import pytest
import torch
from torch import nn, optim

from memograd.errors import DataError
from memograd.train.resumable import Resumable


def trained(folder, seed, lr=0.1, **settings):
    torch.manual_seed(seed)
    model = nn.Linear(2, 1)
    optimizer = optim.SGD(model.parameters(), lr, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return Resumable(folder, model, optimizer, {"lr": lr, **settings})


def test_weights_and_state_come_back(tmp_path):
    run = trained(tmp_path, 0)
    run.save(done=3)
    expected = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict()))
    other = trained(tmp_path, 1)
    assert other.take_up()["done"] == 3
    torch.testing.assert_close((other.model.state_dict(), other.optimizer.state_dict()), expected, rtol=0, atol=0)


def test_a_folder_without_a_checkpoint(tmp_path):
    assert trained(tmp_path, 0).take_up() is None


def test_other_settings_are_refused_and_nothing_changes(tmp_path):
    trained(tmp_path, 0, data="mnist").save()
    other = trained(tmp_path, 1, lr=0.2, data="mnist")
    before = copy.deepcopy(other.model.state_dict())
    with pytest.raises(DataError, match=r"lr = 0.1, not 0.2"):
        other.take_up()
    torch.testing.assert_close(other.model.state_dict(), before, rtol=0, atol=0)
