"""Gradients of a wrapped model lie in memory of their own. Witness: gradients of plain PyTorch."""

import copy

import pytest
import torch
from torch import nn

import memograd as mg


class Sum(nn.Module):
    """The gradients of ``a`` and ``c`` are views of one tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(2, 3))
        self.c = nn.Parameter(torch.randn(3, 2))

    def forward(self, x):
        return (x * 2 + self.a.view(2, 3) + self.b + self.c.view(2, 3)).tanh()


@pytest.mark.parametrize("budget", [None, "1MiB"])
def test_gradients_that_are_views_of_one_tensor_are_clipped_once(budget):
    torch.manual_seed(0)
    theirs = Sum().double()
    ours = mg.wrap(copy.deepcopy(theirs), memory_budget=budget)
    x = torch.randn(2, 3, dtype=torch.float64)
    ours(x).sum().backward()
    nn.utils.clip_grad_norm_(ours.parameters(), 0.1)
    # of copies: PyTorch's own two are views of one tensor as well
    gradients = [g.clone() for g in torch.autograd.grad(theirs(x).sum(), list(theirs.parameters()))]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for p, gradient in zip(ours.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient * 0.1 / (norm + 1e-6))
    assert len({p.grad.untyped_storage().data_ptr() for p in ours.parameters()}) == 3


def test_a_hook_that_writes_to_a_gradient_writes_to_no_other(monkeypatch):
    monkeypatch.setattr("memograd.frontend.segments.LEAST_BYTES", 0)
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(3, 3), Sum()).double()
    ours = mg.wrap(copy.deepcopy(theirs))

    def forget(parameter):
        parameter.grad.zero_()

    for p in ours[1].parameters():
        p.register_post_accumulate_grad_hook(forget)
    x = torch.randn(2, 3, dtype=torch.float64)
    for _ in range(2):
        ours.zero_grad()
        ours(x).sum().backward()
    gradients = torch.autograd.grad(theirs(x).sum(), list(theirs[0].parameters()))
    for p, gradient in zip(ours[0].parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient)
