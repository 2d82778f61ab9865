"""Wrapped blocks under fully_shard (FSDP2): each process holds a share of every parameter.

torchrun --standalone --nproc-per-node 2 examples/fsdp2.py --steps 20
"""

from __future__ import annotations

import argparse
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import memograd as mg


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def network(sharded: bool = True) -> nn.Sequential:
    torch.manual_seed(0)  # the same weights in each process
    model = nn.Sequential(nn.Linear(16, 32), *[Block(32) for _ in range(4)], nn.Linear(32, 4))
    if sharded:
        for block in list(model)[1:-1]:
            fully_shard(mg.wrap(block))  # our graphs lie inside each unit, below its hooks
        fully_shard(model)
    return model


def train(model: nn.Module, steps: int) -> dict[str, torch.Tensor]:
    """The whole weights after so many steps."""
    rank, count = distributed.get_rank(), distributed.get_world_size()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        x = torch.randn(32, 16, generator=torch.Generator().manual_seed(step))[rank::count]
        loss = nn.functional.mse_loss(model(x), x[:, :4].sin())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if rank == 0 and (step + 1) % 5 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in model.state_dict().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    train(network(), options.steps)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
