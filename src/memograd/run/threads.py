"""Compiled loops on as many threads as PyTorch has. C code of ours runs without Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch


def also(call: Callable[..., Any], *args: Any) -> Future[Any]:
    """``call(*args)`` on another thread."""
    return _others(os.getpid()).submit(call, *args)


def in_parts(call: Callable[[int, int], Any], count: int, least: int) -> None:
    """``call(first, last)`` for ranges that are 0 .. ``count`` - 1 together, of at least ``least`` each, at once."""
    parts = max(1, min(torch.get_num_threads(), count // max(1, least)))
    bounds = [count * k // parts for k in range(parts + 1)]
    own, *others = pairwise(bounds)
    waiting = [also(call, *part) for part in others]
    call(*own)
    for one in waiting:
        one.result()


@cache
def _others(process: int) -> ThreadPoolExecutor:
    """The other threads of this process: those of a parent are not there after a fork."""
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="memograd")
