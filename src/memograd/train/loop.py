"""``train_model``: the lecture's four steps (forward, loss, backward, update) over a data loader, epoch by epoch."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn, optim

from memograd._torch import pytree
from memograd.errors import DataError, MemogradError, with_notes
from memograd.memory.plan import Plan
from memograd.train import checkpoint as checkpoints
from memograd.train.history import History
from memograd.train.modes import evaluating, training
from memograd.train.objective import loss_in
from memograd.train.refinements import StepOptions
from memograd.train.step import TrainStep

if TYPE_CHECKING:
    from tqdm import tqdm
    from typing_extensions import Unpack

Metric = Callable[[torch.Tensor, torch.Tensor], Any]
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
        criterion: ``criterion(model(*inputs), target)``; None when the model returns its loss.
        dataloader: yields ``(*inputs, target)``, or dicts of keyword arguments for a model that returns its loss;
            iterated once an epoch.
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
    if epochs < 1:
        raise DataError(f"epochs must be at least 1, got {epochs}")
    if epochs > 1 and isinstance(dataloader, Iterator):
        raise DataError("the dataloader can be iterated only once (it is an iterator); pass a DataLoader or a list")
    if device is not None:
        model.to(device)
    folder = Path(checkpoint) if checkpoint is not None else None
    saved = checkpoints.load(folder) if folder is not None and resume else None
    if folder is not None and saved is not None:
        _check_settings(folder, saved, dict(settings or {}))
        checkpoints.restore(folder, saved, model, optimizer)
        backend = saved["backend"] if backend == "auto" else backend
    step = TrainStep(model, criterion, optimizer, memory_budget, backend, check, **refinements)
    run = _Run(model, criterion, step, device, folder)
    run.settings, run.metrics = dict(settings or {}), metrics
    if saved is not None:
        run.history = History(saved["history"], saved["backend"], saved["backend_reason"])
        step.load_state_dict(saved.get("step") or step.state_dict())  # an older release had none
        checkpoints.restore_random(saved["random"], dataloader)
    with training(model), run.bar(dataloader, epochs, progress) as bar:
        for epoch in range(len(run.history) + 1, epochs + 1):
            record = run.epoch(epoch, dataloader, validation, bar)
            run.history.epochs.append(record)
            run.save(dataloader, optimizer)
            if callback is not None:
                callback(record)
    if step.averages:
        run.history.ema = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in step.ema_state_dict().items()}
    return run.history


class _Run:
    """One training run: what its epochs share."""

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any] | None,
        step: TrainStep,
        device: str | torch.device | None,
        folder: Path | None,
    ) -> None:
        self.model = model
        self.criterion = criterion
        self.step = step
        self.device = device
        self.folder = folder
        self.settings: dict[str, Any] = {}
        self.metrics: Mapping[str, Metric] | None = None
        self.history = History()

    def bar(self, loader: Any, epochs: int, progress: bool | None) -> AbstractContextManager[tqdm[Any] | None]:
        if not (sys.stderr.isatty() if progress is None else progress):
            return nullcontext()
        from tqdm import tqdm  # the rest of the library is of use without it

        batches = len(loader) if hasattr(loader, "__len__") else None
        total = batches * epochs if batches is not None else None
        done = batches * len(self.history) if batches is not None else 0
        return tqdm(total=total, initial=done, unit="batch", leave=False, file=sys.stderr)

    def epoch(
        self, epoch: int, loader: Iterable[Any], validation: Iterable[Any] | None, bar: tqdm[Any] | None
    ) -> dict[str, Any]:
        """One pass over the data; returns its record."""
        start = time.perf_counter()
        losses: list[torch.Tensor] = []
        sizes: list[int] = []
        looked = 0
        if bar is not None:
            bar.set_description(f"epoch {epoch}", refresh=False)
        for number, batch in enumerate(loader, 1):
            loss = self.one(epoch, number, batch)
            losses.append(loss)
            sizes.append(_size(batch))
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
        if validation is None:
            return record
        record |= self.validate(validation)
        if self.step.averages:
            with self.step.averaged():
                record |= {f"ema_{name}": value for name, value in self.validate(validation).items()}
        return record

    def one(self, epoch: int, number: int, batch: Any) -> torch.Tensor:
        """One step; errors of PyTorch's operators come out with the place they happened at."""
        args, kwargs = self.arguments(batch, f"epoch {epoch}, batch {number}")
        try:
            loss = self.step(*args, **kwargs)
        except (MemogradError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise DataError(f"epoch {epoch}, batch {number}: {with_notes(error)}") from error
        if self.step.backend == "auto":  # one choice for the whole run, so that resuming repeats it to the last bit
            self.step.keep_backend()
            self.history.backend_reason = self.step.backend_reason
        self.history.backend = self.step.backend_name
        if (plan := self.step.plan) is not None:
            self.history.plan = max(plan, self.history.plan or plan, key=lambda p: p.peak_bytes)
        return loss

    def arguments(self, batch: Any, where: str) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of the step for one batch, on the device."""
        for tensor in pytree.tree_leaves(batch):
            is_data = isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and tensor.is_floating_point()
            if is_data and bool(tensor.isnan().any()):
                raise DataError(f"{where}: the data contain NaN; remove or replace those values (the weights are kept)")
        if self.device is not None:
            batch = pytree.tree_map_only(torch.Tensor, lambda t: t.to(self.device, non_blocking=True), batch)
        if self.criterion is None:
            if isinstance(batch, Mapping):
                return [], dict(batch)
            return (list(batch) if isinstance(batch, (tuple, list)) else [batch]), {}
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise DataError(f"{where}: the dataloader must yield (inputs, target), but it gave {_kind(batch)}")
        return list(batch), {}

    def look(self, epoch: int, losses: list[torch.Tensor], start: int) -> None:
        """Stop at the first loss that is not finite."""
        self.step.settle()
        for number, loss in enumerate(losses[start:], start + 1):
            if not math.isfinite(loss.item()):
                saved = f" {self.folder} holds the state after epoch {epoch - 1}." if self.folder and epoch > 1 else ""
                raise DataError(
                    f"the loss is {loss.item()} in epoch {epoch}, batch {number}: lower the learning rate, or look for "
                    f"extreme values in that batch.{saved}"
                )

    def validate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Mean loss and metrics over ``loader``: plain PyTorch, eval mode, no gradients."""
        sums: dict[str, float] = {}
        count = 0
        with evaluating(self.model):
            for number, batch in enumerate(loader, 1):
                args, kwargs = self.arguments(batch, f"validation batch {number}")
                with self.step.precision():
                    values = self.judge(args, kwargs)
                size = _size(batch)
                count += size
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * size
        if not count:
            raise DataError("the validation loader gave no batches")
        return {f"validation_{name}": total / count for name, total in sums.items()}

    def judge(self, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Loss and metrics of one validation batch."""
        if self.criterion is None:
            out = self.model(*args, **kwargs)
            return {"loss": loss_in(out)}
        output, target = self.model(*args[:-1]), args[-1]
        metrics = self.metrics
        if metrics is None:
            metrics = {"accuracy": accuracy} if _is_classification(output, target) else {}
        return {"loss": self.criterion(output, target)} | {n: metric(output, target) for n, metric in metrics.items()}

    def save(self, loader: Any, optimizer: optim.Optimizer) -> None:
        """Write the checkpoint, if the run has a folder."""
        if self.folder is None:
            return
        state = {
            "model": self.model.state_dict(keep_vars=True),  # keeps the identity of tied weights
            "optimizer": optimizer.state_dict(),
            "optimizer_type": type(optimizer).__name__,
            "step": self.step.state_dict(),
            "random": checkpoints.random_state(loader),
            "history": self.history.epochs,
            "backend": self.history.backend,
            "backend_reason": self.history.backend_reason,
            "settings": self.settings,
        }
        checkpoints.save(self.folder, state)
        checkpoints.save_weights(self.folder, self.model)
        if self.step.averages:
            with self.step.averaged():
                checkpoints.save_weights(self.folder, self.model, checkpoints.AVERAGED)


def accuracy(output: torch.Tensor, target: torch.Tensor) -> float:
    """Share of right answers, for outputs ``[N, classes, ...]`` and class numbers ``[N, ...]``."""
    return (output.argmax(1) == target).double().mean().item()


def _is_classification(output: Any, target: Any) -> bool:
    tensors = isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)
    return tensors and not target.is_floating_point() and output.shape[:1] + output.shape[2:] == target.shape


def _check_settings(folder: Path, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        before = saved["settings"].get(name)
        if before != value:
            raise DataError(
                f"the run in {folder} was made with {name} = {before}, not {value}; resume it with the same settings, "
                "or choose another folder"
            )


def _size(batch: Any) -> int:
    """Number of samples: the first dimension of the first tensor."""
    first = next((t for t in pytree.tree_leaves(batch) if isinstance(t, torch.Tensor)), None)
    return first.shape[0] if first is not None and first.dim() else 1


def _kind(batch: Any) -> str:
    return f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else type(batch).__name__
