"""A loop on accelerate: dropout, accumulated gradients, clipping, a schedule, bfloat16.

    pip install 'memograd[examples]'
    python examples/accelerate_loop.py            # with and without memograd, side by side
    python examples/accelerate_loop.py --plain    # PyTorch alone

One line makes the difference: ``model = mg.wrap(model)``, in front of ``accelerator.prepare``.
"""

import argparse

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import memograd as mg

STEPS, ACCUMULATED = 100, 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Dropout(0.1), nn.LayerNorm(64), nn.Linear(64, 4))


def data(steps: int) -> DataLoader:
    """Points, and the quarter of the plane in which their first two coordinates lie."""
    points = torch.randn(steps * ACCUMULATED * 16, 8, generator=torch.Generator().manual_seed(1))
    quarters = (points[:, 0] > 0).long() + 2 * (points[:, 1] > 0).long()
    return DataLoader(TensorDataset(points, quarters), batch_size=16)


def train(wrapped: bool, steps: int = STEPS) -> list[float]:
    """The loss of every batch."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=ACCUMULATED)
    model = network()
    if wrapped:
        model = mg.wrap(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model, optimizer, batches, schedule = accelerator.prepare(model, optimizer, data(steps), schedule)
    losses = []
    torch.manual_seed(2)
    for points, quarters in batches:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(points), quarters)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    options = argparse.ArgumentParser(description="The losses of a loop, with mg.wrap and without.")
    options.add_argument("--plain", action="store_true", help="without mg.wrap alone")
    options.add_argument("--steps", type=int, default=STEPS)
    given = options.parse_args()
    runs = [train(wrapped, given.steps) for wrapped in ((False,) if given.plain else (False, True))]
    for k, losses in enumerate(zip(*runs, strict=True), 1):
        if k % (ACCUMULATED * 10) == 0:
            print(f"batch {k:4d}  " + "  ".join(f"{loss:.6f}" for loss in losses))


if __name__ == "__main__":
    main()
