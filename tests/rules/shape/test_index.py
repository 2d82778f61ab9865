"""Rules of indexing, gathering, scattering and sorting, against autograd."""

import pytest
import torch
from witness import check

import memograd as mg

INDEX = torch.tensor([0, 2, 2, 1])
WHERE = torch.tensor([[0, 1, 2, 0], [2, 2, 0, 1]])
MASK = torch.tensor([[True, False, True, False], [False, False, True, True], [True, False, False, False]])


def assigned(x, where, value):
    y = x * 1.0
    y[where] = value
    return y


READS = {
    "integer": lambda x: x[INDEX],
    "two": lambda x: x[INDEX, INDEX],
    "broadcast": lambda x: x[INDEX[:, None], WHERE[0]],
    "second": lambda x: x[:, INDEX],
    "negative": lambda x: x[-INDEX],
    "index_select": lambda x: x.index_select(-1, INDEX),
    "gather": lambda x: x.gather(0, WHERE),
    "take": lambda x: x.take(WHERE * 3),
    "take_along_dim": lambda x: x.take_along_dim(WHERE, 0),
    "sort": lambda x: x.sort(-1).values,
    "sort_stable": lambda x: x.sort(dim=0, descending=True, stable=True).values,
    "topk": lambda x: x.topk(2, 0).values,
    "msort": torch.msort,
}
WRITES = {
    "index_put": lambda x, z: torch.index_put(x, (INDEX[1:2],), z[0]),
    "index_put_accumulate": lambda x, z: torch.index_put(x, (INDEX,), z[0], True),
    "index_put_mask": lambda x, z: torch.index_put(x, (MASK,), z[0, 0]),
    "index_put_row_mask": lambda x, z: torch.index_put(x, (MASK[:, 0],), z[0]),
    "index_put_counted_mask": lambda x, z: torch.index_put(x, (MASK,), z.reshape(-1)[:5]),
    "index_put_counted_rows": lambda x, z: torch.index_put(x, (torch.tensor([True, False, True]),), z[1:], True),
    "inner_mask": lambda x, z: assigned(x, (slice(None), MASK[0]), z[:, :2]),
    "inner_mask_in_one_row": lambda x, z: assigned(x, (slice(None), MASK[0]), z[0, :2]),
    "inner_mask_by_one_column": lambda x, z: assigned(x, (slice(None), MASK[0]), z[:, :1]),
    "inner_mask_of_two_dims": lambda x, z: assigned(x[None].expand(2, 3, 4), (..., MASK), z[:2].repeat(1, 2)[:, :5]),
    "index_add": lambda x, z: x.index_add(0, INDEX[:3], z, alpha=2),
    "index_copy": lambda x, z: x.index_copy(0, torch.tensor([2, 0, 1]), z),
    "index_fill": lambda x, z: x.index_fill(0, INDEX[1:], z[0, 0]),
    "index_fill_number": lambda x, z: x.index_fill(-1, INDEX[1:], 3.0) * z,
    "scatter": lambda x, z: x.scatter(1, torch.tensor([[1, 0], [3, 2]]), z[:2, :2]),
    "scatter_number": lambda x, z: x.scatter(0, WHERE, 2.0) * z,
    "scatter_add": lambda x, z: x.scatter_add(0, WHERE, z[:2]),
    "masked_fill": lambda x, z: x.masked_fill(MASK, z[0, 0]),
    "masked_fill_number": lambda x, z: x.masked_fill(MASK, 2.0) * z,
    "masked_scatter": lambda x, z: x.masked_scatter(MASK, z),
    "put": lambda x, z: x.put(torch.tensor([[0, 3], [5, 7]]), z[:2, :2]),
    "put_accumulate": lambda x, z: x.put(WHERE, z[:2], True),
    "where": lambda x, z: torch.where(MASK, x, z),
}


def values(*shape, seed=0):
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", READS)
def test_reads_by_index_have_the_gradients_of_autograd(name):
    check(READS[name], values(3, 4))
    check(lambda x: READS[name](x * x), values(3, 4))


@pytest.mark.parametrize("name", WRITES)
def test_writes_by_index_have_the_gradients_of_autograd(name):
    check(lambda x, z: WRITES[name](x * x, z * z), values(3, 4), values(3, 4, seed=1))


@pytest.mark.parametrize("reduce", ["sum", "prod", "mean", "amax", "amin"])
@pytest.mark.parametrize("include_self", [True, False])
def test_scatter_reduce(reduce, include_self):
    f = lambda x, z: x.scatter_reduce(0, WHERE, z, reduce, include_self=include_self)  # noqa: E731
    check(f, values(3, 4), values(2, 4, seed=1))
    check(f, torch.ones(3, 4, dtype=torch.double), torch.ones(2, 4, dtype=torch.double), second=False)


@pytest.mark.parametrize("reduce", ["prod", "mean", "amax", "amin"])
@pytest.mark.parametrize("include_self", [True, False])
def test_index_reduce(reduce, include_self):
    f = lambda x, z: x.index_reduce(0, INDEX, z, reduce, include_self=include_self)  # noqa: E731
    check(f, values(3, 4), values(4, 4, seed=1))


def test_scatter_product_with_a_zero():
    z = values(2, 4, seed=1)
    z[0, 1] = 0
    check(lambda x, z: x.scatter_reduce(0, WHERE, z, "prod"), values(3, 4), z, second=False)


def test_assignments_by_index_have_the_gradients_of_autograd():
    def f(x):
        y = x * 1
        y[MASK] = 0.5
        y[INDEX[:2]] += 1
        y[:, 0] = y[:, 1]
        y[1] = y[0].clone() * y[2].clone()
        return y * x

    check(f, values(3, 4))


SCALARS = {
    "a row by a number": (lambda x, v: x.index_put((torch.tensor(1),), v), (4,)),
    "an element by two": (lambda x, v: x.index_put((torch.tensor(1), torch.tensor(2)), v), ()),
    "added": (lambda x, v: x.index_put((torch.tensor(1),), v, accumulate=True), (4,)),
    "by a number and a list": (lambda x, v: x.index_put((torch.tensor(1), torch.tensor([0, 2])), v), (2,)),
}


@pytest.mark.parametrize("name", SCALARS)
def test_writes_by_indices_without_dimensions(name):
    f, shape = SCALARS[name]
    check(f, values(3, 4), values(*shape) if shape else values(1)[0])


@pytest.mark.parametrize("shape", [(), (4,), (3, 4)])
@pytest.mark.parametrize("mask", [True, False])
def test_writes_by_a_mask_without_dimensions(mask, shape):
    def f(x, v):
        y = x * 1
        y[torch.tensor(mask)] = v
        return (y * x).pow(2).sum()

    by_values(f, values(3, 4), values(*shape) if shape else values(1)[0])


def test_writes_into_a_number():
    def f(x, v):
        y = x * 2
        y[y > 0] = v
        return y * x

    by_values(f, values(1)[0], values(2)[1])


def by_values(f, *tensors):
    """Compare the gradients of a program that looks at values."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    expected = torch.autograd.grad(f(*leaves), leaves)
    torch.testing.assert_close(mg.grad(f, argnums=(0, 1))(*tensors), expected)
