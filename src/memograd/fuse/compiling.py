"""Kernels compiled in several processes at once.

Of the time that Inductor takes for a kernel nine tenths are the C++ compiler's. So helpers compile kernels into
Inductor's cache on disk, and this process, which compiles others meanwhile, then finds them there::

    queue    0 1 2 3 4 5 ...            a pipe: whoever is free reads the next number
    this process   0 . . 3 .            compiles it itself
    helpers          1 2   4 5          say when one is done, on another pipe; it is then loaded from the cache

The first kernel is compiled here alone: if no compiler ran, the cache has seen this program, and if one did, it has
made what all kernels share (precompiled headers, the extent of the machine's vectors). Helpers are forks of one
process, which has loaded PyTorch and nothing of the user's. They end when there is nothing left to do, when this
process has an exception (Ctrl-C), and when it is no more. What they leave undone this process does itself.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from memograd import progress
from memograd.errors import BackendError
from memograd.fuse.helper import NUMBER, Job, Order
from memograd.graph.kernels import Kernel

_FEW = 8  # kernels of about a second each: until a helper has loaded PyTorch and its compiler, five are done here
_MOST = 16  # helpers: each has a compiler that takes some hundred MB
_START = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from memograd.fuse.helper import serve
serve()
"""


def compile_all(jobs: Sequence[Job], tell: Callable[[Kernel, BackendError | None], bool]) -> None:
    """Compile every kernel. ``tell`` is told of each, with the error where Inductor cannot; where it answers False no
    more are tried."""

    def compile(k: int) -> bool:
        kernel, operands = jobs[k]
        progress.say(f"compiling kernel {k + 1} of {len(jobs)}")
        try:
            kernel.compile(operands)
        except BackendError as error:
            return tell(kernel, error)
        return tell(kernel, None)

    for k in range(len(jobs)):
        before = _compilers_time()
        if not compile(k):
            return
        rest = range(k + 1, len(jobs))
        if _compilers_time() > before and (count := _helpers(jobs, rest)):
            _with_helpers(jobs, rest, count, compile)
            return


def _with_helpers(jobs: Sequence[Job], left: range, count: int, compile: Callable[[int], bool]) -> None:
    """The rest, in ``count`` helpers and here. What fails in a helper is tried here once more, alone: there may have
    been too little memory for several compilers, and who asked for a kernel gets the error."""
    missing = set(left)
    with _helping(jobs, left, count) as (queue, answers):
        for k in _numbers(queue):
            missing.remove(k)
            if not compile(k):
                return
        for k in _numbers(answers) if missing else ():
            missing.remove(k)
            before = _compilers_time()
            if not compile(k):
                return
            if _compilers_time() > before:  # it is not in the cache: Inductor has other settings here
                break
    for k in sorted(missing):  # a helper was killed, or could not begin
        if not compile(k):
            return


def _numbers(pipe: int) -> Iterator[int]:
    """What others write into a pipe, until nobody can write there any more."""
    while data := os.read(pipe, NUMBER):
        yield int.from_bytes(data, "little")


def _compilers_time() -> float:
    """Seconds of the processor that this process's children have used, of those that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _helpers(jobs: Sequence[Job], left: range) -> int:
    """How many helpers there should be for these kernels; none where they would not pay, or forks are not safe."""
    if not sys.platform.startswith("linux") or getattr(sys, "frozen", False) or len(left) < _FEW:
        return 0
    if any(t.device.type != "cpu" for k in left for t in jobs[k][1]):  # Triton has processes of its own
        return 0
    return min(len(os.sched_getaffinity(0)) - 1, len(left) - 1, _MOST)


@contextmanager
def _helping(jobs: Sequence[Job], left: range, count: int) -> Iterator[tuple[int, int]]:
    """Helpers at work: the queue that they share with this process, and the pipe on which they answer."""
    queue, fill = os.pipe()
    answers, say = os.pipe()
    numbers = list(left)[: select.PIPE_BUF // NUMBER]  # as many as a pipe surely takes
    os.write(fill, b"".join(k.to_bytes(NUMBER, "little") for k in numbers))
    os.close(fill)
    process = _started(Order.of(jobs, numbers, count, queue, say))
    os.close(say)
    try:
        yield queue, answers
    finally:
        if process is not None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # it and its compilers
            with suppress(OSError):
                process.communicate()
        os.close(queue)
        os.close(answers)


def _started(order: Order) -> subprocess.Popen[bytes] | None:
    """The process that divides into helpers; None where the system gives none."""
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(order.queue, order.say), start_new_session=True,
            env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"},
        )  # fmt: skip
    except OSError:
        return None
    assert process.stdin is not None
    with suppress(OSError):  # it has ended already: nothing will be answered
        process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(order))
        process.stdin.flush()
    return process
