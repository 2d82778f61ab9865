"""How long things take: measured on the device they run on, or modelled where that cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any

import torch


def seconds(call: Callable[[], Any], trials: int, enough: float = inf) -> float:
    """The best time of ``trials`` runs, or of as many as take ``enough`` seconds together. Does not warm up."""
    times: list[float] = []
    while len(times) < trials and sum(times) < enough:
        start = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def synchronize() -> None:
    """Wait until the accelerator, if one is in use, has done everything it was told to."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def modelled(traffic: int, device: str) -> float:
    """Seconds that an operator takes which reads and writes ``traffic`` bytes on a type of device."""
    return OVERHEAD + transfer(traffic, device)


def transfer(traffic: int, device: str) -> float:
    """Seconds that reading and writing so many bytes takes there."""
    return traffic / (_CPU_BYTES_A_SECOND if device == "cpu" else _ACCELERATOR_BYTES_A_SECOND)


OVERHEAD = 4e-6  # of one call, whatever it computes
_CPU_BYTES_A_SECOND = 5e9
_ACCELERATOR_BYTES_A_SECOND = 1e12
