"""Convolutions against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, double, randn
from torch import nn

SHAPES = {1: (2, 4, 9), 2: (2, 4, 7, 6), 3: (2, 4, 5, 4, 5)}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
OPTIONS = [
    {},
    {"bias": False},
    {"stride": 2},
    {"padding": 1},
    {"dilation": 2},
    {"groups": 2},
    {"groups": 4, "stride": 2, "padding": 1},
    {"stride": 2, "padding": 1, "dilation": 2, "groups": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_have_the_gradients_of_autograd(dims, options):
    check(double(PLAIN[dims](4, 8, 2, **options)), randn(*SHAPES[dims]))


@pytest.mark.parametrize("options", [*OPTIONS, {"stride": 3, "output_padding": 1, "groups": 2}], ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolutions_have_the_gradients_of_autograd(dims, options):
    check(double(TRANSPOSED[dims](4, 8, 2, **options)), randn(*SHAPES[dims]))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_padding_mode(dims, mode):
    check(double(PLAIN[dims](4, 3, 3, padding=1, padding_mode=mode)), randn(*SHAPES[dims]))


def test_padding_by_name_and_missing_batch():
    check(double(nn.Conv2d(4, 3, 3, padding="same")), randn(*SHAPES[2]))
    check(double(nn.Conv2d(4, 3, 3, padding="valid")), randn(4, 5, 6))


def test_channels_last():
    x = randn(*SHAPES[2]).to(memory_format=torch.channels_last)
    check(double(nn.Conv2d(4, 3, 3)), x)


@pytest.mark.parametrize("module", [nn.Unfold(2, stride=2), nn.Unfold(3, dilation=1, padding=1)], ids=str)
def test_unfold_has_the_gradients_of_autograd(module):
    check(module, randn(2, 3, 6, 6))


def test_fold_has_the_gradients_of_autograd():
    check(nn.Fold((4, 5), 2), randn(2, 12, 12))


@pytest.mark.parametrize("module", [nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2)], ids=str)
def test_shuffles_have_the_gradients_of_autograd(module):
    check(module, randn(2, 4, 4, 6))


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}], ids=str)
@pytest.mark.parametrize("dims", [1, 2])
def test_second_order(dims, options):
    function = {1: nn.functional.conv1d, 2: nn.functional.conv2d}[dims]
    weight = randn(4, 4 // options.get("groups", 1), *[3] * dims)
    check_second(lambda x, w, b: function(x, w, b, **options).tanh(), randn(*SHAPES[dims]), weight, randn(4))


def test_second_order_transposed():
    def f(x, w, b):
        return nn.functional.conv_transpose2d(x, w, b, stride=3, output_padding=1, groups=2)

    check_second(f, randn(*SHAPES[2]), randn(4, 3, 2, 2), randn(6))


def test_time_first():
    x, weight, bias = randn(6, 2, 3), randn(3, 3, 4), randn(4)
    check(lambda x, w, b: torch.conv_tbc(x, w, b, 1).sin(), x, weight, bias)
