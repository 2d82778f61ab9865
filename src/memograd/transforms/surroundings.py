"""What stands around a transform does not get into it: the caller's ``no_grad``, inference mode, ``torch.func``.

A transform is a function of functions, so what it returns depends on the function, not on the context it is called in
(``torch.func`` has it so, too). Three things of the caller's are kept out while the function is captured:

- *grad mode*: ``f`` is captured with gradients on; what stands inside ``f`` counts. The graph then *runs* in the
  caller's mode: whether PyTorch may go on from the results (or an outer transform through them) is the caller's say.
- *inference mode*: tensors made in it are of no use to autograd, so it is left.
- *torch.func's transforms*: inside ``vmap`` a tensor looks like one sample and is a whole batch. The function is
  captured for one sample, on plain tensors of that geometry; the graph then runs on the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from memograd._torch import (
    dynamo_listens,
    inside_torch_func,
    is_wrapped,
    level_of,
    levels,
    neg_view,
    outside_torch_func,
    pytree,
    without_modes,
    wrapped_value,
)
from memograd.errors import CaptureError, GraphError, MemogradError
from memograd.graph.graph import Graph
from memograd.pipeline import capture_for
from memograd.tracing.closures import captured
from memograd.tracing.under_way import looking_away
from memograd.tracing.writer import map_tensors


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` steps over ``function``: what happens in it is a capture of its own."""
    disabled: list[Any] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not dynamo_listens():
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    return call


@contextmanager
def no_saved_tensor_hooks(api: str) -> Iterator[None]:
    """Hooks on what autograd saves would never be called: nothing is saved by autograd."""
    message = (
        f"{api}: saved tensor hooks (save_on_cpu, checkpoint) have no effect on a graph that autograd does not make; "
        "call the transform outside of them, and leave them out of the function"
    )
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(message):
            yield
    except MemogradError:
        raise
    except RuntimeError as error:
        raise (GraphError(message) if message in str(error) else error) from None


@contextmanager
def apart() -> Iterator[bool]:
    """What is made inside (a graph) is made as if nothing stood around; says whether ``torch.func`` stands around."""
    inside = inside_torch_func()
    with torch.enable_grad(), without_modes(), looking_away(), outside_torch_func() if inside else nullcontext():
        yield inside


def captured_apart(f: Any, args: tuple[Any, ...], kwargs: dict[str, Any], wrt: list[int], concrete: bool) -> Graph:
    """The graph of ``f`` for these arguments, which may be wrapped by transforms of ``torch.func`` that were left."""
    with _Plain(concrete) as plain:
        args, kwargs = pytree.tree_map(plain.of, (args, kwargs))
        for _, value in captured(f):
            plain.of(value)
        graph = capture_for(f, args, kwargs, wrt, concrete)
        return replace(graph, inputs=tuple(replace(i, tensor=plain.wrapped(i.tensor)) for i in graph.inputs))


class _Plain(TorchFunctionMode):
    """While open, tensors that transforms outside have wrapped (the program closes over them) are plain ones."""

    def __init__(self, concrete: bool) -> None:
        super().__init__()
        self.concrete = concrete
        self.pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by id of the wrapped one: (wrapped, plain)

    def of(self, tensor: Any) -> Any:
        """What stands for ``tensor``: itself, unless a transform outside wrapped it."""
        if not is_wrapped(tensor):
            return tensor
        if id(tensor) not in self.pairs:
            if level_of(tensor) <= levels():  # by a transform inside the program
                return tensor
            self.pairs[id(tensor)] = (tensor, self._plain(tensor))
        return self.pairs[id(tensor)][1]

    def wrapped(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """The other way round."""
        return next((outer for outer, plain in self.pairs.values() if plain is tensor), tensor)

    def _plain(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.concrete:
            with without_modes():  # its numbers are never looked at
                geometry = tensor.shape, tensor.stride()
                plain = torch.empty_strided(*geometry, dtype=tensor.dtype, device=tensor.device)
                plain = torch.conj(plain) if tensor.is_conj() else plain
                return neg_view(plain) if tensor.is_neg() else plain
        value = wrapped_value(tensor)
        if value is None:
            raise CaptureError(
                "the program looks at values (an if, .item(), a mask as an index), and inside vmap a tensor holds the "
                "values of a whole batch; write it with torch.where"
            )
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*map_tensors(self.of, args), **map_tensors(self.of, kwargs or {}))
