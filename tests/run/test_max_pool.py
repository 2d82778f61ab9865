"""Pooling as a compiled loop: PyTorch's results and indices to the last bit."""

from itertools import product

import pytest
import torch
from torch import nn, optim

import memograd as mg
from memograd import c_compiler
from memograd.run import images as compiled_images
from memograd.run import max_pool

pytestmark = pytest.mark.skipif(c_compiler.compiler() is None, reason="no C compiler")

aten = torch.ops.aten
CASES = [  # kernel, stride, padding, dilation, ceil_mode
    ([2, 2], [2, 2], [0, 0], [1, 1], False),
    ([3, 3], [2, 2], [1, 1], [1, 1], False),
    ([3, 2], [1, 3], [1, 0], [1, 1], True),
    ([3, 3], [2, 1], [1, 1], [2, 3], False),
    ([2, 3], [3, 2], [1, 1], [3, 2], True),
    ([5, 5], [1, 1], [2, 2], [1, 1], False),
]


def images(shape: tuple[int, ...], dtype: torch.dtype, kind: str) -> torch.Tensor:
    x = torch.randint(-3, 3, shape, generator=torch.Generator().manual_seed(0)).to(dtype)  # many are equal
    if kind == "not finite":
        x.view(-1)[::7], x.view(-1)[3::5], x.view(-1)[1::11] = torch.nan, -torch.inf, torch.inf
        x[..., :4, :4] = -torch.inf
    return x


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_and_indices_are_pytorchs(case) -> None:
    for shape, dtype, kind in product(
        [(2, 3, 9, 11), (3, 12, 8), (1, 1, 7, 7), (2, 2, 9, 67)],
        [torch.float32, torch.float64],
        ["finite", "not finite"],
    ):
        x = images(shape, dtype, kind)
        ours, theirs = torch.ops.memograd.max_pool2d(x, *case), aten.max_pool2d_with_indices(x, *case)
        for a, b in zip(ours, theirs, strict=True):
            assert a.stride() == b.stride()
            assert torch.equal(a.nan_to_num(9e9), b.nan_to_num(9e9)) and torch.equal(a.isnan(), b.isnan())


def test_threads_do_not_matter(monkeypatch) -> None:
    monkeypatch.setattr(compiled_images, "_SHARE", 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x = images((4, 5, 9, 11), torch.float32, "finite")
    ours, theirs = torch.ops.memograd.max_pool2d(x, *CASES[1]), aten.max_pool2d_with_indices(x, *CASES[1])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_other_memory_than_was_said_is_pytorchs() -> None:
    x = images((2, 3, 9, 11), torch.float32, "finite").to(memory_format=torch.channels_last)
    ours, theirs = torch.ops.memograd.max_pool2d(x, *CASES[1]), aten.max_pool2d_with_indices(x, *CASES[1])
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_row_that_does_not_fit_on_the_stack_is_pytorchs() -> None:
    x = torch.randn(1, 1, 4_000_000)  # samples of a sound; the stack has 8 MB
    graph = max_pool.compiled_pooling(mg.capture(lambda x: nn.functional.max_pool1d(x, 2), x))
    assert all("memograd" not in str(node.target) for node in graph.nodes)
    case = ([1, 2], [1, 2], [0, 0], [1, 1], False)
    ours, theirs = torch.ops.memograd.max_pool2d(x[None], *case), aten.max_pool2d_with_indices(x[None], *case)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_window_as_wide_as_a_text_is_pytorchs() -> None:
    graph = mg.capture(lambda x: nn.functional.max_pool1d(x, 500), torch.randn(50, 100, 500))
    assert all("memograd" not in str(node.target) for node in max_pool.compiled_pooling(graph).nodes)


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Linear(4 * 256, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.pool(self.conv(x)).flatten(1))


@pytest.mark.parametrize("compiler", [True, False])
def test_steps_pool_with_it(compiler: bool, monkeypatch) -> None:
    if not compiler:
        max_pool._function.cache_clear()
        monkeypatch.setattr(c_compiler, "compiler", lambda: None)
    torch.manual_seed(0)
    model, x, y = Pools(), torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 0])
    twin = Pools()
    twin.load_state_dict(model.state_dict())
    optimizers = [optim.SGD(m.parameters(), lr=0.1) for m in (model, twin)]
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optimizers[0], backend="eager")
    for _ in range(3):
        loss = step(x, y)
        optimizers[1].zero_grad()
        plain = nn.functional.cross_entropy(twin(x), y)
        plain.backward()
        optimizers[1].step()
        torch.testing.assert_close(loss, plain.detach())
    text = step._required().choice.backend.function.__code__.co_names
    assert any(name.startswith("memograd·max_pool2d") for name in text) == compiler
