"""Steps on a CUDA device as graphs, on a machine without one: see cuda_without_a_gpu.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
using c10::DeviceType;
static c10::impl::DeviceGuardImplRegistrar guard(
    DeviceType::CUDA, new c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA>());
"""
HERE = Path(__file__).parent
NAMES = [
    "mlp, adam",
    *(f"{name}, sgd" for name in ("mlp", "batch norm", "dropout", "lstm", "gru", "attention", "idioms")),
    "grid sample, sgd",
    "ctc, sgd",
]


def library(folder: Path) -> str:
    """A guard that does nothing, compiled; '' where PyTorch brings one."""
    if torch.version.cuda is not None:
        return ""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    include = Path(torch.__file__).parent / "include"
    if compiler is None or not include.exists():
        pytest.skip("no C++ compiler, or PyTorch without its headers")
    source, made = folder / "guard.cpp", folder / "guard.so"
    source.write_text(GUARD)
    command = [compiler, "-std=c++20", "-fPIC", "-shared", f"-I{include}", str(source), "-o", str(made)]
    command += [f"-L{include.parent / 'lib'}", "-lc10"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the guard does not compile: {done.stderr[-300:]}")
    return str(made)


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if torch.cuda.is_available():
        pytest.skip("there is a device: benchmarks/gpu.py tries it")
    guard = library(tmp_path_factory.mktemp("guard"))
    command = [sys.executable, str(HERE / "cuda_without_a_gpu.py"), guard]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_step_lies_on_its_device(steps: dict[str, Any], name: str) -> None:
    """On the CPU are the learning rate, step counters, and numbers that the program itself has there."""
    step = steps[name]
    assert "error" not in step, step["error"]
    others = [n for n in step["cpu"] if not n.endswith(" update") and not n.startswith(("learning_rate", "step_of"))]
    assert all(n.startswith(("constant", "lift_fresh")) for n in others) and bool(others) == name.startswith("idioms")
    assert not any("norm.default" in n or "stack" in n for n in step["cpu"]), "gradients are clipped where they are"
    assert step["odd sizes"] == 0, "CUDA's allocator hands out blocks"


def test_counters_lie_where_torch_optim_wants_them(steps: dict[str, Any]) -> None:
    """On the CPU, but with the parameter if the optimizer is fused or capturable: its step refuses others."""
    assert steps["counters"] == ["cpu", "cuda", "cuda"]


@pytest.mark.parametrize("name", NAMES)
def test_no_kernel_is_in_a_graph_that_hides_what_it_does(steps: dict[str, Any], name: str) -> None:
    functions = ("cudnn_grid_sampler", "cudnn_grid_sampler_backward")  # of their arguments alone
    targets = [t for t in steps[name]["targets"] if not t.startswith(tuple(f"aten.{f}." for f in functions))]
    assert not [t for t in targets if "cudnn" in t or "miopen" in t]


def test_running_statistics_are_written_back(steps: dict[str, Any]) -> None:
    assert {"model.1.running_mean", "model.1.running_var"} <= set(steps["batch norm, sgd"]["mutations"])


def test_a_fused_kernel_has_one_device(steps: dict[str, Any]) -> None:
    assert not any(steps[name]["mixed kernels"] for name in NAMES)
    assert steps["mlp, adam"]["kernels"] > 0 and steps["batch norm, sgd"]["kernels"] > 0


def test_the_native_backend_refuses_by_name(steps: dict[str, Any]) -> None:
    assert all("runs on the CPU" in steps[name]["native"] and "cuda:0" in steps[name]["native"] for name in NAMES)


def test_autocast_casts_the_program_and_not_its_derivative(steps: dict[str, Any]) -> None:
    assert "aten._to_copy.default" in steps["autocast"]["targets"]
    assert not [n for n in steps["autocast"]["cpu"] if "_to_copy" in n]
