"""``train_model``: the lecture's four steps (forward, loss, backward, update) over a data loader, epoch by epoch."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn, optim

from memograd.errors import DataError
from memograd.memory.plan import Plan
from memograd.train import arguments
from memograd.train import checkpoint as checkpoints
from memograd.train.batches import Batches, size_of, told
from memograd.train.history import History
from memograd.train.modes import training
from memograd.train.refinements import StepOptions
from memograd.train.resumable import Resumable
from memograd.train.step import TrainStep
from memograd.train.validation import Metric, Validation

if TYPE_CHECKING:
    from tqdm import tqdm
    from typing_extensions import Unpack

_STATE = {"random": dict, "history": list, "backend": str, "backend_reason": str}  # of a run, in its checkpoint
_LOOK_EVERY = 50  # on an accelerator reading the loss waits for the device: look at this many losses at a time


def train_model(
    model: nn.Module,
    criterion: Callable[..., Any] | None,
    optimizer: optim.Optimizer,
    dataloader: Iterable[Any],
    epochs: int = 10,
    *,
    validation: Iterable[Any] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    progress: bool | None = None,
    backend: str = "auto",
    memory_budget: int | str | Plan | None = None,
    check: Literal["first", "never", "always"] = "first",
    **refinements: Unpack[StepOptions],
) -> History:
    """Train ``model`` in place.

    Args:
        criterion: ``criterion(model(*inputs), target)``; None when the model returns its loss. See ``TrainStep``.
        optimizer: any of ``torch.optim``, made with the model's parameters; see ``TrainStep``.
        dataloader: yields ``(*inputs, target)``, or dicts of keyword arguments for a model that returns its loss;
            iterated once an epoch.
        epochs: passes over the data in all, those before a resumption too.
        validation: the like, run after each epoch in eval mode.
        metrics: name -> ``metric(output, target)``, the mean over a batch; recorded as ``validation_<name>``. Without
            it ``accuracy`` is recorded when the targets are class numbers.
        device: where to move the model and each batch; default: both stay where they are.
        checkpoint: a folder; after each epoch the whole state of the run is written there.
        resume: go on from the checkpoint, to exactly the weights of a run that was never stopped. Without one in the
            folder the run starts from the beginning.
        settings: what must not change between a run and its resumption; compared and stored with the checkpoint.
        callback: called with each epoch's record.
        progress: show a bar on stderr; default: if that is a terminal.
        backend, memory_budget, check: see ``TrainStep``.
        refinements: ``clip_grad_norm``, ``clip_grad_value``, ``norm_type``, ``accumulate``, ``ema_decay``,
            ``autocast``, ``watch``, ``compile_seconds`` of ``TrainStep``. The last batches of an epoch are a group of
            their own if they are fewer than ``accumulate``; their gradients are divided by ``accumulate`` all the
            same. With ``ema_decay`` validation runs with the averaged weights too (``ema_validation_loss``), and
            ``ema.safetensors`` in the checkpoint's folder has them.

    Returns:
        A record for each epoch; see ``History``.

    Raises:
        DataError: no batches, batches of another form, a loss that is not finite, a checkpoint that does not fit.
        GradientMismatchError: a first step differs from PyTorch's; see ``TrainStep``.
        NonFiniteError: with ``watch=True`` a step's loss or a gradient is not finite.
        MemogradError: the model cannot be captured or differentiated.
    """
    epochs = arguments.at_least_one(epochs, "epochs", DataError)
    arguments.refuse_loader(dataloader, "dataloader", epochs)
    if validation is not None:
        arguments.refuse_loader(validation, "validation loader", epochs)
    arguments.refuse_callables(metrics, callback)
    arguments.refuse_model(model)
    arguments.refuse_settings(settings)
    arguments.refuse_device(device)
    step = TrainStep(model, criterion, optimizer, memory_budget, backend, check, **refinements)
    folder = checkpoints.folder(checkpoint) if checkpoint is not None else None
    if device is not None:  # nothing was changed up to here
        model.to(device)
    stored = Resumable(folder, model, optimizer, dict(settings or {})) if folder is not None else None
    saved = stored.take_up(_STATE, partial(_take_up, step)) if stored is not None and resume else None
    batches = Batches(criterion is not None, device)
    run = _Run(step, dataloader, batches, stored)
    if validation is not None:
        run.validation = partial(Validation(model, criterion, metrics, batches, step.precision), validation)
    if saved is not None:
        run.go_on(saved)
    with training(model), run.bar(epochs, progress) as bar:
        for epoch in range(len(run.history) + 1, epochs + 1):
            record = run.epoch(epoch, bar)
            run.history.epochs.append(record)
            run.save()
            if callback is not None:
                callback(record)
    if step.averages:
        run.history.ema = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in step.ema_state_dict().items()}
    return run.history


def _take_up(step: TrainStep, saved: dict[str, Any]) -> None:
    """What the step itself goes on from. Raises DataError where it does not fit."""
    step.load_state_dict(saved.get("step") or step.state_dict())  # an older release had none
    if step.backend == "auto":
        step.keep_backend(saved["backend"])


@dataclass
class _Run:
    """One training run: what its epochs share.

    Attributes:
        loader: of the training data.
        stored: its checkpoint, if it is to have one.
        validation: what is measured after each epoch, if anything is.
    """

    step: TrainStep
    loader: Iterable[Any]
    batches: Batches
    stored: Resumable | None = None
    validation: Callable[[], dict[str, float]] | None = None
    history: History = field(default_factory=History)

    def go_on(self, saved: dict[str, Any]) -> None:
        """From a checkpoint, whose weights are in place."""
        self.history = History(saved["history"], saved["backend"], saved["backend_reason"])
        checkpoints.restore_random(saved["random"], self.loader)

    def bar(self, epochs: int, progress: bool | None) -> AbstractContextManager[tqdm[Any] | None]:
        if not (sys.stderr.isatty() if progress is None else progress):
            return nullcontext()
        from tqdm import tqdm  # the rest of the library is of use without it

        batches = len(self.loader) if isinstance(self.loader, Sized) else None
        total = batches * epochs if batches is not None else None
        done = batches * len(self.history) if batches is not None else 0
        return tqdm(total=total, initial=done, unit="batch", leave=False, file=sys.stderr)

    def epoch(self, epoch: int, bar: tqdm[Any] | None) -> dict[str, Any]:
        """One pass over the data; returns its record."""
        start = time.perf_counter()
        losses: list[torch.Tensor] = []
        sizes: list[int] = []
        looked = 0
        if bar is not None:
            bar.set_description(f"epoch {epoch}", refresh=False)
        for number, batch in enumerate(self.loader, 1):
            loss = self.one(epoch, number, batch)
            losses.append(loss)
            sizes.append(size_of(batch))
            if loss.device.type == "cpu" or number % _LOOK_EVERY == 0:
                self.look(epoch, losses, looked)
                looked = number
            if bar is not None:
                bar.update()
        self.step.finish()
        if not losses:
            raise DataError(f"the dataloader gave no batches in epoch {epoch}: there is nothing to train on")
        self.look(epoch, losses, looked)
        weights = torch.tensor(sizes, dtype=torch.float64)
        mean = (torch.stack(losses).double().cpu() * weights).sum() / weights.sum()
        record = {"epoch": epoch, "loss": mean.item(), "seconds": time.perf_counter() - start}
        if self.validation is None:
            return record
        record |= self.validation()
        if self.step.averages:
            with self.step.averaged():
                record |= {f"ema_{name}": value for name, value in self.validation().items()}
        return record

    def one(self, epoch: int, number: int, batch: Any) -> torch.Tensor:
        """One step."""
        where = f"epoch {epoch}, batch {number}"
        args, kwargs = self.batches.arguments(batch, where)
        with told(where):
            loss = self.step(*args, **kwargs)
        if self.step.backend == "auto":  # one choice for the whole run, so that resuming repeats it to the last bit
            self.step.keep_backend()
            self.history.backend_reason = self.step.backend_reason
        self.history.backend = self.step.backend_name
        if (plan := self.step.plan) is not None:
            self.history.plan = max(plan, self.history.plan or plan, key=lambda p: p.peak_bytes)
        return loss

    def look(self, epoch: int, losses: list[torch.Tensor], start: int) -> None:
        """Stop at the first loss that is not finite."""
        self.step.settle()
        for number, loss in enumerate(losses[start:], start + 1):
            if not math.isfinite(loss.item()):
                stored = self.stored if epoch > 1 else None
                saved = f" {stored.folder} holds the state after epoch {epoch - 1}." if stored is not None else ""
                raise DataError(
                    f"the loss is {loss.item()} in epoch {epoch}, batch {number}: lower the learning rate, or look for "
                    f"extreme values in that batch.{saved}"
                )

    def save(self) -> None:
        """Write the checkpoint, if the run has a folder."""
        if self.stored is None:
            return
        folder, model, history = self.stored.folder, self.stored.model, self.history
        self.stored.save(
            step=self.step.state_dict(),
            random=checkpoints.random_state(self.loader),
            history=history.epochs,
            backend=history.backend,
            backend_reason=history.backend_reason,
        )
        checkpoints.save_weights(folder, model)
        if self.step.averages:
            with self.step.averaged():
                checkpoints.save_weights(folder, model, checkpoints.AVERAGED)
