"""Peak memory and time of a training step: ours within budgets, and what else PyTorch's users have.

    python benchmarks/memory.py [--only resnet18 gpt2 ...] [--rounds 5] [--compile] [--json FILE]

Every contestant trains a network of the same weights on the same batch with SGD. The peak is measured, for all alike:
what PyTorch's profiler records as allocated during one step, on top of parameters, buffers and batch. Rounds are
interleaved; the table gives medians and the time relative to eager PyTorch. ``memograd`` runs operator by operator,
``fused`` is the same with ``backend="inductor"``. ``--compile`` adds torch.compile with activation memory budgets
(minutes of compilation).
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
CHECKPOINT = "checkpoint each block"
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
    weights = _tensors(network.make("none"))
    batch = network.batch()
    trial = Trial(name, sum(t.numel() * t.element_size() for t in [*weights, *batch]))
    for mode, label in (("none", "eager"), ("each", CHECKPOINT), ("sqrt", "checkpoint sqrt(n)")):
        trial.add(label, _torch_step(_model(network, weights, mode), network.criterion, batch))
    if compiled:
        for share in (0.5, 0.2):
            trial.add(f"torch.compile, budget {share}", _compiled_step(network, weights, batch, share))
    trial.add("memograd", *_our_step(network, weights, batch, None))
    for label, budget, backend in _budgets(trial.peaks):
        try:
            trial.add(label, *_our_step(network, weights, batch, budget, backend))
        except mg.BudgetInfeasibleError as error:
            print(f"{name:9s} {label:40s} infeasible: at least {error.floor_bytes / 2**20:.1f} MiB", flush=True)
    return trial.times(rounds)


def _budgets(peaks: dict[str, int]) -> list[tuple[str, int, str]]:
    """(label, bytes, backend): shares of eager PyTorch's peak, and the peaks of the others."""
    shares = {f"{share}%": peaks["eager"] * share // 100 for share in BUDGETS}
    same = {f"at {label}": peak for label, peak in peaks.items() if label == CHECKPOINT}
    found = [(f"memograd {label}", budget, "eager") for label, budget in (shares | same).items()]
    same |= {f"at {label}": peak for label, peak in peaks.items() if label.startswith("torch.compile")}
    return found + [(f"fused {label}", budget, "inductor") for label, budget in (shares | same).items()]


class Trial:
    """The contestants on one network: each is checked and its peak measured when it comes, all are timed together."""

    def __init__(self, name: str, resident: int) -> None:
        self.name, self.resident = name, resident
        self.steps: dict[str, Step] = {}
        self.notes: dict[str, str] = {}
        self.peaks: dict[str, int] = {}
        self.loss = 0.0

    def add(self, label: str, step: Step, note: str = "") -> None:
        try:
            loss = float(step())
            peak = self.resident + _allocated(step)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            print(f"{self.name:9s} {label:40s} failed: {reason}", file=sys.stderr)
            return
        self.loss = self.loss or loss
        assert abs(loss - self.loss) < 1e-3 * (1 + abs(loss)), f"{label} computes {loss}, not {self.loss}"
        self.steps[label], self.notes[label], self.peaks[label] = step, note, peak

    def times(self, rounds: int) -> list[dict[str, Any]]:
        taken: dict[str, list[float]] = {label: [] for label in self.steps}
        for _ in range(rounds):
            for label, step in self.steps.items():
                start = time.perf_counter()
                step()
                taken[label].append(time.perf_counter() - start)
        median = {label: statistics.median(t) for label, t in taken.items()}
        return [self._row(label, seconds, seconds / median["eager"]) for label, seconds in median.items()]

    def _row(self, label: str, seconds: float, relative: float) -> dict[str, Any]:
        peak, note = self.peaks[label], self.notes[label]
        print(
            f"{self.name:9s} {label:40s} {peak / 2**20:8.1f} MiB {seconds * 1e3:9.1f} ms {relative:6.2f}x  {note}",
            flush=True,
        )
        row = {"network": self.name, "method": label, "peak_bytes": peak, "seconds": seconds}
        return row | {"relative": relative, "note": note}


def _model(network: Network, weights: Any, mode: str) -> nn.Module:
    model = network.make(mode)
    with torch.no_grad():
        for mine, given in zip(_tensors(model), weights, strict=True):
            mine.copy_(given)
    return model


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers, shared ones once: however the blocks are grouped, the same."""
    return [*model.parameters(), *model.buffers()]


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
    from torch._inductor.compile_fx import compile_fx

    def compiler(graph: Any, inputs: Any) -> Any:  # one for each budget, else what was compiled for another is used
        return compile_fx(graph, inputs)

    inner = _torch_step(torch.compile(_model(network, weights, "none"), backend=compiler), network.criterion, batch)

    def step() -> torch.Tensor:
        with config.patch(activation_memory_budget=budget):
            return inner()

    return step


def _our_step(
    network: Network, weights: Any, batch: Any, budget: int | None, backend: str = "eager"
) -> tuple[Step, str]:
    model = _model(network, weights, "none")
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    trained = mg.TrainStep(model, network.criterion, optimizer, memory_budget=budget, backend=backend)
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
