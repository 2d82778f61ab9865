"""Fresh memory, and every kind of write, against plain torch.autograd: first and second derivative."""

import pytest
import torch
from idioms.agreement import check_function
from torch.nn import functional as F

Z = {"dtype": torch.float64}
X = torch.tensor([[0.3, -1.2, 2.0, 0.7], [1.1, 0.4, -0.6, -1.5], [-0.2, 0.9, 1.7, 0.5]], **Z)
W = torch.tensor([0.5, -0.8, 1.3, 0.9], **Z)
I, J = torch.tensor([0, 2]), torch.tensor([0, 0, 1])
MASK = X > 0.45

FRESH = {
    "zeros": lambda x: torch.zeros(3, 4, **Z),
    "ones": lambda x: torch.ones(3, 4, **Z),
    "full": lambda x: torch.full((3, 4), 0.5, **Z),
    "arange": lambda x: torch.arange(12, **Z).view(3, 4),
    "linspace": lambda x: torch.linspace(0, 1, 12, **Z).reshape(3, 4),
    "logspace": lambda x: torch.logspace(0, 0.3, 12, **Z).view(3, 4),
    "eye": lambda x: torch.eye(3, 4, **Z),
    "rand": lambda x: torch.rand(3, 4, **Z),
    "randn": lambda x: torch.randn(3, 4, **Z),
    "zeros_like": lambda x: torch.zeros_like(x),
    "ones_like": lambda x: torch.ones_like(x),
    "full_like": lambda x: torch.full_like(x, 2.0),
    "rand_like": lambda x: torch.rand_like(x),
    "randn_like": lambda x: torch.randn_like(x),
    "new_zeros": lambda x: x.new_zeros(3, 4),
    "new_ones": lambda x: x.new_ones(3, 4),
    "new_full": lambda x: x.new_full((3, 4), 0.2),
    "new_tensor": lambda x: x.new_tensor([[0.1] * 4] * 3),
    "tensor": lambda x: torch.tensor([[0.1] * 4] * 3, **Z),
    "as_tensor": lambda x: torch.as_tensor([[0.1] * 4] * 3, **Z),
    "tril_indices": lambda x: torch.tril_indices(3, 4).double().sum(0)[:4].repeat(3, 1),
    "one_hot": lambda x: F.one_hot(torch.arange(3), 4).double(),
    "stacked numbers": lambda x: torch.stack([torch.tensor(float(k), **Z) for k in range(12)]).view(3, 4),
    "meshgrid": lambda x: torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")[0].double().clone(),
    "transposed": lambda x: torch.zeros(4, 3, **Z).t(),
    "part of a larger one": lambda x: torch.zeros(5, 8, **Z)[1:4, ::2],
    "permuted": lambda x: torch.zeros(4, 1, 3, **Z).permute(2, 1, 0).squeeze(1),
    "detached": lambda x: x.detach().clone(),
    "data": lambda x: x.data.clone(),
    "without grad": lambda x: torch.zeros_like(x, requires_grad=False),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", FRESH)
def test_fresh_memory_filled_column_by_column(name):
    def f(x, w):
        out = FRESH[name](x)
        for t in range(1, 4):
            out[:, t] = x[:, t].sin() * w[t] + 0.5 * out[:, t - 1]
        return (out**2).sum()

    check_function(f, [X, W])


@pytest.mark.parametrize("make", ["empty", "empty_like", "new_empty", "empty_strided"])
def test_empty_memory_filled_before_it_is_read(make):
    def f(x, w):
        out = {
            "empty": lambda: torch.empty(3, 4, **Z),
            "empty_like": lambda: torch.empty_like(x),
            "new_empty": lambda: x.new_empty(x.shape),
            "empty_strided": lambda: torch.empty_strided((3, 4), (1, 3), **Z),
        }[make]()
        for t in range(4):
            out[:, t] = x[:, t] * w[t]
        return (out * out.cos()).sum()

    check_function(f, [X, W])


WRITES = {
    "row = ": lambda o, x, w: o.__setitem__(0, w.sin()),
    "entry = ": lambda o, x, w: o.__setitem__((1, 2), x[0, 0] * w[1]),
    "slice = ": lambda o, x, w: o.__setitem__((slice(None), slice(1, 3)), x[:, :2].exp()),
    "steps = ": lambda o, x, w: o.__setitem__((slice(None), slice(None, None, 2)), x[:, 1::2].tanh()),
    "last = ": lambda o, x, w: o.__setitem__((..., -1), x.sum(1)),
    "everything = ": lambda o, x, w: o.__setitem__(slice(None), x * w),
    "everything = number": lambda o, x, w: o.__setitem__(slice(None), 0.5),
    "mask = ": lambda o, x, w: o.__setitem__(MASK, x[MASK].sin()),
    "mask = number": lambda o, x, w: o.__setitem__(MASK, w.sum()),
    "rows of a mask = ": lambda o, x, w: o.__setitem__(torch.tensor([True, False, True]), w),
    "index = ": lambda o, x, w: o.__setitem__(I, x[:2].sin()),
    "columns of an index = ": lambda o, x, w: o.__setitem__((slice(None), I), x[:, 1:3] * w[:2]),
    "pairs of indices = ": lambda o, x, w: o.__setitem__((torch.arange(3), torch.tensor([0, 2, 1])), x[:, 3]),
    "list of indices = ": lambda o, x, w: o.__setitem__([0, 1], x[1:] * 2),
    "new axis = ": lambda o, x, w: o.__setitem__((None, 0), w[None]),
    "broadcast = ": lambda o, x, w: o.__setitem__(slice(1, None), w * 3),
    "row += ": lambda o, x, w: o[0].__iadd__(w),
    "index += repeated": lambda o, x, w: o.__setitem__(J, o[J] + x),
    "+= ": lambda o, x, w: o.__iadd__(x * w),
    "-= ": lambda o, x, w: o.__isub__(x.exp()),
    "*= ": lambda o, x, w: o.__imul__(w),
    "/= ": lambda o, x, w: o.__itruediv__(1 + x**2),
    "**= ": lambda o, x, w: o.__ipow__(2),
    "add_ alpha": lambda o, x, w: o.add_(x, alpha=-2),
    "sub_": lambda o, x, w: o.sub_(w),
    "copy_": lambda o, x, w: o.copy_(x.sin()),
    "copy_ broadcast": lambda o, x, w: o.copy_(w),
    "copy_ single precision": lambda o, x, w: o.copy_((x > 0).float()).add_(x),
    "lerp_": lambda o, x, w: o.lerp_(x, 0.3),
    "addcmul_": lambda o, x, w: o.addcmul_(x, w, value=0.5),
    "addcdiv_": lambda o, x, w: o.addcdiv_(x, 1 + w**2),
    "addmm_": lambda o, x, w: o.addmm_(x, torch.outer(w, w)),
    "addr_": lambda o, x, w: o.addr_(x[:, 0], w),
    "index_add_": lambda o, x, w: o.index_add_(0, J, x.sin()),
    "index_copy_": lambda o, x, w: o.index_copy_(1, I, x[:, :2] * w[0]),
    "index_fill_": lambda o, x, w: o.index_fill_(0, I, 0.5).mul_(x),
    "index_put_ accumulate": lambda o, x, w: o.index_put_((J,), x * w, accumulate=True),
    "index_reduce_": lambda o, x, w: o.index_reduce_(0, J, x, "mean"),
    "scatter_": lambda o, x, w: o.scatter_(1, torch.tensor([[0], [2], [1]]), x[:, :1] * w[0]),
    "scatter_ number": lambda o, x, w: o.scatter_(1, torch.tensor([[0], [2], [1]]), 0.5).mul_(w),
    "scatter_add_": lambda o, x, w: o.scatter_add_(1, torch.zeros(3, 4, dtype=torch.long), x.sin()),
    "scatter_reduce_ amax": lambda o, x, w: o.scatter_reduce_(1, (MASK * 2), x * w, "amax"),
    "scatter_reduce_ prod": lambda o, x, w: o.scatter_reduce_(1, (MASK * 2), x * w, "prod"),
    "masked_fill_": lambda o, x, w: o.masked_fill_(MASK, w.sum()).mul_(x),
    "masked_scatter_": lambda o, x, w: o.masked_scatter_(MASK, x.sin()),
    "put_": lambda o, x, w: o.put_(torch.tensor([0, 5, 11]), w[:3]),
    "fill_": lambda o, x, w: o.fill_(w.prod()),
    "zero_ then add_": lambda o, x, w: o.zero_().add_(w),
    "fill_diagonal_": lambda o, x, w: o.fill_diagonal_(0.5).mul_(x),
    "clamp_": lambda o, x, w: o.mul_(x).clamp_(-0.6, 0.8),
    "clamp_ by tensors": lambda o, x, w: o.mul_(x).clamp_(max=w),
    "relu_": lambda o, x, w: o.mul_(x).relu_(),
    "tanh_": lambda o, x, w: o.mul_(x).tanh_(),
    "sigmoid_": lambda o, x, w: o.mul_(x).sigmoid_(),
    "exp_": lambda o, x, w: o.mul_(x).exp_(),
    "cumsum_": lambda o, x, w: o.mul_(x).cumsum_(1),
    "tril_": lambda o, x, w: o.mul_(x).tril_(),
    "F.relu(inplace)": lambda o, x, w: F.relu(o.mul_(x), inplace=True),
    "F.dropout(inplace)": lambda o, x, w: F.dropout(o.mul_(x), 0.5, inplace=True),
    "transposed_ back": lambda o, x, w: o.t_().mul_(w[:, None]).t_(),
    "unsqueeze_ squeeze_": lambda o, x, w: o.unsqueeze_(0).mul_(w).squeeze_(0),
    "view of a view": lambda o, x, w: o.t()[1:][0].mul_(x[:, 0]).add_(x[:, 1]),
    "flat": lambda o, x, w: o.reshape(-1)[::2].copy_(x.reshape(-1)[::2].exp()),
    "diagonal": lambda o, x, w: o.diagonal().add_(w[:3]),
    "narrow": lambda o, x, w: o.narrow(1, 1, 2).mul_(x[:, :2]),
    "select": lambda o, x, w: o.select(1, -1).copy_(x[:, 0]),
    "hsplit": lambda o, x, w: torch.hsplit(o, 2)[1].copy_(x[:, 1:3]),
    "as_strided": lambda o, x, w: o.as_strided((3,), (5,)).add_(w[:3]),
    "unflatten": lambda o, x, w: o.unflatten(1, (2, 2))[:, 0].mul_(x[:, :2]),
    "movedim": lambda o, x, w: o.movedim(0, 1)[2].copy_(x[:, 1]),
    "swapaxes": lambda o, x, w: o.swapaxes(0, 1)[0].add_(x[:, 1]),
    "mT": lambda o, x, w: o.mT[1].sub_(x[:, 3]),
    "torch.where": lambda o, x, w: o.copy_(torch.where(MASK, x, o + w)),
    "detach": lambda o, x, w: o.detach().mul_(3.0),
    "data": lambda o, x, w: o.data.mul_(3.0),
    "data of a view": lambda o, x, w: o[0].data.add_(1.0),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("base", ["fresh", "computed"])
@pytest.mark.parametrize("name", WRITES)
def test_writes(name, base):
    def f(x, w):
        out = torch.full((3, 4), 0.7, **Z) if base == "fresh" else x * 0.5 + 1
        WRITES[name](out, x, w)
        return (out * w * out).sum()

    check_function(f, [X, W])
