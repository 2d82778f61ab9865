"""Time of one whole training step (forward, loss, backward, update) on the lecture's three networks.

    python benchmarks/steps.py [--rounds 9] [--threads N] [--only XOR CNN LSTM] [--skip inductor ...] [--json FILE]

All contestants start from the same weights and see the same batch; their losses after a few steps must agree before
anything is timed. Rounds are interleaved (every contestant once, then all again), so a slow moment of the machine hits
all alike; the table gives medians, and ratios to PyTorch eager of the same run.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from workloads import Workload, lecture_workloads

import memograd as mg

CHECKED_STEPS = 5
TOLERANCE = 1e-3  # of the loss, in float32, after CHECKED_STEPS steps


class Runner(Protocol):
    def run(self, steps: int) -> float: ...


class Torch:
    """The ordinary loop; with ``compiled``, the model through ``torch.compile``."""

    def __init__(self, w: Workload, model: nn.Module, compiled: bool = False) -> None:
        self.optimizer = w.optimizer(model.parameters())
        self.model = torch.compile(model) if compiled else model
        self.w = w

    def run(self, steps: int) -> float:
        for _ in range(steps):
            loss = self.w.criterion(self.model(self.w.x), self.w.y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item()


class Ours:
    """``TrainStep``, one call a step, or ``step.run``."""

    def __init__(self, w: Workload, model: nn.Module, backend: str, at_once: bool = False) -> None:
        self.step = mg.TrainStep(model, w.criterion, w.optimizer(model.parameters()), backend=backend)
        self.w, self.at_once = w, at_once

    def run(self, steps: int) -> float:
        if self.at_once:
            return self.step.run(self.w.x, self.w.y, steps=steps)[-1].item()
        for _ in range(steps):
            loss = self.step(self.w.x, self.w.y)
        return loss.item()


def jax_runner(scan: bool) -> Callable[[Workload, nn.Module], Runner]:
    def make(w: Workload, model: nn.Module) -> Runner:
        from jax_steps import JaxRunner  # jax is an extra

        return JaxRunner(w, model, scan)

    return make


EAGER = "PyTorch eager"
CONTESTANTS: dict[str, Callable[[Workload, nn.Module], Runner]] = {
    EAGER: Torch,
    "torch.compile": lambda w, m: Torch(w, m, compiled=True),
    "JAX jit": jax_runner(scan=False),
    "ours, auto": lambda w, m: Ours(w, m, "auto"),
    "ours, eager": lambda w, m: Ours(w, m, "eager"),
    "ours, native": lambda w, m: Ours(w, m, "native"),
    "ours, inductor": lambda w, m: Ours(w, m, "inductor"),
}
AT_ONCE: dict[str, Callable[[Workload, nn.Module], Runner]] = {  # many steps without Python in between: XOR
    "JAX scan": jax_runner(scan=True),
    "ours, auto, run": lambda w, m: Ours(w, m, "auto", at_once=True),
}


def prepare(w: Workload, skip: list[str]) -> tuple[dict[str, Runner], dict[str, str]]:
    """Build, warm up and check every contestant; returns the runners and, for the others, why not."""
    torch.manual_seed(0)
    model = w.model()
    runners: dict[str, Runner] = {}
    failed: dict[str, str] = {}
    expected = None
    for name, make in (CONTESTANTS | (AT_ONCE if w.name == "XOR" else {})).items():
        if any(s in name for s in skip):
            continue
        try:
            runner = make(w, copy.deepcopy(model))
            loss = runner.run(CHECKED_STEPS)
            runner.run(w.steps)  # compiles for the number of steps that is timed
        except Exception as error:  # not installed, or not supported: reported in the table
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
            continue
        expected = loss if expected is None else expected
        if not abs(loss - expected) <= TOLERANCE * abs(expected):
            sys.exit(f"{w.name}: after {CHECKED_STEPS} steps {name} has loss {loss}, {EAGER} {expected}")
        runners[name] = runner
    return runners, failed


def measure(w: Workload, runners: dict[str, Runner], rounds: int) -> dict[str, float]:
    """Median microseconds a step."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner.run(w.steps)
            times[name].append((time.perf_counter() - start) / w.steps * 1e6)
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="PyTorch's threads; default: PyTorch's own choice")
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the workloads' names")
    parser.add_argument("--skip", nargs="*", default=[], help="parts of the contestants' names")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    machine = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    print(f"{machine}; median of {options.rounds} interleaved rounds")
    rows = []
    for w in lecture_workloads():
        if options.only and not w.name.startswith(tuple(options.only)):
            continue
        runners, failed = prepare(w, options.skip)
        medians = measure(w, runners, options.rounds)
        print(f"\n{w.name:20}{'µs a step':>12}{'eager = 1':>12}{'faster by':>12}")
        for name, median in sorted(medians.items(), key=lambda item: item[1]):
            ratio = median / medians[EAGER]
            runner = runners[name]
            note = f"   {runner.step.backend_name}: {runner.step.backend_reason}" if "auto" in name else ""
            print(f"{name:20}{median:12.1f}{ratio:12.3f}{1 / ratio:11.2f}x{note}", flush=True)
        for name, reason in failed.items():
            print(f"{name:20}  -  {reason}")
        rows.append({"workload": w.name, "microseconds": medians, "failed": failed})
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
