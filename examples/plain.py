"""A plain PyTorch loop with what loops have: dropout, accumulated gradients, clipping, a schedule, bfloat16.

    python examples/plain.py            # with and without memograd, side by side
    python examples/plain.py --plain    # PyTorch alone

One line makes the difference: ``model = mg.wrap(model)``.
"""

import argparse

import torch
from torch import nn

import memograd as mg

STEPS, ACCUMULATED = 100, 4


def network() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Embedding(16, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, 16))


def batches(steps: int):
    """Sequences of numbers and, as targets, the running sums of them modulo 16."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps * ACCUMULATED):
        tokens = torch.randint(16, (8, 12), generator=generator)
        yield tokens, tokens.cumsum(1) % 16


def train(wrapped: bool, steps: int = STEPS) -> list[float]:
    """The loss of every batch."""
    model = network()
    if wrapped:
        model = mg.wrap(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    losses = []
    torch.manual_seed(2)
    for k, (tokens, targets) in enumerate(batches(steps), 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(tokens)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        (loss / ACCUMULATED).backward()
        losses.append(loss.item())
        if k % ACCUMULATED == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
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
