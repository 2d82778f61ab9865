"""Training steps to plan, and an independent measurement: every allocation as torch.profiler records it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim
from torch.profiler import ProfilerActivity, profile

from memograd.graph.graph import Graph
from memograd.lower.lower import lower
from memograd.memory.costs.measure import Measurement
from memograd.memory.costs.storages import Storages
from memograd.memory.problem import Problem
from memograd.pipeline import capture, differentiate, simplify
from memograd.train.appended import Update
from memograd.train.objective import Objective
from memograd.train.rates import Rates


class Mixed(nn.Module):
    """Convolutions, normalization with statistics, dropout, views, an operator with several results, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.3)
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.scale = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.drop(torch.relu(self.norm(self.conv(x)))), 2)
        x = x.flatten(2).transpose(1, 2)
        left, right = self.scale(torch.tanh(self.b(torch.relu(self.a(x))))).split(4, dim=-1)
        return self.head(torch.cat([left * right, left + right], -1).mean(1))


def step_graph(
    model: nn.Module, criterion: Any, optimizer: optim.Optimizer, *batch: torch.Tensor
) -> tuple[Graph, list[Any]]:
    """The lowered graph of the whole step, and its flat inputs (detached)."""
    forward = capture(Objective(model, criterion), *batch)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    joint = differentiate(forward, [i.name for i in forward.inputs if id(i.tensor) in trained])
    graph = lower(simplify(Update(joint, optimizer, Rates(optimizer)).append()))
    given = iter(batch)
    flat = [i.tensor if i.tensor is not None else next(given) for i in graph.inputs]
    return graph, [t.detach() for t in flat]


def problem_of(storages: Storages, measured: list[Measurement]) -> Problem:
    return storages.problem(
        [m.seconds for m in measured], [m.workspace for m in measured], [m.results for m in measured]
    )


def allocated(call: Callable[[], Any], folder: Path) -> int:
    """The most bytes that ``call`` had allocated at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    path = folder / "trace.json"
    watched.export_chrome_trace(str(path))
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(e["ts"], e["args"]["Ev Idx"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]"]
    live = peak = 0
    for _, _, change in sorted(changes):
        live += change
        peak = max(peak, live)
    assert changes, "the profiler recorded no allocation"
    return peak


def random_schedule(problem: Problem, seed: int, extra: int) -> list[int]:
    """The base order with ``extra`` runs put in anywhere they may stand."""
    draw = random.Random(seed)
    schedule = list(range(len(problem.cost)))
    for _ in range(extra):
        again = draw.choice([k for k in range(len(problem.cost)) if k not in problem.once])
        limits = [schedule.index(v) for u, v in problem.before if u == again]
        first, stop = schedule.index(again) + 1, min([len(schedule), *limits])
        if first <= stop:
            schedule.insert(draw.randint(first, stop), again)
    return schedule
