"""What a program cannot hand out."""

import pytest
import torch
from torch import nn

import memograd as mg


def test_a_buffer_that_gets_a_history_is_refused():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            self.total.add_(self.w * x)
            return self.total.sum()

    with pytest.raises(mg.CaptureError, match=r"writes to 'self.total' what depends on its parameters"):
        mg.wrap(Sums())(torch.ones(3))


@pytest.mark.parametrize("watch", [False, True])
def test_gradients_of_a_layer_with_sparse_ones_are_those_of_pytorch(watch):
    """The first backward pass ended in an error, where they were compared."""

    def gradients(wrapped):
        torch.manual_seed(0)
        bag, head = nn.EmbeddingBag(20, 4, mode="mean", sparse=True), nn.Linear(4, 2)
        model = nn.Sequential(bag, head)
        if wrapped:
            mg.wrap(model, watch=watch)
        model(torch.tensor([[1, 3], [3, 7]])).square().sum().backward()
        return [p.grad for p in model.parameters()]

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours.to_dense(), theirs.to_dense())
