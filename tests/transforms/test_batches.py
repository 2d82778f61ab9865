"""Graphs in batches: Jacobians row by row, and gradients of samples one by one, are the witness."""

from collections.abc import Callable

import pytest
import torch

import memograd as mg

F64 = torch.float64
P = [0.0, 0.5, 1.0, 2.0, 3.0, float("inf")]


def _halved(x: torch.Tensor) -> torch.Tensor:
    h = x * 1
    h[..., -2:].div_(2)
    h[1:-1] += h[2:].clone()
    h[:, -9:9] *= 3
    h[3:1] = 7.0
    return h.sin()


@pytest.mark.parametrize("p", P)
def test_distances_pull_many_cotangents_back(p: float) -> None:
    """PyTorch's batching rule of ``_cdist_backward`` takes points that are no batch for one."""
    a, b = torch.rand(3, 2, dtype=F64), torch.rand(4, 2, dtype=F64)
    b[0] = a[1]

    def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cdist(a, b, p)

    expected = torch.autograd.functional.jacobian(distances, (a, b))
    torch.testing.assert_close(mg.jacrev(distances, (0, 1))(a, b), expected)
    torch.testing.assert_close(mg.jacfwd(distances, (0, 1))(a, b), expected)


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)])
def test_distances_of_samples(in_dims: tuple[int | None, int | None]) -> None:
    a, b = torch.rand(2, 3, 2, dtype=F64), torch.rand(2, 4, 2, dtype=F64)

    def spread(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cdist(a, b).sin().sum()

    given = [x if d == 0 else x[0] for x, d in zip((a, b), in_dims, strict=True)]
    found = torch.func.vmap(mg.grad(spread, (0, 1)), in_dims)(*given)
    for k in range(2):
        points = [(x[k] if d == 0 else x).requires_grad_() for x, d in zip(given, in_dims, strict=True)]
        expected = torch.autograd.grad(spread(points[0], points[1]), points)
        torch.testing.assert_close(tuple(f[k] for f in found), expected)


@pytest.mark.parametrize("shapes", [((3, 5), (0, 4, 5)), ((0, 3, 5), (4, 5)), ((3, 5), (2, 4, 5)), ((3, 0), (4, 0))])
def test_distances_of_batches_of_any_size(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Of a batch of nothing the kernel returns another shape than of others."""
    a, b = (torch.rand(shape, dtype=F64, requires_grad=True) for shape in shapes)
    y = torch.cdist(a, b)
    expected = torch.autograd.grad(y, (a, b), torch.ones_like(y))
    _, pull = mg.vjp(torch.cdist, a.detach(), b.detach())
    torch.testing.assert_close(pull(torch.ones_like(y)), expected)


@pytest.mark.parametrize("transform", [mg.jacrev, mg.jacfwd])
def test_writes_into_slices_counted_from_the_end(transform: Callable[..., Callable[..., torch.Tensor]]) -> None:
    x = torch.rand(4, 5, dtype=F64)
    torch.testing.assert_close(transform(_halved)(x), torch.autograd.functional.jacobian(_halved, x))


def test_writes_into_slices_of_samples() -> None:
    xs = torch.rand(3, 4, 5, dtype=F64)
    found = torch.func.vmap(mg.grad(lambda x: _halved(x).sum()))(xs)
    points = [x.clone().requires_grad_() for x in xs]
    torch.testing.assert_close(found, torch.stack([torch.autograd.grad(_halved(x).sum(), x)[0] for x in points]))


@pytest.mark.parametrize("index", [torch.tensor(2), torch.tensor([2])])
def test_an_element_by_one_number(index: torch.Tensor) -> None:
    """PyTorch's ``vmap`` of ``index_select`` by a tensor without dimensions returns the whole row."""
    xs, copied = torch.rand(3, 4, dtype=F64), torch.rand(1, dtype=F64)

    def picked(x: torch.Tensor) -> torch.Tensor:
        return (x.index_select(0, index) * torch.arange(4.0, dtype=F64)).sin()

    def written(x: torch.Tensor) -> torch.Tensor:
        return x.expand(4, 4).index_copy(0, index, x[None] * copied).sin()

    for f in (picked, written):
        torch.testing.assert_close(mg.jacfwd(f)(xs[0]), torch.autograd.functional.jacobian(f, xs[0]))
        found = torch.func.vmap(mg.grad(lambda x, f=f: f(x).sum()))(xs)
        points = [x.clone().requires_grad_() for x in xs]
        torch.testing.assert_close(found, torch.stack([torch.autograd.grad(f(x).sum(), x)[0] for x in points]))


def test_complex_numbers_of_pairs_that_lie_at_odd_places() -> None:
    """Of a batch of cotangents of five numbers, four of which are pairs, those of the second begin at an odd place.
    Where those of the first do, autograd refuses them."""
    x = torch.rand(2, dtype=F64)

    def parts(x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.view_as_real(torch.polar(x, x * x)).reshape(-1), x.sin().sum()[None]]

    expected = torch.autograd.functional.jacobian(lambda x: torch.cat(parts(x)), x)
    torch.testing.assert_close(mg.jacrev(lambda x: torch.cat(parts(x)))(x), expected)
    torch.testing.assert_close(mg.jacrev(lambda x: torch.cat(parts(x)[::-1]))(x), expected.roll(1, 0))
