"""How PyTorch's CUDA allocator counts, on a machine without one: against a model of it, and with its functions in the
place of which something is put that keeps books as it does."""

from __future__ import annotations

import pytest
import torch

import memograd as mg
from memograd._torch import FAKE
from memograd.memory.costs import cuda, tensors
from memograd.memory.costs.allocations import memory
from memograd.memory.costs.trials import Trial

MIB = 1 << 20


@pytest.fixture(autouse=True)
def default_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def answered(request: int, cached: int) -> int:
    """What the allocator counts for a request that it answers from a cached block: CUDACachingAllocator.cpp, malloc and
    should_split. (Blocks of the small pool are split from 512 bytes on, those of the large one from 1 MiB on.)"""
    size = max(512, -(-request // 512) * 512)
    spare = cached - size
    split = spare >= 512 if size <= MIB else spare > MIB
    return size if split else cached


@pytest.mark.parametrize("request_", [1, 512, 513, 1000, MIB - 1, MIB, MIB + 1, 5 * MIB, 50 * MIB + 7])
def test_no_block_is_larger_than_promised(request_: int) -> None:
    size = -(-request_ // 512) * 512
    pool = range(size, min(size, MIB) + MIB, 512) if size <= MIB else range(size, size + 3 * MIB, 512)
    worst = max(answered(request_, cached) for cached in pool)
    assert worst == cuda.taken(request_)


def test_blocks_that_are_always_split_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "garbage_collection_threshold:0.8, expandable_segments:True")
    assert cuda.taken(5 * MIB + 1) == 5 * MIB + 512


def test_nothing_takes_nothing() -> None:
    assert cuda.taken(0) == 0
    with FAKE:
        assert tensors.bytes_of(torch.empty(0, device="cuda")) == 0
        assert tensors.bytes_of(torch.empty(3, device="cuda")) == 512
    assert tensors.bytes_of(torch.empty(3)) == 12


def test_blocks_in_use_are_found_by_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = [
        {"address": 4096, "blocks": [{"size": 512}, {"size": 1024}]},
        {"address": 9000, "blocks": [{"size": 7}]},
    ]
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.memory_snapshot", lambda: snapshot)
    assert cuda.blocks() == {4096: 512, 4608: 1024, 9000: 7}


def test_what_cublas_keeps_is_counted_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = mg.capture(lambda x: (x @ x).sin(), torch.ones(2, 2))
    assert cuda.kept_by_libraries(graph) == 0, "on the CPU it is not used"
    for node in graph.nodes:
        with FAKE:
            node.meta["val"] = torch.empty(2, 2, device="cuda")
    assert cuda.kept_by_libraries(graph) >= 32 * MIB
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")
    assert cuda.kept_by_libraries(graph) == cuda.taken((4096 * 2 + 16 * 8) * 1024)
    (product,) = [n for n in graph.nodes if "mm" in n.name]
    product.meta["val"] = torch.empty(2, 2)
    assert cuda.kept_by_libraries(graph) == 0


class Books:
    """Keeps books as the allocator does; ``kernel`` is an operator that takes memory for good at its first call."""

    def __init__(self) -> None:
        self.now = self.most = 1000
        self.first = True

    def take(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)

    def reset(self) -> None:
        self.most = self.now

    def kernel(self) -> str:
        self.take(4096 if self.first else 0)  # the library's, for good
        self.take(2048 if self.first else 512)  # what is tried, and what is taken in the end
        self.take(1024)  # the result
        self.now -= 2048 if self.first else 512
        self.first = False
        return "result"


def test_the_first_call_of_a_kernel_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books()
    nothing = lambda *_: None  # noqa: E731
    monkeypatch.setattr("torch.cuda.device", lambda _: torch.no_grad())
    monkeypatch.setattr("torch.cuda.synchronize", nothing)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", books.reset)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: books.most)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda: books.now)
    trial = Trial(books.kernel, lambda out: (1024,))
    assert memory({"kernel": lambda: trial}, "cuda:0") == {"kernel": (512, (1024,))}
