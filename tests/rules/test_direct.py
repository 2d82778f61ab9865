"""Operators that PyTorch's own samples do not reach, called by name, against central differences."""

import pytest
import torch

import memograd as mg
from memograd.testing import check_grads

aten = torch.ops.aten
X = torch.linspace(0.3, 0.9, 6, dtype=torch.float64).reshape(2, 3)
Z = torch.linspace(1.1, 2.3, 6, dtype=torch.float64).reshape(2, 3)
IMAGE = torch.sin(torch.arange(16.0, dtype=torch.float64)).reshape(1, 1, 4, 4)
LINE, BOX = IMAGE.reshape(1, 2, 8), IMAGE.reshape(1, 1, 2, 2, 4)
COMPLEX = torch.complex(X, Z)
MASK = torch.tensor([[True, False, False], [False, False, True]])
MEAN, VAR = torch.zeros(3).double(), torch.ones(3).double()
ROWS = [torch.tensor([0, 1, 1]), torch.tensor([2, 0, 0])]


CASES = {
    "_cdist_backward": (
        lambda g, x, z: aten._cdist_backward(g, x, z, 3.0, aten._cdist_forward(x, z, 3.0, None)),
        (X[:, :2].contiguous(), X, Z),
    ),
    "_pdist_backward": (
        lambda g, x: aten._pdist_backward(g, x, 3.0, aten._pdist_forward(x, 3.0)),
        (torch.tensor([0.7]).double(), X),
    ),
    "_linalg_eigvals": (lambda x: aten._linalg_eigvals(x).prod().real, (Z[:, :2] + torch.diag(Z[0, :2]),)),
    "view_as_real_copy": (aten.view_as_real_copy, (COMPLEX,)),
    "_foreach_add.Tensor": (lambda a, b, t: torch._foreach_add([a, b], t), (X, Z, Z.sum())),
    "_foreach_div.Tensor": (lambda a, b, t: torch._foreach_div([a, b], t), (X, Z, Z.sum())),
    "_foreach_addcdiv.Scalar": (lambda a, b: torch._foreach_addcdiv([a], [b], [a], value=0.3), (X, Z)),
    "_foreach_addcmul.ScalarList": (lambda a, b: torch._foreach_addcmul([a], [b], [a], [0.3]), (X, Z)),
    "_foreach_lerp.List": (lambda a, b, w: torch._foreach_lerp([a], [b], [w]), (X, Z, X)),
    "_foreach_lerp.ScalarList": (lambda a, b: torch._foreach_lerp([a], [b], [0.3]), (X, Z)),
    "_foreach_mm": (lambda a, b: torch._foreach_mm([a], [b]), (X, Z.t().contiguous())),
    "_foreach_pow.ScalarList": (lambda a, b: torch._foreach_pow([a, b], [2.0, 3.0]), (X, Z)),
    "_foreach_powsum.Scalar": (lambda a, b: torch._foreach_powsum([a, b], 3), (X, Z)),
    "_lazy_clone": (aten._lazy_clone, (X,)),
    "_masked_softmax": (lambda x: aten._masked_softmax(x, MASK, 1, 2), (X,)),
    "_masked_softmax_backward": (
        lambda g, x: aten._masked_softmax_backward(g, aten._masked_softmax(x, MASK, 1, 2), MASK, 1),
        (Z, X),
    ),
    "_native_batch_norm_legit_no_training": (
        lambda x, w, b: aten._native_batch_norm_legit_no_training(x, w, b, MEAN, VAR, 0.1, 1e-5)[0],
        (X, Z[0], Z[1]),
    ),
    "_batch_norm_no_update": (
        lambda x, w, b: aten._batch_norm_no_update(x, w, b, MEAN, VAR, 0.1, 1e-5)[0],
        (X, Z[0], Z[1]),
    ),
    "_reshape_alias": (lambda x: aten._reshape_alias(x, [3, 2], [2, 1]), (X,)),
    "_reshape_copy": (lambda x: aten._reshape_copy(x, [3, 2]), (X,)),
    "_unsafe_index.Tensor": (lambda x: aten._unsafe_index(x, ROWS), (X,)),
    "_unsafe_index_put": (lambda x, v: aten._unsafe_index_put(x, ROWS, v, True), (X, Z[0])),
    "_upsample_bilinear2d_aa_backward": (
        lambda g: aten._upsample_bilinear2d_aa_backward(g, [4, 4], [1, 1, 6, 6], False),
        (IMAGE,),
    ),
    "_upsample_bicubic2d_aa_backward": (
        lambda g: aten._upsample_bicubic2d_aa_backward(g, [4, 4], [1, 1, 6, 6], False),
        (IMAGE,),
    ),
    "_upsample_lanczos2d_aa": (lambda x: aten._upsample_lanczos2d_aa(x, [3, 3], False), (IMAGE,)),
    "_upsample_lanczos2d_aa_backward": (
        lambda g: aten._upsample_lanczos2d_aa_backward(g, [4, 4], [1, 1, 6, 6], False),
        (IMAGE,),
    ),
    "_upsample_nearest_exact1d_backward": (
        lambda g: aten._upsample_nearest_exact1d_backward(g, [8], [1, 2, 5]),
        (LINE,),
    ),
    "_upsample_nearest_exact3d_backward": (
        lambda g: aten._upsample_nearest_exact3d_backward(g, [2, 2, 4], [1, 1, 3, 3, 3]),
        (BOX,),
    ),
    "upsample_linear1d_backward": (lambda g: aten.upsample_linear1d_backward(g, [8], [1, 2, 5], False), (LINE,)),
    "upsample_nearest1d_backward": (lambda g: aten.upsample_nearest1d_backward(g, [8], [1, 2, 5]), (LINE,)),
    "upsample_nearest3d_backward": (lambda g: aten.upsample_nearest3d_backward(g, [2, 2, 4], [1, 1, 3, 3, 3]), (BOX,)),
    "upsample_trilinear3d_backward": (
        lambda g: aten.upsample_trilinear3d_backward(g, [2, 2, 4], [1, 1, 3, 3, 3], True),
        (BOX,),
    ),
    "_weight_norm_interface_backward": (
        lambda h, v, g: aten._weight_norm_interface_backward(h, v, g, v.norm(dim=1, keepdim=True), 0),
        (X, Z, X[:, :1].contiguous()),
    ),
    "copysign.Scalar": (lambda x: aten.copysign.Scalar(x, -1.0), (X,)),
    "div.Scalar_mode": (lambda x: aten.div.Scalar_mode(x, 0.4, rounding_mode=None), (X,)),
    "fill.Tensor": (lambda x, v: aten.fill.Tensor(x, v), (X, Z.sum())),
    "fmod.Scalar": (lambda x: aten.fmod.Scalar(x, 0.37), (X,)),
    "remainder.Scalar": (lambda x: aten.remainder.Scalar(x, 0.37), (X,)),
    "remainder.Scalar_Tensor": (lambda x: aten.remainder.Scalar_Tensor(5.0, x), (X,)),
    "hardsigmoid_backward": (aten.hardsigmoid_backward, (Z, X)),
    "logit_backward": (lambda g, x: aten.logit_backward(g, x, 0.01), (Z, X)),
    "lift": (aten.lift, (X,)),
    "lift_fresh": (aten.lift_fresh, (X,)),
    "lift_fresh_copy": (aten.lift_fresh_copy, (X,)),
    "masked_scatter_backward": (lambda g: aten.masked_scatter_backward(g, MASK, [2]), (X,)),
    "multilabel_margin_loss_backward": (
        lambda g, x: aten.multilabel_margin_loss_backward(
            g, x, torch.tensor([[1, -1, 0], [0, 2, -1]]), 1, torch.tensor([[0, 1, 0], [1, 0, 1]]).double()
        ),
        (Z.sum(), X),
    ),
    "norm.Scalar": (lambda x: aten.norm.Scalar(x, 3), (X,)),
    "norm.ScalarOpt_dtype": (lambda x: aten.norm.ScalarOpt_dtype(x, 3, dtype=torch.float64), (X,)),
    "norm.ScalarOpt_dim_dtype": (lambda x: aten.norm.ScalarOpt_dim_dtype(x, 3, [1], True, dtype=torch.float64), (X,)),
    "reflection_pad3d_backward": (
        lambda g: aten.reflection_pad3d_backward(g, BOX[..., :2], [0, 0, 0, 0, 0, 0]),
        (BOX[..., :2].contiguous(),),
    ),
    "replication_pad3d_backward": (
        lambda g: aten.replication_pad3d_backward(g, BOX[..., :2], [1, 1, 0, 0, 0, 0]),
        (BOX,),
    ),
    "select_copy.int": (lambda x: aten.select_copy.int(x, 1, -1), (X,)),
    "slice_copy.Tensor": (lambda x: aten.slice_copy.Tensor(x, 1, 0, 3, 2), (X,)),
    "split_copy.Tensor": (lambda x: aten.split_copy.Tensor(x, 2, 1), (X,)),
    "squeeze_copy.dims": (lambda x: aten.squeeze_copy.dims(x, [0]), (X[:1].clone(),)),
    "unfold_backward": (lambda g: aten.unfold_backward(g, [5], 0, 3, 2), (X,)),
    "unsafe_split_with_sizes": (lambda x: aten.unsafe_split_with_sizes(x, [1, 2], 1), (X,)),
    "special_xlog1py.other_scalar": (lambda x: aten.special_xlog1py.other_scalar(x, 0.7), (X,)),
    "special_xlog1py.self_scalar": (lambda x: aten.special_xlog1py.self_scalar(0.7, x), (X,)),
    "special_zeta.self_scalar": (lambda x: aten.special_zeta.self_scalar(2.5, x), (X,)),
    "xlogy.Scalar_Other": (lambda x: aten.xlogy.Scalar_Other(x, 0.7), (X,)),
    "xlogy.Scalar_Self": (lambda x: aten.xlogy.Scalar_Self(0.7, x), (X,)),
}


NEW = ("_foreach_mm", "_upsample_lanczos2d_aa", "_upsample_lanczos2d_aa_backward")


@pytest.mark.parametrize("name", CASES)
def test_first_derivative(name):
    if name in NEW and not hasattr(aten, name):
        pytest.skip("this PyTorch does not have it")
    f, args = CASES[name]
    check_grads(f, args, order=1)


RANDOM = {
    "bernoulli.Tensor": lambda x: aten.bernoulli.Tensor(x, x),
    "bernoulli.p": lambda x: aten.bernoulli.p(x, 0.5),
    "cauchy": aten.cauchy,
    "exponential": aten.exponential,
    "geometric": lambda x: aten.geometric(x, 0.5),
    "log_normal": aten.log_normal,
    "normal.float_Tensor": lambda x: aten.normal.float_Tensor(0.0, x),
    "normal_functional": aten.normal_functional,
    "poisson": aten.poisson,
    "random": aten.random,
    "random.from": lambda x: aten.random(x, 2, 5),
    "random.to": lambda x: aten.random(x, 5),
    "uniform": aten.uniform,
    "foreach rounding": lambda x: torch._foreach_ceil([torch._foreach_floor([x])[0]])[0],
    "foreach rounding to": lambda x: torch._foreach_trunc(torch._foreach_round([x]))[0] + torch._foreach_sign([x])[0],
}


@pytest.mark.parametrize("name", RANDOM)
def test_draws_and_steps_have_a_gradient_of_zeros(name):
    assert torch.equal(mg.grad(lambda x: RANDOM[name](x).sum())(X), torch.zeros_like(X))


def test_batch_norm_with_statistics_of_its_own():
    """The operator writes to the running statistics; in a graph these are results."""

    def f(x, w, b):
        return aten._native_batch_norm_legit(x, w, b, MEAN.clone(), VAR.clone(), True, 0.1, 1e-5)[0]

    check_grads(f, (torch.cat([X, Z * Z]), Z[0], Z[1]), order=1)


def test_dropout_with_its_mask():
    """The same mask in both directions: ȳ comes through where y did."""

    def f(x):
        return aten.native_dropout(x, 0.5, True)[0]

    torch.manual_seed(0)
    y, pull = mg.vjp(f, X)
    assert torch.equal(pull(torch.ones_like(X))[0], (y != 0) * 2.0)


def test_gamma_draws_move_with_their_parameter():
    torch.manual_seed(0)
    x = Z.clone().requires_grad_()
    torch._standard_gamma(x).sum().backward()
    torch.manual_seed(0)
    assert torch.allclose(mg.grad(lambda a: torch._standard_gamma(a).sum())(Z), x.grad, rtol=1e-10)


@pytest.mark.parametrize("batch_first", [True, False])
def test_packed_sequences(batch_first):
    """The lengths are an argument of the program: the places of the packed rows are found from them."""
    lengths = torch.tensor([4, 2, 1])
    x = torch.randn(*((3, 4) if batch_first else (4, 3)), 2, dtype=torch.float64)
    check_grads(lambda x: aten._pack_padded_sequence(x, lengths, batch_first)[0].sin(), (x,))
