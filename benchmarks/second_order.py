"""Time of training steps that differentiate gradients: forces of an energy, a differential equation, a penalty.

    python benchmarks/second_order.py [--rounds 15] [--threads N] [--skip inductor] [--json FILE]

Each contestant is the same loop over the same model; for ours one line wraps the model. ``torch.compile`` refuses
second derivatives, so PyTorch's best is eager. Rounds are interleaved, and losses must agree before anything is timed;
the table gives medians, and ratios to PyTorch of the same run.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import memograd as mg

CHECKED_STEPS = 5
TOLERANCE = 1e-3  # of the loss, in float32, after CHECKED_STEPS steps


class Energy(nn.Module):
    """The energy of a cluster of atoms: a network of each pair's distance, in Gaussians, with a smooth cutoff."""

    centres: torch.Tensor

    def __init__(self, gaussians: int = 24, width: int = 48) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.5, 5.0, gaussians))
        layers = [nn.Linear(gaussians, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)]
        self.pairs = nn.Sequential(*layers)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        atoms = positions.shape[1]
        one, other = torch.triu_indices(atoms, atoms, 1)
        distance = (positions[:, one] - positions[:, other]).square().sum(-1, keepdim=True).sqrt()
        features = torch.exp(-4 * (distance - self.centres).square())
        cutoff = 0.5 * (torch.cos(distance * (torch.pi / 6)) + 1)
        return (self.pairs(features) * cutoff).sum((1, 2))


def derivative(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(y.sum(), x, create_graph=True)[0]


def forces(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    energy = model(x)
    return energy.square().mean() + derivative(energy, x).square().mean()


def burgers(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    u = model(x)
    first = derivative(u, x)
    second = derivative(first[:, 0], x)[:, :1]
    return (first[:, 1:2] + u * first[:, :1] - 0.01 * second).square().mean()


def penalty(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return (derivative(model(x), x).norm(dim=1) - 1).square().mean()


def tanh_network(inputs: int, width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.Tanh()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


Loss = Callable[[nn.Module, torch.Tensor], torch.Tensor]


def workloads() -> dict[str, tuple[nn.Module, Loss, torch.Tensor]]:
    torch.manual_seed(0)
    cluster = 3 * torch.rand(16, 12, 3)
    return {
        "forces, 16 clusters of 12 atoms": (Energy(), forces, cluster),
        "PINN (Burgers), 2048 points": (tanh_network(2, 20, 8), burgers, torch.rand(2048, 2)),
        "gradient penalty, 64 -> 128 -> 1": (tanh_network(64, 128, 2), penalty, torch.rand(128, 64)),
    }


class Runner:
    """A training loop; ``wrap`` is the one line."""

    def __init__(self, model: nn.Module, loss: Loss, x: torch.Tensor, wrap: Callable[[nn.Module], Any]) -> None:
        self.model, self.loss, self.x = wrap(copy.deepcopy(model)), loss, x
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(self.model, self.x)
        loss.backward()
        self.optimizer.step()
        return loss.item()


CONTESTANTS: dict[str, Callable[[nn.Module], Any]] = {
    "PyTorch": lambda model: model,
    "memograd": lambda model: mg.wrap(model),
    "memograd, inductor": lambda model: mg.wrap(model, backend="inductor"),
}


def measured(runners: dict[str, Runner], rounds: int, steps: int) -> dict[str, float]:
    """Median milliseconds of a step."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            start = time.perf_counter()
            for _ in range(steps):
                runner.step()
            times[name].append((time.perf_counter() - start) / steps * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="steps a round")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--skip", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    table: dict[str, dict[str, float]] = {}
    for title, (model, loss, x) in workloads().items():
        chosen = {n: w for n, w in CONTESTANTS.items() if n.removeprefix("memograd, ") not in options.skip}
        runners = {name: Runner(model, loss, x, wrap) for name, wrap in chosen.items()}
        losses = {name: [runner.step() for _ in range(CHECKED_STEPS)] for name, runner in runners.items()}
        reference = losses["PyTorch"][-1]
        for name, values in losses.items():
            assert abs(values[-1] - reference) <= TOLERANCE * abs(reference), f"{name}: {values}, {losses['PyTorch']}"
        exact = losses["memograd"] == losses["PyTorch"]
        table[title] = measured(runners, options.rounds, options.steps)
        print(f"\n{title}: {sum(p.numel() for p in model.parameters())} parameters, bits as PyTorch's: {exact}")
        for name, milliseconds in table[title].items():
            print(f"  {name:20} {milliseconds:8.2f} ms  {milliseconds / table[title]['PyTorch']:5.2f}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"torch": torch.__version__, "milliseconds": table}, indent=1))


if __name__ == "__main__":
    main()
