"""Peak memory and time of a training step: ours within budgets, and what else PyTorch's users have.

    python benchmarks/memory.py [--only resnet18 gpt2 ...] [--rounds 5] [--compile] [--json FILE]

Every contestant trains a network of the same weights on the same batch with SGD. The peak is measured, for all alike:
what PyTorch's profiler records as allocated during one step, on top of parameters, buffers and batch. Rounds are
interleaved; the table gives medians and the time relative to eager PyTorch. ``--compile`` adds torch.compile with
activation memory budgets (minutes of compilation).
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import NETWORKS, Network
from torch import nn, optim
from torch.profiler import ProfilerActivity, profile

import memograd as mg

BUDGETS = (70, 50, 35)
Step = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    rows = []
    for name in a.only:
        rows += compare(name, NETWORKS[name], a.rounds, a.compile)
    if a.json:
        a.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def compare(name: str, network: Network, rounds: int, compiled: bool) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    weights = network.make("none").state_dict()
    batch = network.batch()
    steps: dict[str, Step] = {}
    notes: dict[str, str] = {}
    for mode, label in (("none", "eager"), ("each", "checkpoint each block"), ("sqrt", "checkpoint sqrt(n)")):
        steps[label] = _torch_step(_model(network, weights, mode), network.criterion, batch)
    if compiled:
        for budget in (0.5, 0.2):
            steps[f"torch.compile, budget {budget}"] = _compiled_step(network, weights, batch, budget)
    for share in (None, *BUDGETS):
        label = "memograd" if share is None else f"memograd {share}%"
        try:
            steps[label], notes[label] = _our_step(network, weights, batch, share)
        except mg.BudgetInfeasibleError as error:
            print(f"{name:9s} {label:28s} infeasible: at least {error.floor_bytes / 2**20:.1f} MiB", flush=True)
    return _measure(name, steps, notes, weights, batch, rounds)


def _measure(
    name: str, steps: dict[str, Step], notes: dict[str, str], weights: Any, batch: Any, rounds: int
) -> list[dict[str, Any]]:
    resident = sum(t.numel() * t.element_size() for t in [*weights.values(), *batch])
    peaks, losses, failed = {}, {}, set()
    for label, step in steps.items():
        try:
            losses[label] = float(step())
            peaks[label] = resident + _allocated(step)
        except Exception as error:
            failed.add(label)
            print(
                f"{name:9s} {label:28s} failed: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr
            )
    for label, loss in losses.items():
        assert abs(loss - losses["eager"]) < 1e-3 * (1 + abs(loss)), f"{label} computes {loss}, not {losses['eager']}"
    times: dict[str, list[float]] = {label: [] for label in steps if label not in failed}
    for _ in range(rounds):
        for label in times:
            start = time.perf_counter()
            steps[label]()
            times[label].append(time.perf_counter() - start)
    rows = []
    for label, taken in times.items():
        seconds = statistics.median(taken)
        relative = seconds / statistics.median(times["eager"])
        row = {"network": name, "method": label, "peak_bytes": peaks[label], "seconds": seconds, "relative": relative}
        rows.append(row | {"note": notes.get(label, "")})
        print(
            f"{name:9s} {label:28s} {peaks[label] / 2**20:8.1f} MiB {seconds * 1e3:9.1f} ms {relative:6.2f}x  "
            f"{notes.get(label, '')}",
            flush=True,
        )
    return rows


def _model(network: Network, weights: Any, mode: str) -> nn.Module:
    model = network.make(mode)
    model.load_state_dict(dict(zip(model.state_dict(), copy.deepcopy(list(weights.values())), strict=True)))
    return model


def _torch_step(model: nn.Module, criterion: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Step:
    optimizer = optim.SGD(model.parameters(), lr=0.01)

    def step() -> torch.Tensor:
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def _compiled_step(network: Network, weights: Any, batch: Any, budget: float) -> Step:
    import torch._functorch.config as config

    inner = _torch_step(torch.compile(_model(network, weights, "none")), network.criterion, batch)

    def step() -> torch.Tensor:
        with config.patch(activation_memory_budget=budget):
            return inner()

    return step


def _our_step(network: Network, weights: Any, batch: Any, share: int | None) -> tuple[Step, str]:
    model = _model(network, weights, "none")
    budget = None if share is None else f"{share}%"
    trained = mg.TrainStep(
        model, network.criterion, optim.SGD(model.parameters(), lr=0.01), memory_budget=budget, backend="eager"
    )
    trial = copy.deepcopy(model.state_dict())
    start = time.perf_counter()
    trained(*batch)
    seconds = time.perf_counter() - start
    model.load_state_dict(trial)
    plan = trained.plan
    if plan is None:
        return lambda: trained(*batch), ""
    note = (
        f"plan: {plan.peak_bytes / 2**20:.1f} of {plan.budget / 2**20:.1f} MiB, overhead {plan.overhead:.1%}, "
        f"gap {plan.gap * 100:.1f} points, {len(plan.operators)} operators, first step {seconds:.1f} s"
    )
    return lambda: trained(*batch), note


def _allocated(step: Step) -> int:
    """The most bytes that a step has allocated at once, as the profiler records it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    live = peak = 0
    for _, change in sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]"):
        live += change
        peak = max(peak, live)
    return peak


if __name__ == "__main__":
    main()
