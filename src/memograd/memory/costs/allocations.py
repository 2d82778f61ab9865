"""What an operator takes of the allocator besides its inputs: its workspace, and its results' true sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from memograd._torch import allocation_peaks
from memograd.memory.costs.cuda import taken
from memograd.memory.costs.trials import Trial, attempt

Calls = dict[Any, Callable[[], Trial]]
Memory = dict[Any, tuple[int, tuple[int, ...]]]  # workspace, and the bytes of each result; what failed is left out


def memory(calls: Calls, device: str) -> Memory:
    """What every one of ``calls`` takes on the device it runs on."""
    if torch.device(device).type == "cuda":
        sizes = {key: attempt(lambda p=prepare: _cuda_memory(p(), device)) for key, prepare in calls.items()}
        return {key: m for key, m in sizes.items() if m is not None}
    return _cpu_memory(calls)


def _cuda_memory(call: Trial, device: str) -> tuple[int, tuple[int, ...]]:
    """(workspace, bytes of each result) of a call. It runs twice: at the first time libraries tune themselves, and take
    what they keep."""
    with torch.cuda.device(device):
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        out = call.run()
        torch.cuda.synchronize()
        workspace = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
        return taken(workspace), call.sizes(out)


def _cpu_memory(calls: Calls) -> Memory:
    """PyTorch tells a profiler of each allocation."""
    prepared = [lambda prepare=prepare: partial(attempt, prepare()) for prepare in calls.values()]
    results, peaks = allocation_peaks(prepared)
    rows = zip(calls, peaks, results, strict=True)
    return {k: (max(0, peak - sum(r)), r) for k, peak, r in rows if r is not None}
