"""What PyTorch's kernels refuse, compiled steps refuse as well; the witness is PyTorch, run on the same batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memograd as mg

X, Y = torch.randn(3, 4), torch.randn(4, 5)
WHOLE = torch.tensor([[0, 1, 2], [3, 1, 0]])

REFUSED = {
    "two precisions in a product": (torch.mm, X.double(), Y),
    "whole numbers in a product with floats": (torch.mm, X, Y.long()),
    "a bias of another precision": (torch.addmm, torch.randn(5).double(), X, Y),
    "a vector of another precision": (torch.mv, X, torch.randn(4).double()),
    "targets of another precision": (F.binary_cross_entropy, X.sigmoid(), X.sigmoid().double()),
    "class weights of another precision": (
        lambda x, w: F.nll_loss(x, torch.tensor([0, 1, 2]), w), X, torch.ones(4).double()),
    "gelu of whole numbers": (F.gelu, WHOLE),
    "softplus of whole numbers": (F.softplus, WHOLE),
    "a variance of whole numbers": (torch.var, WHOLE),
    "softmax of whole numbers": (lambda x: x.softmax(0), WHOLE),
    "lerp between whole numbers": (lambda x: torch.lerp(x, x + 1, 0.5), WHOLE),
    "relu of truth values": (F.relu, WHOLE > 1),
}  # fmt: skip


class Scaled(nn.Module):
    """A program without parameters made one with a parameter, behind it."""

    def __init__(self, f):
        super().__init__()
        self.f, self.factor = f, nn.Parameter(torch.ones(()))

    def forward(self, *args):
        return (self.f(*args).float() * self.factor).sum()


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("check", ["first", "never"])
def test_what_pytorch_refuses_is_not_compiled(what, check):
    f, *args = REFUSED[what]
    with pytest.raises((RuntimeError, NotImplementedError)):
        Scaled(f)(*args)
    model = Scaled(f)
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.1), backend="native", check=check)
    with pytest.raises(RuntimeError):
        step(*args)
    assert model.factor.item() == 1


def test_the_refusal_says_where_and_what_to_do():
    model = nn.Sequential(nn.Linear(4, 2))
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), backend="native")
    with pytest.raises(mg.BackendError, match=r"torch.float64 .*module 'model.0'.*convert them first"):
        step(X.double(), torch.randn(3, 2))


def test_with_the_backend_left_open_pytorch_says_it_itself():
    model = nn.Sequential(nn.Linear(4, 2))
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="same dtype"):
        step(X.double(), torch.randn(3, 2))
