"""What it costs to watch: processor time of a training step with ``watch=True`` against the same step without.

    python benchmarks/watch.py [--rounds 9] [--json FILE]

Each contestant is built twice from one seed, and runs the same batches in turns, in one thread; the table gives the
median of the rounds' ratios. The losses of both must be equal to the last bit before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from networks import NETWORKS, Network
from torch import nn
from workloads import lecture_workloads

import memograd as mg

Step = Callable[[], Any]


def steps_of(model: Callable[[], nn.Module], criterion: Any, optimizer: Any, batch: Any, backend: str) -> list[Step]:
    """A step without ``watch``, and one with it."""
    made: list[Step] = []
    for watch in (False, True):
        torch.manual_seed(0)
        net = model()
        step = mg.TrainStep(net, criterion, optimizer(net.parameters()), backend=backend, check="never", watch=watch)
        made.append(lambda step=step: step(*batch))
    return made


def loops_of(model: Callable[[], nn.Module], criterion: Any, optimizer: Any, batch: Any) -> list[Step]:
    """The same in a plain loop, wrapped."""
    made: list[Step] = []
    for watch in (False, True):
        torch.manual_seed(0)
        net = mg.wrap(model(), check="never", watch=watch)
        update = optimizer(net.parameters())

        def one(net: nn.Module = net, update: Any = update) -> Any:
            update.zero_grad()
            loss = criterion(net(*batch[:-1]), batch[-1])
            loss.backward()
            update.step()
            return loss.detach()

        made.append(one)
    return made


def compared(pair: list[Step], count: int, rounds: int) -> dict[str, float]:
    """Processor seconds of a step of each, and the median of the ratios."""
    for k in range(3):
        losses = []
        for step in pair:
            torch.manual_seed(k)  # dropout
            losses.append(step())
        assert torch.equal(*losses), f"not the same step: {losses}"
    seconds: list[list[float]] = [[], []]
    for k in range(rounds):
        for which in (0, 1) if k % 2 else (1, 0):
            start = time.process_time()
            for _ in range(count):
                pair[which]()
            seconds[which].append((time.process_time() - start) / count)
    ratios = [b / a for a, b in zip(*seconds, strict=True)]
    return {"plain": min(seconds[0]), "watched": min(seconds[1]), "ratio": statistics.median(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, float]] = {}
    xor = lecture_workloads()[0]
    for backend in ("native", "eager"):
        pair = steps_of(xor.model, xor.criterion, xor.optimizer, (xor.x, xor.y), backend)
        rows[f"XOR, {backend}"] = compared(pair, 2000 if backend == "native" else 400, 3 * given.rounds)
    pair = loops_of(xor.model, xor.criterion, xor.optimizer, (xor.x, xor.y))
    rows["XOR, wrap"] = compared(pair, 300, 3 * given.rounds)

    def adamw(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-4)

    for name, key in (("GPT-2, 8 layers of 128", "gpt2"), ("ResNet-18, 32 images of 64", "resnet18")):
        network = NETWORKS[key]

        def model(network: Network = network) -> nn.Module:
            return network.make("none")

        torch.manual_seed(0)
        batch = network.batch()
        rows[f"{name}, TrainStep"] = compared(
            steps_of(model, network.criterion, adamw, batch, "eager"), 1, given.rounds
        )
        rows[f"{name}, wrap"] = compared(loops_of(model, network.criterion, adamw, batch), 1, given.rounds)
    for name, row in rows.items():
        print(f"{name:38s} {row['plain'] * 1e3:10.4f} ms  {row['watched'] * 1e3:10.4f} ms  {row['ratio'] - 1:+7.1%}")
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
