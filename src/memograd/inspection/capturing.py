"""The graph that is looked over, and which of its inputs are differentiated: one choice for everybody who looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memograd._torch import pytree
from memograd.errors import DataDependentError
from memograd.graph.graph import Graph
from memograd.inspection.objective import Loss
from memograd.pipeline import capture_for
from memograd.tracing.undisturbed import Generators

Program = Callable[..., Any]


def captured(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any], drawn: Generators) -> Graph:
    """The graph of ``program``: for any values if it can be, else on those of this call."""
    wrt = asked(program, args, kwargs)
    try:
        return capture_for(program, args, kwargs, wrt)
    except DataDependentError:
        drawn.put_back()
        return capture_for(program, args, kwargs, wrt, concrete=True)


def asked(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int] | None:
    """Which arguments are differentiated: those that ask for it; where nothing else does, all that can be."""
    leaves = pytree.tree_leaves((args, kwargs))
    asking = [k for k, x in enumerate(leaves) if isinstance(x, torch.Tensor) and x.requires_grad]
    model = isinstance(program, Loss)
    return asking if asking or (model and any(True for _ in program.parameters())) else None


def differentiable(graph: Graph, chosen: list[int] | None) -> tuple[str, ...]:
    """The names of what is differentiated in ``graph``, of whose arguments ``chosen`` were asked for."""
    trained = [n for n, t in graph.parameters.items() if t.requires_grad]
    smooth = [
        i.name
        for i, n in zip(graph.inputs, graph.placeholders, strict=True)
        if i.kind == "input" and not i.fixed and n.meta["val"].dtype.is_floating_point | n.meta["val"].is_complex()
    ]
    return (*trained, *(smooth if chosen or not trained else ()))
