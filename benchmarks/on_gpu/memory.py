"""Byte budgets: what the device's allocator counts must stay within them, and the numbers must not change."""

from __future__ import annotations

from typing import Any

import torch
from networks import NETWORKS, Recurrent
from on_gpu.machine import Machine, largest
from on_gpu.models import GPT2, Size, next_word
from on_gpu.report import Report, Skip
from on_gpu.training import Task
from torch import nn, optim

import memograd as mg
from memograd.memory.budget import human

SHARES = (0.9, 0.6, 0.3)  # of the way from the least that is possible to what a step takes without a plan


def tasks(machine: Machine) -> dict[str, Task]:
    """Networks whose activations are most of what they need."""
    small = machine.small
    size = Size(layers=1, width=32, heads=2, words=50, longest=32) if small else Size(4, 512, 8, 8000, 512)
    tokens = (2, 16) if small else (16, 512)
    count, edge = (2, 16) if small else (64, 96)
    images = lambda: (torch.randn(count, 3, edge, edge), torch.randint(0, 10, (count,)))  # noqa: E731
    steps, width = (6, 8) if small else (30, 512)
    entropy = nn.CrossEntropyLoss()
    adam: Any = lambda p: optim.AdamW(p, lr=1e-3)  # noqa: E731
    momentum: Any = lambda p: optim.SGD(p, lr=0.01, momentum=0.9)  # noqa: E731
    return {
        "ResNet-18": Task(lambda: NETWORKS["resnet18"].make("none"), entropy, images, momentum),
        "GPT-2 of 4 blocks": Task(
            lambda: GPT2(size), next_word, lambda: (torch.randint(0, size.words, tokens),) * 2, adam
        ),
        "U-Net": Task(
            lambda: NETWORKS["unet"].make("none"),
            entropy,
            lambda: (torch.randn(count // 2, 3, edge, edge), torch.randint(0, 2, (count // 2, edge, edge))),
            adam,
        ),
        "LSTM written out": Task(
            lambda: Recurrent(steps, width),
            entropy,
            lambda: (torch.randn(steps, 4 if small else 256, 32), torch.randint(0, 10, (4 if small else 256,))),
            adam,
        ),
    }


def budgets(report: Report, machine: Machine) -> None:
    """Every network with every share of its memory."""
    for name, task in tasks(machine).items():
        if machine.few and "LSTM" not in name:
            continue
        with report.case(f"{name}: without a budget") as case:
            least, whole, expected = _unplanned(case, task, machine)
        if case.status != "ok":
            continue
        for share in SHARES[1:2] if machine.few else SHARES:
            with report.case(f"{name}: {share:.0%} of the way") as case:
                within(case, task, machine, int(least + share * (whole - least)), "eager", expected)
            machine.clean()


def _unplanned(case: Any, task: Task, machine: Machine) -> tuple[int, int, list[torch.Tensor]]:
    """(least budget, bytes without a plan, losses of three steps)."""
    model, batch = task.made(machine)
    try:
        mg.TrainStep(model, task.criterion, task.optimizer(model.parameters()), memory_budget=1)(*batch)
        raise AssertionError("a budget of one byte was accepted")
    except mg.BudgetInfeasibleError as error:
        least = error.floor_bytes
    del model, batch
    machine.clean()
    base = torch.cuda.memory_allocated(machine.device) if machine.is_cuda else 0
    model, batch = task.made(machine)
    step = mg.TrainStep(model, task.criterion, task.optimizer(model.parameters()), memory_budget="100%")
    torch.manual_seed(1)
    losses = [step(*batch) for _ in range(3)]
    assert step.plan is not None
    whole = step.plan.unplanned_bytes
    case.note = f"{human(whole)}, at least {human(least)}"
    if machine.is_cuda:
        seen = machine.peak(lambda: step(*batch)) - base
        case.note += f"; the allocator saw {human(seen)}"
        case.data["seen"] = seen
    case.data |= {"least": least, "whole": whole}
    return least, whole, losses


def within(
    case: Any, task: Task, machine: Machine, allowed: int | str, backend: str, expected: list[torch.Tensor]
) -> mg.TrainStep:
    """Three steps within ``allowed``: the same losses, and a peak that is no higher."""
    machine.clean()  # what goes later would be missing from the peak
    base = torch.cuda.memory_allocated(machine.device) if machine.is_cuda else 0
    model, batch = task.made(machine)
    step = mg.TrainStep(model, task.criterion, task.optimizer(model.parameters()), allowed, backend)
    torch.manual_seed(1)
    losses = [step(*batch) for _ in range(2)]
    peak = None
    if machine.is_cuda:
        peak = machine.peak(lambda: losses.append(step(*batch))) - base
    else:
        losses.append(step(*batch))
    plan = step.plan
    assert plan is not None
    budget = plan.budget
    error = max(largest(a, b) for a, b in zip(losses, expected, strict=True))
    exact = all(torch.equal(a, b) for a, b in zip(losses, expected, strict=True))
    case.note = f"{human(budget)}, planned {human(plan.peak_bytes)}"
    case.note += f", seen {human(peak)}" if peak is not None else ", not measured here"
    case.note += f", {plan.overhead:.1%} more time; losses {'equal' if exact else f'differ by {error:.1e}'}"
    case.data |= {"budget": budget, "planned": plan.peak_bytes, "seen": peak, "overhead": plan.overhead, "error": error}
    case.check(plan.peak_bytes <= budget, "the plan exceeds its budget")
    case.check(peak is None or peak <= budget, "the step exceeds its budget")
    case.check(error <= (1e-4 if backend == "eager" else 1e-2), "the losses differ")
    return step


class Rounded(nn.Module):
    """What is left of numbers behind their rounding to half precision: nothing, in a kernel that does not round."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.line(x)
        return 1000 * ((h - h.bfloat16().float()).abs().sqrt() + h.sin())


def fused(report: Report, machine: Machine) -> None:
    """The inductor backend within a budget: kernels of its own, which a plan keeps or computes again."""
    numbers = lambda: (torch.randn(8192, 256), torch.randn(8192, 256))  # noqa: E731
    chosen = {"Roundings": Task(Rounded, nn.MSELoss(), numbers, lambda p: optim.SGD(p, lr=1e-6)), **tasks(machine)}
    for name in ("Roundings", "ResNet-18", "GPT-2 of 4 blocks"):
        task = chosen[name]
        allowed = "100%" if name == "Roundings" else "85%" if machine.small else "60%"  # weights are most of small ones
        with report.case(f"{name}: fused, within {allowed}") as case:
            if machine.few:
                raise Skip("compiling takes longer than the few cases may")
            model, batch = task.made(machine)
            eager = mg.TrainStep(model, task.criterion, task.optimizer(model.parameters()), backend="eager")
            torch.manual_seed(1)
            losses = [eager(*batch) for _ in range(3)]
            del model, batch, eager
            machine.clean()
            step = within(case, task, machine, allowed, "inductor", losses)
            case.check(step.backend_name == "inductor", f"no kernel was fused: {step.backend_reason}")
        machine.clean()
