"""Pooling against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, randn
from torch import nn
from torch.nn import functional as F

SHAPES = {1: (2, 3, 11), 2: (2, 3, 9, 8), 3: (2, 3, 7, 6, 5)}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE_AVG = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
ADAPTIVE_MAX = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
UNPOOL = {1: nn.MaxUnpool1d, 2: nn.MaxUnpool2d, 3: nn.MaxUnpool3d}


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 1}, {"padding": 1}, {"ceil_mode": True}, {"dilation": 2, "stride": 1}, {"return_indices": True}],
    ids=str,
)
def test_max_pooling_has_the_gradients_of_autograd(dims, options):
    check(MAX[dims](2, **options), randn(*SHAPES[dims]))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 1},
        {"padding": 1},
        {"padding": 1, "count_include_pad": False},
        {"padding": 1, "ceil_mode": True, "count_include_pad": False},
    ],
    ids=str,
)
def test_average_pooling_has_the_gradients_of_autograd(dims, options):
    check(AVG[dims](3, **options), randn(*SHAPES[dims]))


@pytest.mark.parametrize("module", [nn.AvgPool2d(2, divisor_override=3), nn.AvgPool3d(2, divisor_override=3)], ids=str)
def test_average_pooling_with_a_divisor_has_the_gradients_of_autograd(module):
    check(module, randn(*SHAPES[2 if isinstance(module, nn.AvgPool2d) else 3]))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_adaptive_pooling_has_the_gradients_of_autograd(dims, size):
    check(ADAPTIVE_AVG[dims](size), randn(*SHAPES[dims]))
    check(ADAPTIVE_MAX[dims](size), randn(*SHAPES[dims]))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unpooling_has_the_gradients_of_autograd(dims):
    pool, unpool = MAX[dims](2, return_indices=True), UNPOOL[dims](2)
    check(lambda x: unpool(*pool(x), output_size=x.shape), randn(*SHAPES[dims]))


@pytest.mark.parametrize("dims", [2, 3])
def test_fractional_pooling_has_the_gradients_of_autograd(dims):
    function = {2: F.fractional_max_pool2d, 3: F.fractional_max_pool3d}[dims]
    samples = torch.rand(2, 3, dims, dtype=torch.float64)
    check(lambda x: function(x, 2, output_size=3, _random_samples=samples), randn(*SHAPES[dims]))


@pytest.mark.parametrize("module", [nn.LPPool1d(2, 3), nn.LPPool2d(3, 2), nn.LocalResponseNorm(2)], ids=str)
def test_composite_pooling_has_the_gradients_of_autograd(module):
    check(module, randn(2, 3, 8, 8).abs() if not isinstance(module, nn.LPPool1d) else randn(2, 3, 8).abs())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    "table", [MAX, AVG, ADAPTIVE_AVG, ADAPTIVE_MAX], ids=["max", "avg", "adaptive_avg", "adaptive_max"]
)
def test_second_order(dims, table):
    check_second(lambda x: table[dims](2)(x).tanh(), randn(*SHAPES[dims]))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
@pytest.mark.parametrize("how", [{"scale_factor": 2}, {"size": (5, 11)}, {"scale_factor": (0.5, 1.5)}], ids=str)
def test_interpolation_has_the_gradients_of_autograd(mode, how):
    check(lambda x: F.interpolate(x, mode=mode, **how), randn(2, 3, 6, 7))
    check_second(lambda x: F.interpolate(x, mode=mode, **how).sin(), randn(2, 3, 6, 7))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolate_corners_and_antialias(mode):
    check(lambda x: F.interpolate(x, size=(4, 9), mode=mode, align_corners=True), randn(2, 3, 6, 7))
    check(lambda x: F.interpolate(x, size=(4, 9), mode=mode, antialias=True), randn(2, 3, 6, 7))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "trilinear"])
def test_interpolate_other_dimensions(mode):
    if mode != "trilinear":
        check(lambda x: F.interpolate(x, size=9, mode=mode), randn(2, 3, 6))
    if mode != "linear":
        check(lambda x: F.interpolate(x, size=(4, 5, 6), mode=mode), randn(2, 3, 3, 4, 5))


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grid_sample(mode, padding):
    grid = torch.rand(2, 4, 5, 2, dtype=torch.float64) * 2.4 - 1.2
    check(lambda x, g: F.grid_sample(x, g, mode, padding, align_corners=False), randn(2, 3, 6, 7), grid)


def test_grid_sample_3d():
    grid = torch.rand(2, 4, 5, 3, 3, dtype=torch.float64) * 2.4 - 1.2
    check(lambda x, g: F.grid_sample(x, g, align_corners=True), randn(2, 3, 6, 7, 4), grid)
