"""Compiled loops on as many threads as PyTorch has. C code of ours runs without Python's lock.

They run on PyTorch's own OpenMP threads where those can be reached: two sets of threads would take the cores from each
other, as OpenMP's go on spinning for a while after each operator. Elsewhere they run on threads of ours, and in a
process that was forked, where OpenMP's threads are gone without its knowing.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import Any

import torch

_PROCESS = os.getpid()
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def at_once(call: Callable[..., Any], parts: Iterable[tuple[Any, ...]]) -> None:
    """``call(*part)`` for each of ``parts``, one of them on this thread. Where Ctrl-C ends it the others are waited
    for: they use memory that whoever called holds."""
    parts = list(parts)
    if len(parts) == 1:
        call(*parts[0])
    elif len(parts) == torch.get_num_threads() and (team := _team()) is not None and os.getpid() == _PROCESS:
        _by_openmp(team, call, parts)
    else:
        _by_own_threads(call, parts)


def in_parts(call: Callable[[int, int], Any], count: int, least: int) -> None:
    """``call(first, last)`` for ranges that are 0 .. ``count`` - 1 together, of at least ``least`` each, at once."""
    parts = max(1, min(torch.get_num_threads(), count // max(1, least)))
    bounds = [count * k // parts for k in range(parts + 1)]
    at_once(call, pairwise(bounds))


def _by_openmp(team: Any, call: Callable[..., Any], parts: list[tuple[Any, ...]]) -> None:
    """Of as many threads as the last operator of PyTorch's had: with fewer OpenMP would end the others. It may give
    less than it is asked for (OMP_THREAD_LIMIT, a region within another one): what is left is done here."""
    waiting, errors = list(parts), list[BaseException]()

    def body(_: Any) -> None:
        try:
            call(*waiting.pop())
        except BaseException as error:  # C has nobody to hand it to
            errors.append(error)

    team(_BODY(body), None, len(parts), 0)
    while waiting and not errors:
        call(*waiting.pop())
    if errors:
        raise errors[0]


def _by_own_threads(call: Callable[..., Any], parts: list[tuple[Any, ...]]) -> None:
    own, *others = parts
    waiting = [_others(os.getpid()).submit(call, *part) for part in others]
    try:
        call(*own)
    finally:
        wait(waiting)
    for one in waiting:
        one.result()


@cache
def _team() -> Any:
    """What GCC compiles ``#pragma omp parallel`` to; None where PyTorch's OpenMP is another one."""
    try:
        team = ctypes.CDLL(None).GOMP_parallel
    except (OSError, AttributeError, TypeError):  # TypeError: there is no such handle on Windows
        return None
    team.restype, team.argtypes = None, [_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    return team


@cache
def _others(process: int) -> ThreadPoolExecutor:
    """The other threads of this process: those of a parent are not there after a fork."""
    return ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="memograd")
