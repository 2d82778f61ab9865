"""The examples for several processes, and what becomes of a run in which one of them is killed."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import together
from torch import distributed

ROOT = Path(__file__).parents[2]


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ddp(path, dies_at=None):
    def before(step):
        if step == dies_at and distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return example("ddp").train(12, Path(path), before)


def test_a_killed_process_ends_the_run_and_the_checkpoint_goes_on_bit_by_bit(tmp_path):
    undisturbed, _ = together(ddp, str(tmp_path / "undisturbed.pt"))
    path = str(tmp_path / "killed.pt")
    start = time.monotonic()
    with pytest.raises(AssertionError) as error:
        together(ddp, path, 8, timeout=20)
    assert time.monotonic() - start < 20
    assert re.search(r"process 0: .*Connection (closed|reset) by peer", str(error.value), re.DOTALL)
    assert "process 1: ended without an answer" in str(error.value)
    assert torch.load(path)["step"] == 5
    for resumed in together(ddp, path):
        for name, value in undisturbed.items():
            assert torch.equal(resumed[name], value), name


def fsdp2():
    module = example("fsdp2")
    return module.train(module.network(), 3), module.train(module.network(sharded=False), 0)


def test_fsdp2():
    (trained, begun), (same, _) = together(fsdp2)
    for name, value in begun.items():
        assert torch.equal(trained[name], same[name]) and not torch.equal(trained[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_under_torchrun(name, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = [str(ROOT / "examples" / f"{name}.py"), "--steps", "5"]
    run = subprocess.run(
        [*command, *script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "step 5: loss" in run.stdout
