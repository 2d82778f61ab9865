"""The leaves of a program's arguments: their names, and which of them may be differentiated."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from memograd._torch import pytree


def differentiable(leaves: list[Any]) -> set[int]:
    """What the caller may want to differentiate: what requires gradients, or else all floating-point tensors."""
    tensors = {i: x for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)}
    smooth = {i for i, x in tensors.items() if x.is_floating_point() or x.is_complex()}
    return {i for i in smooth if tensors[i].requires_grad} or smooth


def leaf_names(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """A name for each leaf: the parameter's name, then the keys on the way down (``batch.labels``, ``x.0``)."""
    target = f.forward if isinstance(f, nn.Module) else f
    try:
        bound = [
            p.name
            for p in inspect.signature(target).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        bound = []
    heads = [bound[k] if k < len(bound) else f"arg{k}" for k in range(len(args))]
    named = [*zip(heads, args, strict=True), *kwargs.items()]
    return [".".join([str(head), *keys]) for head, value in named for keys in _keys(value)]


def _keys(tree: Any) -> list[list[str]]:
    """The keys on the way down to each leaf; positions in a container whose registration says nothing about keys."""
    try:
        paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:
        return [[str(k)] for k in range(len(pytree.tree_leaves(tree)))]
    return [[str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path] for path in paths]
