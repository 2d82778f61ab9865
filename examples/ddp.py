"""A wrapped model under DistributedDataParallel, with a checkpoint that a run goes on from bit by bit.

    torchrun --standalone --nproc-per-node 2 examples/ddp.py --steps 40 --checkpoint run.pt

When a process dies, the others end with an error and torchrun ends the run; the same command goes on from the last
checkpoint. Two machines: see docs/distributed.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import memograd as mg

EVERY = 5  # steps from one checkpoint to the next
BATCH = 32


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's share of the step's batch."""
    x = torch.randn(BATCH, 16, generator=torch.Generator().manual_seed(step))
    share = x[distributed.get_rank() :: distributed.get_world_size()]
    return share, share[:, :4].sin()


def save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """All that the next step depends on, the random numbers of every process included."""
    generators: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(generators, torch.get_rng_state())
    if distributed.get_rank() == 0:
        state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        beside = path.with_suffix(".new")
        torch.save({**state, "generators": generators}, beside)
        os.replace(beside, path)  # never half a checkpoint


def resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The number of steps that were done."""
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["generators"][distributed.get_rank()])
    return state["step"]


def train(steps: int, checkpoint: Path, before: Callable[[int], None] = lambda step: None) -> dict[str, torch.Tensor]:
    """The weights after so many steps. ``before`` is called with the number of each."""
    torch.manual_seed(distributed.get_rank())  # dropout differs; DistributedDataParallel hands the weights of 0 on
    model = DistributedDataParallel(mg.wrap(network()))  # the one line
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    done = resume(checkpoint, model, optimizer) if checkpoint.exists() else 0
    for step in range(done, steps):
        before(step)
        x, y = batch(step)
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % EVERY == 0:
            save(checkpoint, step + 1, model, optimizer)
            if distributed.get_rank() == 0:
                print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return model.module.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--checkpoint", type=Path, default=Path("ddp.pt"))
    parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for another process")
    options = parser.parse_args()
    distributed.init_process_group("gloo", timeout=timedelta(seconds=options.timeout))
    train(options.steps, options.checkpoint)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
