"""What the two recipes on handwritten digits share: loaders, training, report."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from memograd.errors import DataError
from memograd.recipes import curve, data
from memograd.recipes.settings import REFINEMENTS, Settings, of_plan, say_plan
from memograd.train import checkpoint
from memograd.train.history import History
from memograd.train.loop import train_model


def train_digits(name: str, model_type: type[nn.Module], settings: Settings) -> dict[str, Any]:
    """Train a new ``model_type()`` on the digits with Adam and write the run folder; returns ``metrics.json``."""
    s = settings
    assert s.epochs is not None and s.lr is not None and s.seed is not None and s.batch_size is not None
    if s.batch_size < 1:
        raise DataError(f"batch size must be at least 1, got {s.batch_size}")
    asked = {name: str(s.refinements[name]) if name in s.refinements else None for name in REFINEMENTS}
    images = data.digits(s.data)
    torch.manual_seed(s.seed)
    model = model_type()
    train, test = loaders(images, s.batch_size, s.seed)
    count = sum(p.numel() for p in model.parameters())
    s.say(
        f"{model_type.__name__}, {count:,} parameters; CrossEntropyLoss, Adam lr {s.lr:g}, batch {s.batch_size}; "
        f"{len(images.train_y):,} images to train, {len(images.test_y):,} to test; {s.epochs} epochs, seed {s.seed}"
    )
    history = train_model(
        model,
        nn.CrossEntropyLoss(),
        optim.Adam(model.to(s.device).parameters(), lr=s.lr),
        train,
        s.epochs,
        validation=test,
        device=s.device,
        checkpoint=s.out,
        resume=s.resume,
        settings={"recipe": name, **_chosen(s), **asked},
        callback=lambda record: s.say(line(record, s.epochs or 0)),
        progress=s.progress,
        backend=s.backend,
        memory_budget=s.memory_budget,
        **s.refinements,  # pyright: ignore[reportArgumentType]
    )
    s.say(
        f"test accuracy {history[-1]['validation_accuracy']:.2%} after {len(history)} epochs; "
        f"{sum(history['seconds']):.1f} s, backend {history.backend} ({history.backend_reason or 'asked for'})"
    )
    say_plan(history.plan, s.say)
    on = {name: value for name, value in asked.items() if value is not None}
    return _written(model, s, history, {"recipe": name, "parameters": count, **_chosen(s), **on, **_measured(history)})


def _written(model: nn.Module, s: Settings, history: History, metrics: dict[str, Any]) -> dict[str, Any]:
    """``metrics``, written into the run folder with the weights and the curve."""
    checkpoint.save_weights(s.out, model)
    checkpoint.write_text(s.out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    title = f"{type(model).__name__} on handwritten digits, trained by memograd"
    tests = history["validation_loss"], history["validation_accuracy"]
    return {**metrics, "files": curve.draw(s.out, title, history["epoch"], history["loss"], *tests)}


def _chosen(s: Settings) -> dict[str, Any]:
    return {"lr": s.lr, "batch_size": s.batch_size, "seed": s.seed, "data": s.data}


def _measured(history: History) -> dict[str, Any]:
    last = history[-1]
    return {
        "epochs": len(history),
        "loss": last["loss"],
        "test_loss": last["validation_loss"],
        "test_accuracy": last["validation_accuracy"],
        "seconds": sum(history["seconds"]),
        "backend": history.backend,
        "backend_reason": history.backend_reason,
        **of_plan(history.plan),
        "history": list(history),
    }


def loaders(images: data.Digits, batch_size: int, seed: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training batches, shuffled by their own generator, and test batches."""
    shuffled = torch.Generator().manual_seed(seed)
    train = TensorDataset(images.train_x, images.train_y)
    test = TensorDataset(images.test_x, images.test_y)
    return DataLoader(train, batch_size, shuffle=True, generator=shuffled), DataLoader(test, 500)


def line(record: dict[str, Any], epochs: int) -> str:
    """One epoch as the lecture prints it, with the test's result."""
    return (
        f"Epoch [{record['epoch']}/{epochs}], Loss: {record['loss']:.4f}, "
        f"test loss: {record['validation_loss']:.4f}, test accuracy: {record['validation_accuracy']:.2%}"
    )
