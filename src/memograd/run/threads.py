"""Compiled loops on as many threads as PyTorch has. C code of ours runs without Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import Any

import torch


def at_once(call: Callable[..., Any], parts: Iterable[tuple[Any, ...]]) -> None:
    """``call(*part)`` for each of ``parts``, the first on this thread. Where Ctrl-C ends it the others are waited for:
    they use memory that whoever called holds."""
    own, *others = parts
    waiting = [_others(os.getpid()).submit(call, *part) for part in others]
    try:
        call(*own)
    finally:
        wait(waiting)
    for one in waiting:
        one.result()


def in_parts(call: Callable[[int, int], Any], count: int, least: int) -> None:
    """``call(first, last)`` for ranges that are 0 .. ``count`` - 1 together, of at least ``least`` each, at once."""
    parts = max(1, min(torch.get_num_threads(), count // max(1, least)))
    bounds = [count * k // parts for k in range(parts + 1)]
    at_once(call, pairwise(bounds))


@cache
def _others(process: int) -> ThreadPoolExecutor:
    """The other threads of this process: those of a parent are not there after a fork."""
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="memograd")
