"""Where ATen has a fused backward kernel the differentiated graph calls it, and differentiating again still works."""

import pytest
import torch
import torch.nn.functional as F

import memograd as mg

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
ROWS = X[0, 0]
TARGET = torch.tensor([0, 1, 2, 3, 4, 5])
W = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(1))
HEADS = X.reshape(2, 4, 9, 4)

# name: (function, argument, the kernel in its gradient)
CASES = {
    "sigmoid": (torch.sigmoid, X, "sigmoid_backward"),
    "tanh": (torch.tanh, X, "tanh_backward"),
    "gelu": (F.gelu, X, "gelu_backward"),
    "silu": (F.silu, X, "silu_backward"),
    "mish": (F.mish, X, "mish_backward"),
    "relu": (torch.relu, X, "threshold_backward"),
    "threshold": (lambda x: F.threshold(x, 0.1, 0.0), X, "threshold_backward"),
    "elu": (F.elu, X, "elu_backward"),
    "hardtanh": (F.hardtanh, X, "hardtanh_backward"),
    "hardswish": (F.hardswish, X, "hardswish_backward"),
    "hardsigmoid": (F.hardsigmoid, X, "hardsigmoid_backward"),
    "leaky_relu": (F.leaky_relu, X, "leaky_relu_backward"),
    "softplus": (F.softplus, X, "softplus_backward"),
    "logsigmoid": (F.logsigmoid, X, "log_sigmoid_backward"),
    "glu": (lambda x: F.glu(x, 1), X, "glu_backward"),
    "softmax": (lambda x: x.softmax(-1), X, "_softmax_backward_data"),
    "log_softmax": (lambda x: x.log_softmax(-1), X, "_log_softmax_backward_data"),
    "layer_norm": (lambda x: F.layer_norm(x, (6, 6)), X, "native_layer_norm_backward"),
    "group_norm": (lambda x: F.group_norm(x, 2), X, "native_group_norm_backward"),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), X, "native_batch_norm_backward"),
    "conv": (lambda x: F.conv2d(x, W.to(x.dtype)), X, "convolution_backward"),
    "conv_transpose": (lambda x: F.conv_transpose2d(x, W.to(x.dtype)), X, "convolution_backward"),
    "max_pool": (lambda x: F.max_pool2d(x, 2), X, "max_pool2d_with_indices_backward"),
    "avg_pool": (lambda x: F.avg_pool2d(x, 2), X, "avg_pool2d_backward"),
    "adaptive_avg_pool": (lambda x: F.adaptive_avg_pool2d(x, 2), X, "_adaptive_avg_pool2d_backward"),
    "adaptive_max_pool": (lambda x: F.adaptive_max_pool2d(x, 2), X, "adaptive_max_pool2d_backward"),
    "upsample nearest": (lambda x: F.interpolate(x, scale_factor=2), X, "upsample_nearest2d_backward"),
    "upsample bilinear": (
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        X,
        "upsample_bilinear2d_backward",
    ),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x.sin(), x.cos()),
        HEADS,
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "mse_loss": (lambda x: F.mse_loss(x, x.sin()), X, "mse_loss_backward"),
    "nll_loss": (lambda x: F.nll_loss(x, TARGET), ROWS, "nll_loss_backward"),
    "nll_loss of images": (lambda x: F.nll_loss(x, TARGET.expand(2, 6, 6) % 4), X, "nll_loss2d_backward"),
    "cross_entropy": (lambda x: F.cross_entropy(x, TARGET), ROWS, "_log_softmax_backward_data"),
    "smooth_l1_loss": (lambda x: F.smooth_l1_loss(x, x.sin()), X, "smooth_l1_loss_backward"),
    "huber_loss": (lambda x: F.huber_loss(x, x.sin()), X, "huber_loss_backward"),
    "binary_cross_entropy": (
        lambda x: F.binary_cross_entropy(x.sigmoid(), torch.full_like(x, 0.3)),
        X,
        "binary_cross_entropy_backward",
    ),
    "embedding": (lambda w: F.embedding(TARGET, w), ROWS, "embedding_dense_backward"),
    "pad": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), X, "reflection_pad2d_backward"),
    "grid_sample": (lambda x: F.grid_sample(x, X[..., :2].tanh().to(x.dtype)), X, "grid_sampler_2d_backward"),
}


# Where autograd has no second derivative of the kernel: the same function by other operators.
PLAIN = {"hardsigmoid": lambda x: (x / 6 + 0.5).clamp(0, 1)}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_calls_the_kernel(name):
    f, x, kernel = CASES[name]
    joint = mg.differentiate(mg.capture(lambda x: f(x).sin().sum(), x))
    called = [n.target.overloadpacket.__name__ for n in joint.nodes if hasattr(n.target, "overloadpacket")]
    assert kernel in called, joint.code


@pytest.mark.parametrize("name", CASES)
def test_differentiating_again_works(name):
    """Against torch.autograd, which has a second derivative of some only in their plain form."""
    f, x, _ = CASES[name]
    x = x.double()

    def again(x):
        return (mg.grad(lambda x: f(x).sin().sum())(x) * x.cos()).sum()

    leaf = x.clone().requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = PLAIN.get(name, f)
        (first,) = torch.autograd.grad(plain(leaf).sin().sum(), leaf, create_graph=True)
    try:
        (second,) = torch.autograd.grad((first * leaf.cos()).sum(), leaf)
    except RuntimeError as error:
        if name != "grid_sample" or "is not implemented" not in str(error):
            raise
        pytest.skip(f"PyTorch {torch.__version__} cannot be the witness: {error}")
    rtol = 1e-5 if name == "hardsigmoid" else 1e-8  # the kernel multiplies by a 1/6 of single precision
    torch.testing.assert_close(mg.grad(again)(x), second, rtol=rtol, atol=1e-8 if name in PLAIN else 1e-10)
