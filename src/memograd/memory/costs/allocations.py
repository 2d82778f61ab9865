"""What an operator takes of the allocator besides its inputs: its workspace, and its results' true sizes."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

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
    """PyTorch's profiler sees each allocation."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library reports every start and stop on stderr
    results: list[tuple[int, ...] | None] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Profiler clears events")  # of several cycles, which these are not
        watched = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        watched.start()
    try:
        for prepare in calls.values():
            call = prepare()
            with record_function("memograd operator"):
                results.append(attempt(call))
            del call
    finally:
        watched.stop()
    rows = zip(calls, _peaks(watched), results, strict=True)
    return {k: (max(0, peak - sum(r)), r) for k, peak, r in rows if r is not None}


def _peaks(watched: profile) -> list[int]:
    """The most bytes allocated at once inside each marked range, in order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    ranges = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "memograd operator")
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    peaks, at = [], 0
    for start, stop in ranges:
        live = peak = 0
        while at < len(changes) and changes[at][0] <= stop:
            if changes[at][0] >= start:
                live += changes[at][1]
                peak = max(peak, live)
            at += 1
        peaks.append(peak)
    return peaks
