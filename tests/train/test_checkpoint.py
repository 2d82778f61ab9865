"""Checkpoints: exact round trips, tied weights, damage, and what does not fit."""

import pytest
import torch
from torch import nn, optim

from memograd.errors import DataError
from memograd.train import checkpoint


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embedding.weight


def test_nested_values_come_back_exactly(tmp_path):
    state = {
        "tensors": [torch.randn(2, 3), (torch.tensor(5), None)],
        "numbers": {0: 0.1, 1: float("inf"), "flag": True},
        "betas": (0.9, 0.999),
        "empty": torch.zeros(0, 2),
    }
    checkpoint.save(tmp_path, state)
    back = checkpoint.load(tmp_path)
    assert back is not None and back["numbers"] == state["numbers"] and back["betas"] == (0.9, 0.999)
    assert torch.equal(back["tensors"][0], state["tensors"][0]) and back["tensors"][1][1] is None
    assert back["empty"].shape == (0, 2)
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.FILE]  # no temporary file is left


def test_tied_weights_are_written_once_and_read_back(tmp_path):
    model, other = Tied(), Tied()
    checkpoint.save_weights(tmp_path, model)
    checkpoint.load_weights(tmp_path, other)
    assert torch.equal(other.head.weight, model.embedding.weight)
    assert other.head.weight is other.embedding.weight


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "foreign"])
def test_damage_is_named_and_nothing_is_overwritten(tmp_path, damage):
    checkpoint.save(tmp_path, {"w": torch.ones(100)})
    path = tmp_path / checkpoint.FILE
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-10]
    elif damage == "flip":
        content[-5] ^= 1
    elif damage == "text":
        content = bytearray(b"not a checkpoint")
    else:
        checkpoint.save_weights(tmp_path, nn.Linear(1, 1))
        content = bytearray((tmp_path / checkpoint.WEIGHTS).read_bytes())
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"checkpoint\.safetensors.*[Rr]estore"):
        checkpoint.load(tmp_path)
    assert path.read_bytes() == content


def test_another_model_or_optimizer_is_refused_and_left_alone(tmp_path):
    model = nn.Linear(2, 3)
    optimizer = optim.Adam(model.parameters())
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "optimizer_type": "Adam"}
    checkpoint.save(tmp_path, state)
    saved = checkpoint.load(tmp_path)
    assert saved is not None
    other = nn.Linear(2, 4)
    with pytest.raises(DataError, match=r"'weight' is torch.float32 of shape \(4, 2\) in the model and .*\(3, 2\)"):
        checkpoint.restore(tmp_path, saved, other, optim.Adam(other.parameters()))
    same = nn.Linear(2, 3)
    before = same.weight.clone()
    with pytest.raises(DataError, match="a run with Adam, not SGD"):
        checkpoint.restore(tmp_path, saved, same, optim.SGD(same.parameters(), lr=0.1))
    assert torch.equal(same.weight, before)


def test_random_generators_go_on_where_they_were():
    state = checkpoint.random_state(None)
    first = torch.rand(3)
    checkpoint.restore_random(state, None)
    assert torch.equal(torch.rand(3), first)
