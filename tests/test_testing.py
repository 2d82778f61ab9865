"""check_grads accepts right derivatives and names wrong ones."""

import pytest
import torch

import memograd as mg
from memograd.testing import GradientMismatchError, check_grads

X = torch.randn(3, 2, dtype=torch.float64)


def test_right_derivatives_pass():
    check_grads(lambda x, z: (x.sin() * z, (x * z).cos()), (X, X + 1))
    check_grads(lambda x, n: x.sin() * n["scale"], (X, {"scale": 3}))


def test_rules_against_central_differences():
    """Witnesses other than autograd, for a rule of each family."""
    weight, image = torch.randn(2, 2, 3, 3).double(), torch.randn(1, 2, 5, 5).double()
    F = torch.nn.functional
    check_grads(lambda x, w: F.conv2d(x, w, padding=1, stride=2), (image, weight))
    check_grads(lambda x: F.layer_norm(x, (5,)), (image,))
    check_grads(lambda x: F.max_pool2d(x, 2), (image,))
    check_grads(lambda x: F.log_softmax(x, -1)[..., 0], (X,))
    check_grads(lambda x, z: (x @ z.t()).logsumexp(1), (X, X + 1))
    check_grads(lambda x: x.clamp(-10, 10)[[0, 0, 2]].cumsum(0).pow(3), (X,))
    check_grads(lambda x: torch.linalg.solve(x.t() @ x + torch.eye(2).double(), x.t()), (X,))


def test_a_wrong_rule_is_named():
    library = torch.library.Library("memograd_wrong", "DEF")
    library.define("square(Tensor x) -> Tensor")
    torch.library.impl(library, "square", "CompositeExplicitAutograd")(lambda x: x * x)

    @mg.rule(torch.ops.memograd_wrong.square.default)
    def square(adjoint, y, x):
        return adjoint * x  # the factor 2 is missing

    with pytest.raises(GradientMismatchError, match=r"order 1, argument 0.*memograd_wrong\.square.*index \(\d, \d\)"):
        check_grads(torch.ops.memograd_wrong.square, (X,))


def test_low_precision_is_refused():
    with pytest.raises(mg.MemogradError, match="float64"):
        check_grads(torch.sin, (X.float(),))
