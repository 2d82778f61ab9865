"""``memograd plan``: how a user's own model fits a byte budget, without training it."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memograd.errors import DataError, MemogradError

if TYPE_CHECKING:
    from torch import nn, optim

SUMMARY = "Plan a model's forward and backward pass within a byte budget."


def options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    command.add_argument(
        "factory",
        metavar="PACKAGE.MODULE:FACTORY",
        help="a function without arguments that returns (model, args) or (model, criterion, args)",
    )
    command.add_argument(
        "--budget", required=True, type=budget, help="2GiB, 600MB, bytes, or 50%% of what it takes without a plan"
    )
    command.add_argument(
        "--backend", default="eager", choices=["eager", "inductor"], help="of single operators, or of fused kernels"
    )
    command.add_argument(
        "--largest-batch",
        action="store_true",
        help="find the largest batch that fits: the factory's tensors are repeated along their first dimension",
    )
    command.add_argument("--plot", type=Path, metavar="FILE", help="draw the memory over the step (.svg, .png, .pdf)")
    command.add_argument("--save", type=Path, metavar="FILE", help="write the plan, for memory_budget=Plan.from_json()")


def run(a: argparse.Namespace) -> int:
    """Plan, print, draw and save."""
    from memograd.train.largest import largest_batch
    from memograd.train.planning import plan_for

    task = load(a.factory)
    size = None
    if a.largest_batch:
        if a.backend != "eager":
            raise MemogradError("--largest-batch plans single operators: leave --backend out")
        size, plan = largest_batch(task.model, task.repeated, a.budget, task.criterion)
    else:
        plan = plan_for(task.model, task.args, dict(task.options), task.criterion, a.budget, a.backend == "inductor")
    if a.plot:
        plan.plot(a.plot)
    if a.save:
        a.save.write_text(plan.to_json() + "\n", encoding="utf-8")
    files = [str(f) for f in (a.plot, a.save) if f]
    if a.json:
        numbers = {**plan.numbers(), **({} if size is None else {"largest_batch": size})}
        print(json.dumps({**numbers, "files": files, "plan": json.loads(plan.to_json())}))
    elif not a.quiet:
        if size is not None:
            print(f"The largest batch that fits {a.budget} has {size} samples.\n")
        print(plan)
        if files:
            print(f"wrote {', '.join(files)}")
    return 0


def budget(text: str) -> str:
    """An option's value that can be read as a budget."""
    from memograd.memory.budget import parse_budget

    try:
        parse_budget(text, 100)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


@dataclass(frozen=True)
class Made:
    """What a factory returned."""

    model: nn.Module
    criterion: Callable[..., Any] | None
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    optimizer: optim.Optimizer | None = None

    def repeated(self, samples: int) -> Any:
        """The arguments for so many samples: tensors as long as the first one are repeated, or cut."""
        import torch

        from memograd._torch import pytree

        given = self.args or dict(self.options)
        tensors = [t for t in pytree.tree_leaves(given) if isinstance(t, torch.Tensor) and t.dim()]
        length = len(tensors[0]) if tensors else 0
        if not length:
            raise MemogradError("--largest-batch needs a first tensor with a sample in it to repeat")

        def longer(t: Any) -> Any:
            return t[torch.arange(samples, device=t.device) % length] if t.dim() and len(t) == length else t

        return pytree.tree_map_only(torch.Tensor, longer, given)


def load(name: str) -> Made:
    """Call the factory ``PACKAGE.MODULE:FACTORY``; modules in the current directory can be imported.

    Raises:
        MemogradError: there is no such module or function, it raised, or it returned something else.
    """
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise MemogradError(f"{name!r} names no factory: write PACKAGE.MODULE:FACTORY, for example models:small")
    factory = getattr(_imported(module), attribute, None)
    if not callable(factory):
        raise MemogradError(f"module {module} has no function {attribute!r}")
    try:
        task = factory()
    except Exception as error:
        raise MemogradError(f"{name}() raised {type(error).__name__}: {error}") from error
    return _understood(name, task)


def _imported(module: str) -> Any:
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise MemogradError(
                f"there is no module {missing!r}, neither installed nor in the current directory"
            ) from error
        raise MemogradError(f"importing {module} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())


def _understood(name: str, task: Any) -> Made:
    from torch import nn, optim

    expected = f"{name}() must return (model, args) or (model, criterion, args), with args a tuple (or a dict)"
    optimizer = None
    if isinstance(task, tuple) and len(task) == 4 and isinstance(task[2], optim.Optimizer):
        optimizer, task = task[2], (*task[:2], task[3])
    if not isinstance(task, tuple) or len(task) not in (2, 3):
        size = f" of {len(task)}" if isinstance(task, tuple) else ""
        raise MemogradError(f"{expected}, but it returned a {type(task).__name__}{size}")
    model, criterion, args = task[0], task[1] if len(task) == 3 else None, task[-1]
    if not isinstance(model, nn.Module):
        raise MemogradError(f"{expected}; its model is a {type(model).__name__}, not an nn.Module")
    if criterion is not None and not callable(criterion):
        raise MemogradError(f"{expected}; its criterion is a {type(criterion).__name__}, which cannot be called")
    if isinstance(args, Mapping):
        return Made(model, criterion, (), args, optimizer)
    if not isinstance(args, (tuple, list)):
        raise MemogradError(f"{expected}; its args are a {type(args).__name__}")
    return Made(model, criterion, tuple(args), {}, optimizer)
