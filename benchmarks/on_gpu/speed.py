"""Steps a second beside PyTorch's eager mode and ``torch.compile``: medians of rounds taken in turns."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch
from on_gpu.machine import Machine
from on_gpu.report import Report
from on_gpu.training import LECTURE, Task, large, ordinary
from torch import nn

import memograd as mg


def times(report: Report, machine: Machine) -> None:
    """The lecture's networks in single precision, GPT-2 and ResNet-50 in bfloat16."""
    for group in (("PyTorch", "ours"), ("torch.compile", "ours, inductor")):  # what compiles takes long, and comes last
        if machine.few and group[0] == "torch.compile":
            continue
        for name, task in machine.some({**LECTURE, **large(machine)}, 1).items():
            cast = machine.autocast if name not in LECTURE else None
            with report.case(f"{name}: {' and '.join(group)}") as case:
                runners = {runner: _runner(runner, task, machine, cast) for runner in group}
                for run in runners.values():
                    run()
                    run()
                rounds = 3 if machine.small else 30 if name in LECTURE else 10
                medians = {k: statistics.median(t) for k, t in machine.seconds(runners, rounds).items()}
                case.data["milliseconds"] = {k: t * 1e3 for k, t in medians.items()}
                case.note = ", ".join(f"{k} {t * 1e3:.3f} ms" for k, t in medians.items())
            machine.clean()


def _runner(name: str, task: Task, machine: Machine, cast: Callable[[], Any] | None) -> Callable[[], Any]:
    """A step of one contestant, ready to be called again and again."""
    model, batch = task.made(machine)
    model = copy.deepcopy(model)
    optimizer = task.optimizer(model.parameters())
    if name.startswith("ours"):
        step = mg.TrainStep(model, task.criterion, optimizer, backend="inductor" if "inductor" in name else "auto")
        if cast is None:
            return lambda: step(*batch)
        return lambda: _within(cast, step, batch)
    compiled: nn.Module = torch.compile(model) if name == "torch.compile" else model  # pyright: ignore[reportAssignmentType]
    return lambda: ordinary(compiled, task, optimizer, batch, cast() if cast else None)


def _within(cast: Callable[[], Any], step: mg.TrainStep, batch: Any) -> Any:
    with cast():
        return step(*batch)
