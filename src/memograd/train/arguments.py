"""What training is given, looked at before anything is changed: each mistake is one sentence."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Any

import torch
from torch import nn, optim

from memograd.errors import DataError, GraphError, OptionError


def refuse_model(model: Any) -> None:
    """Raises GraphError for what is no module, or has parameters without values."""
    refuse_no_module(model)
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise GraphError(
                f"parameter {name!r} has no shape yet (a lazy module): call the model once on a batch, then make the "
                "optimizer"
            )
        if parameter.is_meta:
            raise GraphError(
                f"parameter {name!r} is on the meta device and has no values: model.to_empty(device=...), and "
                "initialize or load them"
            )


def refuse_no_module(model: Any) -> None:
    """Raises GraphError for what is no module."""
    if inspect.isclass(model):
        raise GraphError(f"the model is the class {model.__name__}: make one of it, {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise GraphError(f"the model must be an nn.Module, got {_kind(model)}")


def refuse_criterion(criterion: Any) -> None:
    """Raises GraphError for what cannot be called with an output and a target."""
    if inspect.isclass(criterion) and issubclass(criterion, nn.Module):
        raise GraphError(f"the criterion is the class {criterion.__name__}: make one of it, {criterion.__name__}()")
    if criterion is not None and not callable(criterion):
        raise GraphError(
            f"the criterion must be a function of (output, target) that returns the loss, or None where the model "
            f"returns it, got {_kind(criterion)}"
        )


def refuse_no_optimizer(optimizer: Any) -> None:
    """Raises GraphError for what is no optimizer."""
    if inspect.isclass(optimizer):
        name = optimizer.__name__
        raise GraphError(f"the optimizer is the class {name}: make one of it, {name}(model.parameters(), ...)")
    if not all(hasattr(optimizer, name) for name in ("param_groups", "state", "step")):
        raise GraphError(f"the optimizer must be one of torch.optim, got {_kind(optimizer)}")
    for number, group in enumerate(optimizer.param_groups):
        known = getattr(optimizer, "defaults", {}) if isinstance(optimizer, optim.Optimizer) else {}
        if missing := [name for name in known if name not in group]:
            raise GraphError(f"parameter group {number} of the optimizer has no {missing[0]!r}")


def rate(value: Any, group: int) -> float:
    """A learning rate as a number.

    Raises:
        OptionError: it is none, or not finite: then every parameter would be lost.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        number = float("nan")
    if not isfinite(number):
        raise OptionError(f"lr of the optimizer's parameter group {group} must be a finite number, got {value!r}")
    return number


def refuse_seconds(seconds: Any) -> None:
    """Raises OptionError for what is no time."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise OptionError(f"compile_seconds must be a number that is not negative, got {seconds!r}")


def at_least_one(number: Any, name: str, error: type[Exception] = OptionError) -> int:
    """A whole number above zero."""
    try:
        whole = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        whole = 0
    if whole < 1:
        raise error(f"{name} must be a whole number, at least 1, got {number!r}")
    return whole


def refuse_loader(loader: Any, name: str, epochs: int) -> None:
    """Raises DataError for what cannot be iterated ``epochs`` times."""
    if inspect.isclass(loader) or not (isinstance(loader, Iterable) or hasattr(loader, "__getitem__")):
        raise DataError(f"the {name} must be a DataLoader or a list of batches, got {_kind(loader)}")
    if epochs > 1 and isinstance(loader, Iterator):
        raise DataError(f"the {name} can be iterated only once (it is an iterator); pass a DataLoader or a list")


def refuse_callables(metrics: Any, callback: Any) -> None:
    """Raises DataError for metrics and callbacks that cannot be called."""
    if metrics is not None and not isinstance(metrics, Mapping):
        raise DataError(f"metrics must be a dict of functions (output, target) -> number, got {_kind(metrics)}")
    for name, function in {**(metrics or {}), **({} if callback is None else {"callback": callback})}.items():
        if not callable(function):
            raise DataError(f"{name!r} must be a function, got {_kind(function)}")


def refuse_settings(settings: Any) -> None:
    """Raises DataError for what is no dict."""
    if settings is not None and not isinstance(settings, Mapping):
        raise DataError(f"settings must be a dict, got {type(settings).__name__}")


def refuse_device(device: Any) -> None:
    """Raises DataError where nothing can be trained."""
    if device is not None and torch.device(device).type == "meta":
        raise DataError("the meta device has no memory: nothing can be trained there")


def number(value: Any, name: str) -> float:
    """What a metric returned, as a number."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
        raise DataError(f"validation_{name} must be one number, got {type(value).__name__}{shape}") from error


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__
