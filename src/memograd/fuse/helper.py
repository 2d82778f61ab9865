"""What a helper process does: compile kernels into Inductor's cache, see ``compiling.py``."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from memograd._torch import FAKE, float32_precisions, load_inductor, put_float32_precisions
from memograd.errors import BackendError
from memograd.graph.kernels import Kernel

Job = tuple[Kernel, Sequence[torch.Tensor]]  # and operands, of which only the geometry counts

NUMBER = 4  # bytes of a number in the queue


@dataclass(frozen=True)
class Order:
    """What helpers are told.

    Attributes:
        kernels: by number, with shape, strides and dtype of each operand.
        count: how many helpers there are.
        queue: where they read the number of the next kernel.
        say: where they write which they have done.
        threads, precisions, deterministic: settings that Inductor's kernels depend on.
    """

    kernels: dict[int, tuple[Kernel, list[Any]]]
    count: int
    queue: int
    say: int
    threads: int
    precisions: dict[tuple[str, str], str]
    deterministic: bool

    @classmethod
    def of(cls, jobs: Sequence[Job], numbers: Sequence[int], count: int, queue: int, say: int) -> Order:
        kernels = {k: (jobs[k][0], [(tuple(t.shape), t.stride(), t.dtype) for t in jobs[k][1]]) for k in numbers}
        threads, precisions = torch.get_num_threads(), float32_precisions()
        return cls(kernels, count, queue, say, threads, precisions, torch.are_deterministic_algorithms_enabled())


def serve() -> None:
    """Divide into helpers, and end with them, or when nobody is there any more who gave the order."""
    order: Order = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(order.threads)
    put_float32_precisions(order.precisions)
    torch.use_deterministic_algorithms(order.deterministic)
    load_inductor()
    FAKE.prepare()
    for _ in range(order.count):
        if not os.fork():
            try:
                _work(order)
            finally:
                os._exit(0)
    os.close(order.say)
    while True:
        if select.select([sys.stdin], [], [], 0.1)[0]:  # its end: nothing more is ever written there
            os.killpg(0, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _work(order: Order) -> None:
    while data := os.read(order.queue, NUMBER):
        k = int.from_bytes(data, "little")
        kernel, forms = order.kernels[k]
        with FAKE:
            operands = [torch.empty_strided(shape, strides, dtype=dtype) for shape, strides, dtype in forms]
        with suppress(BackendError):  # it is tried again by who asked for it
            kernel.compile(operands)
        os.write(order.say, data)
