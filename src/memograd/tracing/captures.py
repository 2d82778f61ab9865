"""Why a program was captured, each time: what of its arguments was unlike the call before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memograd._torch import pytree
from memograd.cautions import caution
from memograd.tracing.guards import SIMPLE
from memograd.tracing.leaves import leaf_names

_MANY = 32
_NAMED = 3  # arguments that are named where several are unlike


class Captures(list[str]):
    """The reasons, first to last. When there are many it says so once: each one takes time, and memory for a while."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._before: dict[str, tuple[str, int]] = {}

    def note(self, why: str, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """``f`` was captured for these arguments, and because of them if ``why`` is empty."""
        now = _described(f, args, kwargs)
        self.append(why or _unlike(now, self._before) or "a setting unlike those before (dtype, autocast, hooks)")
        self._before = now
        if len(self) == _MANY:
            caution(
                f"{self._what} was captured {_MANY} times, the last time since {self[-1]}. Each takes as long as "
                "many steps: pad batches to a few lengths, pass numbers that change as tensors, or compute them outside"
            )


def _described(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """What is to be said of each argument, and which object it is where that matters."""
    leaves = pytree.tree_leaves((args, kwargs))
    which = [0 if isinstance(x, (torch.Tensor, *SIMPLE)) else id(x) for x in leaves]
    return dict(zip(leaf_names(f, args, kwargs), zip(map(_text, leaves), which, strict=True), strict=False))


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        kind = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        return f"{kind} that requires a gradient" if value.requires_grad else kind
    text = repr(value) if isinstance(value, SIMPLE) else f"a {type(value).__qualname__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unlike(now: dict[str, tuple[str, int]], before: dict[str, tuple[str, int]]) -> str:
    parts = [_other(k, v, before[k]) for k, v in now.items() if k in before and before[k] != v]
    parts += [f"{k} is new" for k in now if k not in before]
    parts += [f"{k} is missing" for k in before if k not in now]
    return "; ".join(parts[:_NAMED]) + ("; ..." if len(parts) > _NAMED else "")


def _other(name: str, now: tuple[str, int], before: tuple[str, int]) -> str:
    if now[0] != before[0]:
        return f"{name} is {now[0]}, and was {before[0]}"
    return f"{name} is another object than before, {now[0]}; pass what it holds, or make its class a pytree"
