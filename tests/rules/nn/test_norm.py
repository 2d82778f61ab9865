"""Normalizations against torch.autograd."""

import pytest
import torch
from nn_witness import check, check_second, double, rand, randn
from torch import nn
from torch.nn import functional as F

SHAPES = {1: (4, 6, 5), 2: (4, 6, 5, 3), 3: (4, 6, 2, 3, 2)}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
OPTIONS = [{}, {"affine": False}, {"track_running_stats": False}, {"affine": False, "track_running_stats": False}]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch_norm(dims, options, training):
    check(double(BATCH[dims](6, **options)).train(training), randn(*SHAPES[dims]))


def test_batch_norm_of_rows_and_cumulative():
    check(double(nn.BatchNorm1d(6)), randn(5, 6))
    check(double(nn.BatchNorm1d(6, momentum=0.3, eps=0.1)), randn(5, 6))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"affine": True}, {"affine": True, "track_running_stats": True}], ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_instance_norm(dims, options, training):
    check(double(INSTANCE[dims](6, **options)).train(training), randn(*SHAPES[dims]))


@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("shape", [(3,), (5, 3)], ids=str)
def test_layer_norm(shape, options):
    check(double(nn.LayerNorm(shape, **options)), randn(*SHAPES[2]))


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm(groups, affine):
    check(double(nn.GroupNorm(groups, 6, affine=affine)), randn(*SHAPES[2]))
    check(double(nn.GroupNorm(groups, 6, affine=affine)), randn(*SHAPES[2]).to(memory_format=torch.channels_last))


@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"eps": 0.1}], ids=str)
def test_rms_norm(options):
    check(double(nn.RMSNorm((5, 3), **options)), randn(*SHAPES[2]))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_normalize_has_the_gradients_of_autograd(p):
    check(lambda x: F.normalize(x, p=p), randn(4, 6))


@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("dim", [0, -1])
def test_renorm_has_the_gradients_of_autograd(p, dim):
    """Some slices are longer than the maximum, some are not."""
    x = torch.tensor([[3.0, 4.0, 1.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
    check(lambda x: torch.renorm(x, p, dim, 2.0).sin(), x)
    check_second(lambda x: torch.renorm(x, p, dim, 2.0), x)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_layers_have_the_gradients_of_autograd(name):
    if name == "orthogonal":
        pytest.skip("needs Householder products")
    module = getattr(nn.utils.parametrizations, name)(double(nn.Linear(4, 3))).eval()
    check(module, randn(2, 4))


@pytest.mark.parametrize("training", [True, False])
def test_second_order_batch_norm(training):
    mean, var = randn(6), rand(6)

    def f(x, w, b):
        return F.batch_norm(x, mean.clone(), var.clone(), w, b, training=training).sin()

    check_second(f, randn(4, 6, 5), randn(6), randn(6), tolerance=1e-9)


def test_second_order_batch_norm_without_affine():
    check_second(lambda x: F.batch_norm(x, None, None, training=True).sin(), randn(4, 6, 5), tolerance=1e-9)


@pytest.mark.parametrize("name", ["_batch_norm_with_update", "_batch_norm_no_update"])
def test_batch_norm_as_exported_programs_call_it(name):
    mean, var = randn(6), rand(6)

    def f(x, w, b):
        return getattr(torch.ops.aten, name)(x, w, b, mean.clone(), var.clone(), 0.1, 1e-3)[0]

    check(f, randn(4, 6, 5), randn(6), randn(6))
    check_second(f, randn(4, 6, 5), randn(6), randn(6), tolerance=1e-9)


def test_second_order_layer_norm():
    check_second(
        lambda x, w, b: F.layer_norm(x, (5, 3), w, b).sin(), randn(2, 5, 3), randn(5, 3), randn(5, 3), tolerance=1e-9
    )
    check_second(lambda x: F.layer_norm(x, (3,)).sin(), randn(2, 5, 3), tolerance=1e-9)


def test_second_order_group_norm():
    check_second(lambda x, w, b: F.group_norm(x, 2, w, b).sin(), randn(2, 6, 5), randn(6), randn(6), tolerance=1e-9)
    check_second(lambda x: F.instance_norm(x).sin(), randn(2, 6, 5), tolerance=1e-9)


def test_second_order_rms_norm():
    check_second(lambda x, w: F.rms_norm(x, (3,), w, 1e-3).sin(), randn(2, 5, 3), randn(3), tolerance=1e-9)


def test_statistics_are_constants_to_a_program():
    """The kernel's mean and 1/σ, as autograd has it; formulas that compute them again carry gradients."""

    def kernel(x):
        y, mean, rstd = torch.native_layer_norm(x, (3,), None, None, 1e-3)
        return (y.sin() + mean * rstd * x).sum()

    def plain(x):
        mean = x.mean(-1, keepdim=True)
        rstd = (x.var(-1, keepdim=True, unbiased=False) + 1e-3).rsqrt()
        return (((x - mean) * rstd).sin() + (mean * rstd).detach() * x).sum()

    import memograd as mg

    x = randn(2, 5, 3)
    for f in (kernel, plain):
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(f(leaf), leaf)
        torch.testing.assert_close(mg.grad(kernel)(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 4, 0), (0, 4, 3), (0, 4)])
@pytest.mark.parametrize("affine", [False, True])
def test_group_norm_of_nothing(shape, affine):
    import memograd as mg

    x, w, b = rand(*shape), rand(4), rand(4)
    f = (lambda x, w, b: F.group_norm(x, 2, w, b).sum()) if affine else (lambda x, w, b: F.group_norm(x, 2).sum())
    to_x, to_w, to_b = mg.grad(f, argnums=(0, 1, 2))(x, w, b)
    assert to_x.shape == shape and not to_w.any() and not to_b.any()
