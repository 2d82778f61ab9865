"""The Trainer of Lightning: dropout, accumulated gradients, clipping, a schedule, bfloat16.

    pip install 'memograd[examples]'
    python examples/lightning_module.py            # with and without memograd, side by side
    python examples/lightning_module.py --plain    # PyTorch alone

One line makes the difference: ``net = mg.wrap(net)`` in the module. (Wrapping the LightningModule works, too, where its
``training_step`` calls ``self(...)``: what is wrapped is its ``forward``.)
"""

import argparse
import tempfile
from typing import Any

import lightning
import torch
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


class Classifier(lightning.LightningModule):
    def __init__(self, wrapped: bool, steps: int) -> None:
        super().__init__()
        net = network()
        if wrapped:
            net = mg.wrap(net)
        self.net, self.steps, self.losses = net, steps, []

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.net(points)

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(wrapped: bool, steps: int = STEPS, **options: Any) -> list[float]:
    """The loss of every batch."""
    model = Classifier(wrapped, steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            accumulate_grad_batches=ACCUMULATED,
            gradient_clip_val=1.0,
            precision="bf16-mixed",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            **options,
        )
        torch.manual_seed(2)
        trainer.fit(model, data(steps))
        trainer.save_checkpoint(f"{folder}/last.ckpt")  # as if it were not wrapped
        Classifier.load_from_checkpoint(f"{folder}/last.ckpt", wrapped=False, steps=steps)
    return model.losses


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
