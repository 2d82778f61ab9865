"""Random numbers: with the same seed our steps draw what PyTorch's draw, and leave the generator where it does."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from on_gpu.machine import Machine, largest
from on_gpu.report import Report

import memograd as mg

Tensor = torch.Tensor
DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout of a view": lambda x: F.dropout(x.t(), 0.3),
    "dropout2d": lambda x: F.dropout2d(x[:, :, None, None].expand(-1, -1, 3, 3) + 0, 0.4),
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.2),
    "two dropouts": lambda x: F.dropout(F.dropout(x, 0.1).relu(), 0.5),
    "rand_like": lambda x: x * torch.rand_like(x),
    "randn": lambda x: x + torch.randn(x.shape, device=x.device, dtype=x.dtype),
    "bernoulli": lambda x: x * torch.bernoulli(torch.full_like(x, 0.25)),
    "randperm": lambda x: x[torch.randperm(len(x), device=x.device)],
    "randint": lambda x: x * torch.randint(1, 5, (1,), device=x.device),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "in place": lambda x: x * torch.empty_like(x).uniform_(0.5, 1).bernoulli_(0.5),
    "on the CPU": lambda x: x * torch.rand(x.shape, dtype=torch.float32).to(x),
}  # fmt: skip


def generators(report: Report, machine: Machine) -> None:
    for dtype in (torch.float32,) if machine.few else (torch.float32, torch.bfloat16):
        for name, function in machine.some(DRAWS, 3).items():
            with report.case(f"{name}, {str(dtype).removeprefix('torch.')}") as case:
                torch.manual_seed(0)
                x = torch.randn(300, 200).to(machine.device, dtype)
                loss = lambda x: function(x).float().sin().sum()  # noqa: B023, E731
                leaf = x.clone().requires_grad_()
                torch.manual_seed(1)
                theirs = loss(leaf)
                (gradient,) = torch.autograd.grad(theirs, leaf)
                after = torch.rand(1, device=machine.device)
                torch.manual_seed(1)
                ours, value = mg.value_and_grad(loss)(x)[::-1]
                same = largest(ours, gradient) <= (1e-5 if dtype == torch.float32 else 1e-2)
                case.check(same, "the gradients differ: other numbers were drawn")
                case.check(largest(value, theirs.detach()) <= 1e-4, "the values differ")
                case.check(torch.equal(torch.rand(1, device=machine.device), after), "the generator is elsewhere")
    with report.case("drawn again within a budget") as case:
        _drawn_again(case, machine)


def _drawn_again(case: object, machine: Machine) -> None:
    """Masks larger than the generator's state are drawn anew where the budget asks for it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(m for _ in range(6) for m in (torch.nn.Linear(64, 64), torch.nn.Dropout(0.5))))
    model.to(machine.device)
    x = torch.randn(2048, 64, device=machine.device)
    losses = []
    start = {k: v.clone() for k, v in model.state_dict().items()}
    for budget in (None, "60%"):
        model.load_state_dict(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = mg.TrainStep(model, torch.nn.MSELoss(), optimizer, memory_budget=budget, backend="eager")
        torch.manual_seed(2)
        losses.append(torch.stack([step(x, x) for _ in range(3)]))
    assert torch.equal(*losses), losses
