"""Each part is done once, on PyTorch's threads or on others, and errors arrive."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from memograd.run import threads


@pytest.fixture(params=["openmp", "own threads"])
def two_threads(request, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    if request.param == "own threads":
        monkeypatch.setattr(threads, "_team", lambda: None)


def test_pytorchs_threads_can_be_reached_here():
    """Where they cannot, loops are right all the same; this says that they are not looked for in vain."""
    if sys.platform != "linux" or "USE_OPENMP=ON" not in torch.__config__.show():
        pytest.skip("another OpenMP than GCC's")
    assert threads._team() is not None


def test_each_part_is_done_once(two_threads):
    for count in (1, 2, 5, 64):
        done = []
        threads.in_parts(lambda first, last: done.extend(range(first, last)), count, 1)  # noqa: B023
        assert sorted(done) == list(range(count))


def test_parts_run_at_the_same_time(two_threads):
    """Each waits for the other one."""
    meet = threading.Barrier(2, timeout=60)
    threads.at_once(lambda _: meet.wait(), [(0,), (1,)])
    assert not meet.broken


def test_more_parts_than_threads(two_threads):
    done = []
    threads.at_once(done.append, [(k,) for k in range(5)])
    assert sorted(done) == list(range(5))


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_errors_arrive(failing, error, two_threads):
    def part(k):
        if k == failing:
            raise error("no")

    with pytest.raises(error, match="no"):
        threads.at_once(part, [(0,), (1,)])


PROGRAM = """
import os, torch
torch.set_num_threads(2)
torch.ones(1 << 20).add_(1)  # PyTorch's threads are there
from memograd.run import threads
done = []
threads.at_once(done.append, [(0,), (1,)])
assert sorted(done) == [0, 1], done
child = os.fork()
if child == 0:
    done.clear()
    threads.at_once(done.append, [(2,), (3,)])
    os._exit(0 if sorted(done) == [2, 3] else 1)
assert os.waitpid(child, 0)[1] == 0
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("limit", ["8", pytest.param("1", marks=pytest.mark.slow)])
def test_in_a_fork_and_with_fewer_threads_than_asked_for(limit):
    environment = {**os.environ, "OMP_THREAD_LIMIT": limit}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert run.stdout == "both\n", run.stderr
