"""Sparse matrices (COO) that a program is given, holds, or makes. Witness: plain PyTorch; of second derivatives, where
autograd's own by sparse tensors are wrong, the same program with dense matrices."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn, optim

import memograd as mg

T = torch.Tensor
F64 = torch.float64
INDICES = torch.tensor([[0, 1, 2, 2], [1, 0, 0, 1]])
TWICE = torch.tensor([[0, 1, 2, 2], [1, 0, 0, 0]])


def randn(*shape: int, seed: int = 0) -> T:
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def sparse(values: T, indices: T = INDICES) -> T:
    return torch.sparse_coo_tensor(indices, values, (3, 3))


def dense(values: T) -> T:
    return torch.zeros(3, 3, dtype=F64).index_put((INDICES[0], INDICES[1]), values)


PROGRAMS: dict[str, Callable[[T, T, T], T]] = {
    "added to a dense one": lambda v, w, h: w + sparse(v),
    "indices given twice": lambda v, w, h: w + sparse(v, TWICE),
    "product": lambda v, w, h: sparse(v, TWICE) @ h,
    "torch.sparse.mm": lambda v, w, h: torch.sparse.mm(sparse(v), h),
    "torch.sparse.addmm": lambda v, w, h: torch.sparse.addmm(h, sparse(v), h, beta=0.5, alpha=3.0),
    "coalesced": lambda v, w, h: sparse(v, TWICE).coalesce() @ h,
    "transposed": lambda v, w, h: sparse(v).t() @ h,
    "dense again": lambda v, w, h: sparse(v, TWICE).to_dense() * w,
    "of rows": lambda v, w, h: torch.sparse_coo_tensor(INDICES[:1, :3], h, (3, 2)).to_dense() * h,
    "product of two": lambda v, w, h: (sparse(v) @ sparse(v * v)).to_dense(),
    "sum": lambda v, w, h: (-sparse(v) / 3 + sparse(v * v)).to_dense() * w,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_by_the_values_of_a_sparse_matrix(name: str) -> None:
    def f(v: T, w: T, h: T) -> T:
        return PROGRAMS[name](v, w, h).sin().sum()

    points = randn(4), randn(3, 3, seed=1), randn(3, 2, seed=2)
    leaves = [p.clone().requires_grad_() for p in points]
    expected = torch.autograd.grad(f(*leaves), leaves, materialize_grads=True, allow_unused=True)
    ours = mg.grad(f, (0, 1, 2))(*points)
    torch.testing.assert_close(ours, tuple(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("turn", [lambda a, w: a @ w, lambda a, w: (a.to_dense() if a.is_sparse else a) + w])
def test_second_derivatives_are_those_of_the_dense_matrix(turn: Callable[[T, T], T]) -> None:
    w = randn(3, 3, seed=1)

    def second(make: Callable[[T], T]) -> T:
        return mg.grad(lambda v: mg.grad(lambda v: (turn(make(v * v), w) ** 3).sum())(v).sin().sum())(randn(4))

    leaf = randn(4).requires_grad_()
    (g,) = torch.autograd.grad((turn(dense(leaf * leaf), w) ** 3).sum(), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(g.sin().sum(), leaf)
    with mg.testing.check_transforms(False):
        torch.testing.assert_close(second(sparse), expected, rtol=1e-10, atol=1e-10)


class Convolution(nn.Module):
    """Two layers of a graph network, with the graph as a buffer or an argument."""

    def __init__(self, adjacency: T | None = None, looks: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.looks = nn.Linear(4, 4), nn.Linear(4, 3), looks
        self.register_buffer("adjacency", adjacency)

    def forward(self, x: T, adjacency: T | None = None) -> T:
        a = self.adjacency if adjacency is None else adjacency
        assert a is not None and a.is_sparse
        h = torch.sparse.mm(a, self.first(x)).relu()
        if self.looks and h.sum() > 0:
            h = h * 2
        return self.second(a.t() @ h).square().mean()


def graph(seed: int, edges: int = 9) -> T:
    generator = torch.Generator().manual_seed(seed)
    at = torch.randint(0, 6, (2, edges), generator=generator)
    return torch.sparse_coo_tensor(at, randn(edges, seed=seed), (6, 6)).coalesce()


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_training_on_a_sparse_graph(held: bool, looks: bool) -> None:
    """The graph is another one at each step where it is an argument."""
    torch.manual_seed(0)
    plain = Convolution(graph(1) if held else None, looks).double()
    stepped, wrapped = copy.deepcopy(plain), mg.wrap(copy.deepcopy(plain), backend="eager")
    step = mg.TrainStep(stepped, None, optim.SGD(stepped.parameters(), lr=0.1), backend="eager")
    loops = [(m, optim.SGD(m.parameters(), lr=0.1)) for m in (plain, wrapped)]
    for k in range(4):
        batch = (randn(6, 4, seed=k),) if held else (randn(6, 4, seed=k), graph(k, 9 + k // 2))
        step(*batch)
        for model, optimizer in loops:
            optimizer.zero_grad()
            model(*batch).backward()
            optimizer.step()
    for model in (stepped, wrapped):
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


class Holding(nn.Module):
    """A graph that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.adjacency = nn.Linear(4, 3).double(), graph(1)

    def forward(self, x: T) -> T:
        return (self.adjacency @ self.linear(x)).sin().sum()


def test_wrapped_models_hold_graphs_in_attributes() -> None:
    torch.manual_seed(0)
    plain = Holding()
    wrapped = mg.wrap(copy.deepcopy(plain))
    for k in range(3):
        for model in (plain, wrapped):
            model.adjacency = graph(k)
            model(randn(6, 4, seed=k)).backward()
    torch.testing.assert_close(wrapped.linear.weight.grad, plain.linear.weight.grad, rtol=1e-12, atol=1e-12)


def test_a_graph_that_the_program_holds_is_looked_up() -> None:
    held = {"a": graph(1)}
    gradient = mg.grad(lambda x: (held["a"] @ x).sin().sum())
    for seed in (1, 2, 3):
        held["a"] = graph(seed)
        leaf = randn(6, 2).requires_grad_()
        (expected,) = torch.autograd.grad((held["a"] @ leaf).sin().sum(), leaf)
        torch.testing.assert_close(gradient(randn(6, 2)), expected)


@pytest.mark.parametrize("given", [True, False])
def test_compressed_matrices_are_refused_by_name(given: bool) -> None:
    a, x = graph(1).to_sparse_csr(), randn(6, 2)
    with pytest.raises(mg.CaptureError, match=r"torch.sparse_csr.*to_dense"):
        if given:
            mg.grad(lambda x, a: (a @ x).sum())(x, a)
        else:
            mg.grad(lambda x: (a @ x).sum())(x)


def test_gradients_for_a_sparse_argument_are_refused_by_name() -> None:
    with pytest.raises(mg.CaptureError, match=r"layout torch\.sparse_coo"):
        mg.grad(lambda a: (a @ a.t()).to_dense().sum())(graph(1))


@pytest.mark.parametrize("start", ["step", "wrap", "grad"])
def test_compressed_arguments_are_refused_by_name(start: str) -> None:
    model = nn.Linear(3, 2)
    rows = torch.eye(3).to_sparse_csr()
    calls: dict[str, Callable[[], object]] = {
        "step": lambda: mg.TrainStep(model, lambda out: out.sum(), optim.SGD(model.parameters(), 0.1))(rows),
        "wrap": lambda: mg.wrap(nn.Linear(3, 2))(rows),
        "grad": lambda: mg.grad(lambda w, a: (a @ w).sum())(torch.ones(3, 2), rows),
    }
    with pytest.raises(mg.CaptureError, match=r"layout torch\.sparse_csr"):
        calls[start]()


def test_values_of_a_program_may_be_compressed() -> None:
    layer = nn.Linear(2, 2)
    matrix = torch.eye(3).to_sparse()

    def program(x: T) -> T:
        return (matrix.to_sparse_csr() @ layer(x)).square().sum()

    x = torch.ones(3, 2, requires_grad=True)
    program(x).backward()
    torch.testing.assert_close(mg.grad(program)(torch.ones(3, 2)), x.grad)


CROW, COLUMNS = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1])


def product_of_compressed(x: torch.Tensor) -> torch.Tensor:
    adjacency = torch.sparse_csr_tensor(CROW, COLUMNS, torch.ones(3, dtype=x.dtype), size=(2, 2))
    twice = (adjacency @ adjacency).to_sparse_coo()
    return (x[twice.indices()[0]].sin() * twice.values()).sum()


def product_with_a_compressed_one(x: torch.Tensor) -> torch.Tensor:
    columns = torch.sparse_csc_tensor(CROW, COLUMNS, torch.arange(3, dtype=x.dtype), size=(2, 2))
    return (columns @ x[:2, None]).sin().sum()


def values_of_a_compressed_one(x: torch.Tensor) -> torch.Tensor:
    adjacency = torch.sparse_csr_tensor(CROW, COLUMNS, torch.arange(3, dtype=x.dtype), size=(2, 2))
    return (adjacency.values() * x).sin().sum() + x[adjacency.col_indices()].square().sum()


@pytest.mark.parametrize("f", [product_of_compressed, product_with_a_compressed_one, values_of_a_compressed_one])
def test_compressed_matrices_made_of_their_parts(f) -> None:
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(mg.grad(f)(x.detach()), torch.autograd.grad(f(x), x)[0])
