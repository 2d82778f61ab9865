"""Whether ``auto`` took the right backend: what it chose for every workload, beside eager, ours and PyTorch's.

    python benchmarks/auto.py [--rounds 7] [--threads 1] [--only CNN ...] [--compile-seconds 120]

One process, everything interleaved; what is compared is the median, over the rounds, of the ratio of two neighbours in
one round, in time of the processor. Ends with 1 where ``auto`` takes more than 1.02 of either eager's time, and more
than that in nearly every round. ``auto`` that took eager is the same program as eager, and is not compared with it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import warnings
from typing import Any

import torch
from steps import Ours, Runner
from table import Loop
from workloads import Workload, every_workload

import memograd as mg

ALLOWED = 1.02
SURE = 0.8  # of the rounds must say so


class Auto(Ours):
    """``auto`` with a time for compiling."""

    def __init__(self, w: Workload, model: torch.nn.Module, compile_seconds: float) -> None:
        super().__init__(w, model, "auto")
        self.step = mg.TrainStep(model, w.criterion, w.optimizer(model.parameters()), compile_seconds=compile_seconds)


def compare(w: Workload, rounds: int, compile_seconds: float) -> bool:
    """Print a line; whether ``auto`` is fast enough."""
    torch.manual_seed(0)
    model = w.model()
    auto = Auto(w, copy.deepcopy(model), compile_seconds)
    others: dict[str, Runner] = {
        "memograd, eager": Ours(w, copy.deepcopy(model), "eager"),
        "PyTorch eager": Loop(w, copy.deepcopy(model)),
    }
    for runner in (auto, *others.values()):
        runner.run(3)
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for k in range(rounds):
        for name, other in others.items():
            pair = (auto, other) if k % 2 else (other, auto)
            taken = {id(runner): _seconds(runner, w.steps) for runner in pair}
            ratios[name].append(taken[id(auto)] / taken[id(other)])
    step: Any = auto.step
    same = step.backend_name == "eager"
    cells, right = [], True
    for name, values in ratios.items():
        ratio, slower = statistics.median(values), sum(v > ALLOWED for v in values) / len(values)
        wrong = ratio > ALLOWED and slower >= SURE and not (same and name.startswith("memograd"))
        right &= not wrong
        cells.append(f"{ratio:.2f} of {name}{' (SLOWER)' if wrong else ''}")
    print(f"{w.name}: {step.backend_name}, {', '.join(cells)}\n    {step.backend_reason}", flush=True)
    return right


def _seconds(runner: Runner, steps: int) -> float:
    runner.run(1)
    start = time.process_time()
    runner.run(steps)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the workloads' names")
    parser.add_argument("--compile-seconds", type=float, default=0.0, help="what auto may spend on Inductor")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    chosen = [w for w in every_workload() if not options.only or w.name.startswith(tuple(options.only))]
    right = [compare(w, options.rounds, options.compile_seconds) for w in chosen]
    sys.exit(not all(right))


if __name__ == "__main__":
    main()
