"""Kernels that helper processes compile: each is asked for once, nothing stays behind, a helper that fails costs time.

The helpers here are forks of this process, so that nothing has to be loaded; what stands for the compiler writes down
who was asked for what.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from memograd._torch import FAKE
from memograd.errors import BackendError
from memograd.fuse import compiling, helper
from memograd.graph import kernels
from memograd.graph.kernels import Kernel

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="helpers are forks")


class Fork:
    """Stands for ``Popen``: a process that begins where a helper begins that has loaded everything."""

    last: int

    def __init__(self, command: list[str], **_options: Any) -> None:
        there, here = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                os.close(here)
                sys.stdin = os.fdopen(there)
                pickle.load(sys.stdin.buffer)  # pyright: ignore[reportArgumentType]  (where modules are)
                helper.serve()
            finally:
                os._exit(0)
        os.close(there)
        self.stdin = os.fdopen(here, "wb")
        Fork.last = self.pid

    def communicate(self) -> None:
        self.stdin.close()
        os.waitpid(self.pid, 0)


def jobs(count: int, first: int = 0) -> list[compiling.Job]:
    with FAKE:
        x = torch.empty(3)
    numbers = range(first, first + count)
    bodies = [f'(x0: "float32[3]"):\n    mul_1 = torch.mul(x0, {k}.5)\n    return (mul_1,)\n' for k in numbers]
    return [(Kernel(body, "mul"), [x]) for body in bodies]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[int, str]]]:
    """(process, kernel) for every time that the compiler is asked."""
    log = tmp_path / "asked"

    def compiler(function: Any, operands: Any, options: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {function.__name__}\n")
        time.sleep(0.02)
        return function

    def read() -> list[tuple[int, str]]:
        return [(int(pid), name) for pid, name in map(str.split, log.read_text().splitlines())]

    monkeypatch.setattr(kernels, "inductor_function", compiler)
    monkeypatch.setattr(kernels, "_COMPILED", {})
    monkeypatch.setattr(compiling, "_compilers_time", lambda: float(log.exists()))  # of the first kernel alone
    monkeypatch.setattr(compiling, "_helpers", lambda jobs, left: 2)
    monkeypatch.setattr(compiling.subprocess, "Popen", Fork)
    monkeypatch.setattr(helper, "load_inductor", lambda: None)
    return read


def is_gone(group: int) -> bool:
    """Whether a group of processes ends within seconds."""
    return any(not _running(group) or time.sleep(0.02) for _ in range(500))


def _running(group: int) -> bool:
    for process in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = process.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":  # one that nobody has buried yet
                return True
    return False


def test_helpers_share_the_work_and_are_gone_when_it_is_done(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    told: Counter[str] = Counter()
    here, answer = os.getpid(), kernels.inductor_function

    def all_have_begun() -> bool:
        """Nobody does the work of a helper that a busy machine has not let begin."""
        return any(len({pid for pid, _ in asked()}) == 3 or time.sleep(0.02) for _ in range(500))

    def compiler(function: Any, operands: Any, options: Any) -> Any:
        compiled = answer(function, operands, options)
        return compiled if os.getpid() == here or all_have_begun() else None

    def tell(kernel: Kernel, error: BackendError | None) -> bool:
        told[kernel.name] += error is None
        return told.total() == 1 or all_have_begun()  # the first is compiled here alone

    monkeypatch.setattr(kernels, "inductor_function", compiler)
    work = jobs(12)
    compiling.compile_all(work, tell)
    assert told == Counter({kernel.name: 1 for kernel, _ in work})
    elsewhere = [name for pid, name in asked() if pid != os.getpid()]
    assert len({pid for pid, _ in asked()}) == 3 and len(elsewhere) == len(set(elsewhere))
    assert {name for pid, name in asked() if pid == os.getpid()} == set(told), "each is loaded here"
    assert is_gone(Fork.last)


def test_what_fails_in_a_helper_is_an_error_with_the_kernels_name(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    work, errors = jobs(8), {}

    def compiler(function: Any, operands: Any, options: Any) -> Any:
        if function.__name__ != work[0][0].name:
            raise RuntimeError("no lowering")
        Path(asked.__closure__[0].cell_contents).touch()

    monkeypatch.setattr(kernels, "inductor_function", compiler)
    compiling.compile_all(work, lambda kernel, error: not errors.update({kernel: error}))
    assert set(errors) == {kernel for kernel, _ in work} and errors[work[0][0]] is None
    for kernel, _ in work[1:]:
        assert str(errors[kernel]) == f"Inductor cannot compile {kernel.name}: no lowering"


def test_what_killed_helpers_leave_undone_is_done_here(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Fork):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(compiling.subprocess, "Popen", Killed)
    told: list[str] = []
    compiling.compile_all(jobs(8), lambda kernel, error: not told.append(kernel.name))
    assert sorted(told) == sorted(kernel.name for kernel, _ in jobs(8))


def test_where_no_process_can_be_had_all_is_done_here(asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: Any, **_options: Any) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(compiling.subprocess, "Popen", refused)
    files, told = len(os.listdir("/proc/self/fd")), []
    compiling.compile_all(jobs(8), lambda kernel, error: not told.append(kernel.name))
    assert told == [kernel.name for kernel, _ in jobs(8)] and len(os.listdir("/proc/self/fd")) == files


def test_an_interrupt_leaves_no_helper(asked) -> None:
    told: list[str] = []

    def tell(kernel: Kernel, error: BackendError | None) -> bool:
        told.append(kernel.name)
        if len(told) == 3:
            raise KeyboardInterrupt
        return True

    files = set(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt):
        compiling.compile_all(jobs(200), tell)
    assert is_gone(Fork.last) and set(os.listdir("/proc/self/fd")) == files


def test_helpers_end_with_a_process_that_is_killed(asked) -> None:
    """The one that asked for kernels is no more, and nobody has told the helpers."""
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        told: list[str] = []

        def tell(kernel: Kernel, error: BackendError | None) -> bool:
            told.append(kernel.name)
            return len(told) != 3 or os.write(there, str(Fork.last).encode()) > 0

        compiling.compile_all(jobs(500), tell)
        os._exit(0)
    group = int(os.read(here, 20))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(here)
    os.close(there)
    assert is_gone(group)


@pytest.mark.parametrize("cores, few, count", [(1, 20, 0), (2, 20, 1), (8, 20, 7), (32, 8, 7), (8, 7, 0)])
def test_as_many_helpers_as_there_are_cores_besides_this_one(
    cores: int, few: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert compiling._helpers(jobs(few), range(few)) == count


@pytest.mark.slow
def test_this_process_finds_what_helpers_compiled_in_inductors_cache() -> None:
    """Kernels that no machine has seen, in a process of its own: several run no compiler here."""
    program = """
import os, time, torch
from memograd.fuse import compiling
from test_compiling import jobs
os.sched_getaffinity = lambda process: range(4)
torch.set_num_threads(1)
first = time.time_ns() // 1000 % 10**9
work, used = jobs(10, first), []
compiling.compile_all(work, lambda kernel, error: not used.append((compiling._compilers_time(), error)))
for k, (kernel, _) in enumerate(work):
    torch.testing.assert_close(kernel(torch.ones(3, dtype=torch.float32))[0], torch.full((3,), first + k + 0.5))
times, errors = zip(*used)
assert not any(errors) and sum(b == a for a, b in zip(times, times[1:])) >= 2, used
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent, check=True, timeout=300)
