"""check_grads accepts right derivatives and names wrong ones."""

import pytest
import torch

import memograd as mg
from memograd.testing import GradientMismatchError, check_grads

X = torch.randn(3, 2, dtype=torch.float64)


def test_right_derivatives_pass():
    check_grads(lambda x, z: (x.sin() * z, (x * z).cos()), (X, X + 1))
    check_grads(lambda x, n: x.sin() * n["scale"], (X, {"scale": 3}))


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
