"""XOR, the lecture's first network, with the whole data set as one batch.

Not every initialization learns XOR with two hidden units: when a ReLU is negative for all four inputs its gradient is
zero and it never moves again, and one living unit cannot separate XOR. Of the seeds 0 to 59 thirteen converge; the
default is the first of them.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

import torch
from torch import nn, optim

from memograd.errors import DataError
from memograd.memory.plan import Plan
from memograd.recipes import curve, data
from memograd.recipes.models import SimpleNN
from memograd.recipes.settings import Settings, of_plan, say_plan
from memograd.train import checkpoint
from memograd.train.resumable import Resumable
from memograd.train.step import TrainStep

CHUNK = 1000  # epochs between two lines of output, and between two checkpoints
_POINTS = 10  # one point of the curve for so many epochs


def train(settings: Settings) -> dict[str, Any]:
    """Train, report, and write the run folder; returns what ``metrics.json`` holds."""
    s = settings.or_else(epochs=10_000, lr=0.1, seed=5)
    assert s.epochs is not None and s.lr is not None and s.seed is not None
    if s.batch_size not in (None, 4):
        raise DataError("xor trains on its four samples at once: leave --batch-size out")
    if s.refinements:
        flags = ", ".join("--" + name.replace("_", "-") for name in s.refinements)
        raise DataError(f"xor trains as the lecture does: leave {flags} out")
    if s.epochs < 1:
        raise DataError(f"epochs must be at least 1, got {s.epochs}")
    torch.manual_seed(s.seed)
    model = SimpleNN().to(s.device)
    x, y = (t.to(s.device) for t in data.xor())
    run = _Run(model, optim.SGD(model.parameters(), lr=s.lr), s)
    s.say(f"SimpleNN 2-2-1, 9 parameters; BCELoss, SGD lr {s.lr:g}; 4 samples, {s.epochs:,} epochs, seed {s.seed}")
    run.resume()
    while run.done < s.epochs:
        run.advance(x, y, min(CHUNK - run.done % CHUNK, s.epochs - run.done))
        s.say(f"Epoch [{run.done}/{s.epochs}], Loss: {run.losses[-1][1]:.4f}")
    with torch.no_grad():
        answers = model(x).flatten().tolist()
    right = sum((a > 0.5) == (t > 0.5) for a, t in zip(answers, y.flatten().tolist(), strict=True))
    for (a, b), answer in zip(x.int().tolist(), answers, strict=True):
        s.say(f"{a} xor {b} = {answer:.4f}")
    s.say(f"{right} of 4 answers right; {run.seconds:.2f} s, backend {run.backend} ({run.reason})")
    say_plan(run.plan, s.say)
    if right < 4:
        s.say("This initialization did not learn XOR (a ReLU died: see the recipe's docstring); try another --seed.")
    return run.report(answers, right)


class _Run:
    """The state of a run between two chunks."""

    def __init__(self, model: nn.Module, optimizer: optim.Optimizer, settings: Settings) -> None:
        self.model, self.optimizer, self.settings = model, optimizer, settings
        identity = {"recipe": "xor", "seed": settings.seed, "lr": settings.lr}
        self.stored = Resumable(settings.out, model, optimizer, identity)
        self.done = 0
        self.seconds = 0.0
        self.losses: list[list[float]] = []  # [epoch, loss], a sample of them for the curve
        self.backend = settings.backend
        self.reason = ""
        self.step: TrainStep | None = None

    @property
    def plan(self) -> Plan | None:
        """The memory plan, if there is a budget and a step was run."""
        return self.step.plan if self.step is not None else None

    def resume(self) -> None:
        """Take up the checkpoint, if that was asked for and there is one."""
        s = self.settings
        saved = self.stored.take_up() if s.resume else None
        if saved is None:
            if s.resume:
                s.say(f"no checkpoint in {s.out}: starting from the beginning")
            return
        self.done, self.losses, self.seconds = saved["done"], saved["losses"], saved["seconds"]
        self.reason = saved["reason"]
        if s.backend == "auto":  # the same arithmetic to the last bit
            self.backend = saved["backend"]
        s.say(f"resumed after epoch {self.done}")

    def advance(self, x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
        """``steps`` epochs in one call, and a checkpoint after them."""
        start = time.perf_counter()
        if self.step is None:
            self.step = TrainStep(self.model, nn.BCELoss(), self.optimizer, self.settings.memory_budget, self.backend)
        losses = self.step.run(x, y, steps=steps).tolist()
        if not all(map(math.isfinite, losses)):
            bad = next(i for i, loss in enumerate(losses, 1) if not math.isfinite(loss))
            raise DataError(f"the loss is {losses[bad - 1]} in epoch {self.done + bad}: lower the learning rate (--lr)")
        points = [i for i in range(steps) if (self.done + i + 1) % _POINTS == 0 or i == steps - 1]
        self.losses += [[self.done + i + 1, losses[i]] for i in points]
        self.done += steps
        self.seconds += time.perf_counter() - start
        if self.backend == "auto":
            self.backend, self.reason = self.step.backend_name, self.step.backend_reason
        self.reason = self.reason or self.step.backend_reason
        state = {"done": self.done, "losses": self.losses, "seconds": self.seconds}
        self.stored.save(**state, backend=self.backend, reason=self.reason)

    def report(self, answers: list[float], right: int) -> dict[str, Any]:
        """Write weights, numbers and picture."""
        s = self.settings
        metrics = {
            "recipe": "xor",
            "epochs": self.done,
            "lr": s.lr,
            "seed": s.seed,
            "loss": self.losses[-1][1],
            "answers": answers,
            "right": right,
            "accuracy": right / 4,
            "seconds": self.seconds,
            "backend": self.backend,
            "backend_reason": self.reason,
            **of_plan(self.plan),
            "history": [{"epoch": int(e), "loss": loss} for e, loss in self.losses if e % CHUNK == 0 or e == self.done],
        }
        checkpoint.save_weights(s.out, self.model)
        checkpoint.write_text(s.out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
        steps, losses = zip(*self.losses, strict=True)
        metrics["files"] = curve.draw(s.out, "XOR: SimpleNN trained by memograd", steps, losses)
        return metrics
