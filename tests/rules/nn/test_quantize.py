"""Fake quantization against torch.autograd."""

import pytest
import torch
from witness import check

SCALE, ZERO = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2])
X = torch.linspace(-3, 3, 12).reshape(4, 3)  # inside and outside of the range


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 1, -8, 7),
        lambda x: torch.fake_quantize_per_tensor_affine(x, SCALE[0], ZERO[1], -8, 7),
        lambda x: torch.fake_quantize_per_channel_affine(x, SCALE, ZERO.int(), 1, -8, 7),
    ],
)
def test_straight_through(f):
    check(lambda x: f(x).sin(), X, second=False)


def test_learnable_scale_and_zero_point():
    """``grad_factor`` is 1; per channel the axis is 1."""
    tensor, channel = (
        torch._fake_quantize_learnable_per_tensor_affine,
        torch._fake_quantize_learnable_per_channel_affine,
    )
    first = SCALE[:1].clone(), ZERO[1:2].float()
    check(lambda x, s, z: tensor(x, s, z, -8, 7, 1.0).sin(), X, *first, second=False, rtol=1e-5)
    check(lambda x, s, z: channel(x, s, z, 1, -8, 7, 1.0).sin(), X, SCALE, ZERO.float(), second=False, rtol=1e-5)


def test_quantization_aware_training():
    """The default of ``torch.ao.quantization``: observes the range in the same operator that quantizes."""
    module = torch.ao.quantization.default_fused_act_fake_quant()
    module(X)  # sets the range
    module.disable_observer()
    check(lambda x: module(x).sin(), X, second=False)
