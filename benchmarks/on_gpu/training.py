"""Training steps on the device against the ordinary loop: the lecture's networks, GPT-2 and ResNet-50 in bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from networks import NETWORKS
from on_gpu.machine import Machine, apart
from on_gpu.models import GPT2, Size, next_word
from on_gpu.report import Report
from torch import nn, optim

import memograd as mg
from memograd.recipes.models import SimpleCNN, SimpleNN, SimpleRNN

Tensor = torch.Tensor


@dataclass(frozen=True)
class Task:
    """A model, its loss, a batch ``(inputs, target)`` and an optimizer."""

    model: Callable[[], nn.Module]
    criterion: Callable[[Any, Any], Tensor]
    batch: Callable[[], tuple[Tensor, Tensor]]
    optimizer: Callable[[Any], optim.Optimizer] = lambda p: optim.SGD(p, lr=0.1)

    def made(self, machine: Machine) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        torch.manual_seed(0)
        model = self.model().to(machine.device)
        x, y = (t.to(machine.device) for t in self.batch())
        return model, (x, y)


def digits(count: int, of: int = 0) -> tuple[Tensor, Tensor]:
    """Images of ten kinds that can be told apart; nothing has to be downloaded for them."""
    generator = torch.Generator().manual_seed(of)
    kinds = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, 10, (count,), generator=generator)
    return kinds[labels] + 0.3 * torch.randn(count, 1, 28, 28, generator=generator), labels


def xor() -> tuple[Tensor, Tensor]:
    return torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([[0.0], [1], [1], [0]])


LECTURE = {
    "XOR": Task(SimpleNN, nn.BCELoss(), xor, lambda p: optim.Adam(p, lr=0.05)),
    "CNN": Task(SimpleCNN, nn.CrossEntropyLoss(), lambda: digits(64), lambda p: optim.Adam(p, lr=1e-3)),
    "LSTM": Task(SimpleRNN, nn.CrossEntropyLoss(), lambda: digits(64), lambda p: optim.Adam(p, lr=1e-3)),
}


def lecture(report: Report, machine: Machine) -> None:
    """The three networks: some steps against the ordinary loop, and whole trainings."""
    for name, task in machine.some(LECTURE, 1).items():
        with report.case(f"{name}: 5 steps like PyTorch's") as case:
            ours, batch = task.made(machine)
            theirs, before = copy.deepcopy(ours), copy.deepcopy(ours.state_dict())
            step = mg.TrainStep(ours, task.criterion, task.optimizer(ours.parameters()))
            optimizer = task.optimizer(theirs.parameters())
            with machine.exact():
                losses = [(step(*batch).item(), ordinary(theirs, task, optimizer, batch)) for _ in range(5)]
            difference = max(abs(a - b) / abs(b) for a, b in losses)
            case.note = f"losses differ by {difference:.1e}, updates by {apart(ours, theirs, before):.1e}"
            case.check(difference < 1e-4 and apart(ours, theirs, before) < 1e-2, "they differ")
    for name in ("XOR",) if machine.few else ("CNN", "LSTM"):
        with report.case(f"{name}: trained from a loader on the CPU") as case:
            task = LECTURE[name]
            torch.manual_seed(0)
            model = task.model()
            data = [xor()] if name == "XOR" else [digits(64, of=k) for k in range(5 if machine.small else 30)]
            history = mg.train_model(
                model, task.criterion, task.optimizer(model.parameters()), data, epochs=3,
                validation=data[:1], device=machine.device, progress=False,
            )  # fmt: skip
            losses = [record["loss"] for record in history]
            case.note = f"losses {[round(loss, 3) for loss in losses]}, backend {history.backend}"
            case.check(losses[-1] < losses[0] and next(model.parameters()).device.type == machine.device.type, "no")


def ordinary(model: nn.Module, task: Task, optimizer: optim.Optimizer, batch: Any, cast: Any = None) -> float:
    """One step as everybody writes it; ``cast``: the context of the forward pass."""
    optimizer.zero_grad(set_to_none=True)
    with cast or torch.enable_grad():
        loss = task.criterion(model(*batch[:-1]), batch[-1])
    loss.backward()
    optimizer.step()
    return loss.item()


def large(machine: Machine) -> dict[str, Task]:
    """GPT-2 small and ResNet-50, without dropout (whose masks are compared elsewhere)."""
    small = machine.small
    size = Size(layers=2, width=32, heads=2, words=100, longest=32, dropout=0.0) if small else Size(dropout=0.0)
    count, length, edge = (2, 16, 32) if small else (8, 512, 224)
    tokens = lambda: (torch.randint(0, size.words, (count, length)),) * 2  # noqa: E731
    images = lambda: (torch.randn(2 if small else 32, 3, edge, edge), torch.randint(0, 10, (2 if small else 32,)))  # noqa: E731
    resnet = NETWORKS["resnet18" if small else "resnet50"]
    return {
        "GPT-2 small": Task(lambda: GPT2(size), next_word, tokens),
        "ResNet-50": Task(lambda: resnet.make("none"), resnet.criterion, images),
    }


def half(report: Report, machine: Machine) -> None:
    """One step under bfloat16 autocast. Both roundings are errors against the same step in single precision: ours may
    be little larger than PyTorch's own."""
    for name, task in machine.some(large(machine), 1).items():
        with report.case(f"{name}: a step in bfloat16") as case:
            ours, batch = task.made(machine)
            theirs, exact, before = copy.deepcopy(ours), copy.deepcopy(ours), copy.deepcopy(ours.state_dict())
            single = ordinary(exact, task, task.optimizer(exact.parameters()), batch)
            loss = ordinary(theirs, task, task.optimizer(theirs.parameters()), batch, machine.autocast())
            step = mg.TrainStep(ours, task.criterion, task.optimizer(ours.parameters()), backend="eager")
            with machine.autocast():
                mine = step(*batch).item()
            errors = apart(ours, exact, before), apart(theirs, exact, before)
            case.data |= {"losses": [single, loss, mine], "errors": errors}
            case.note = f"loss {mine:.5f} (PyTorch {loss:.5f}, single {single:.5f}); error of the update "
            case.note += f"{errors[0]:.2%} (PyTorch {errors[1]:.2%})"
            case.check(abs(mine - loss) <= 1e-2 * abs(loss), "the loss differs")
            case.check(errors[0] <= 1.25 * errors[1] + 1e-3, "the update is less exact than PyTorch's")
            _same_buffers(case, ours, theirs)
        machine.clean()


def _same_buffers(case: Any, ours: nn.Module, theirs: nn.Module) -> None:
    """Running statistics, to the precision of bfloat16."""
    expected = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        good = torch.allclose(buffer.double(), expected[name].double(), rtol=2e-2, atol=1e-3)
        case.check(good, f"buffer {name} differs")
