"""Inductor and Dynamo.

- ``inductor_graph``, ``inductor_function``: a graph through Inductor. The public ``torch.compile`` guards every call
  (50 µs, more than a small kernel takes), and what ``torch._inductor.compile`` returns asks for modes, profilers and
  aliases (20 to 30 µs): ``inner_compile`` shows what stands inside. ``last_passes``: how its settings take passes of
  somebody else's. ``keeps_roundings``: what its kernels round, by PyTorch's version.
- ``load_inductor``: which module of Inductor imports the others.
- ``compiler_failed``: whether Inductor's C++ compiler or Triton was missing or failed is in the class of the exception,
  which is private.
- ``dynamo_listens``: whether ``torch.compile`` is at work in this thread. The public way to be left alone
  (``torch.compiler.disable``) takes 15 µs a call, also where nobody compiles anything.
- ``one_graph``: inside a call of ``DistributedDataParallel``, Dynamo cuts what ``torch.compile`` is given at the bounds
  of that one's buckets, as if it were the model. A setting of Dynamo's keeps it from that.
- ``with_data_set``: Dynamo writes ``x.data = y`` as ``set_``, and a function of its own puts the count of writes back.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from operator import is_
from threading import Lock
from types import MappingProxyType
from typing import Any

import torch
from torch._C._dynamo import eval_frame as _eval_frame


def inductor_graph(module: torch.fx.GraphModule, operands: Sequence[Any], options: Any = None) -> Any:
    """A graph of ATen operators compiled by Inductor, as a function of operands of this geometry, without gradients; to
    be called where no autocast is on."""
    from torch._inductor import compile_fx  # slow to import, like the compiler itself

    inside: list[Any] = []

    def compile_inner(*args: Any, **kwargs: Any) -> Any:
        inside.append(compile_fx.compile_fx_inner(*args, **kwargs))
        return inside[-1]

    with torch.no_grad():
        function: Any = compile_fx.compile_fx(module, [*operands], inner_compile=compile_inner, config_patches=options)
    return _Compiled(function, inside[0]) if len(inside) == 1 and hasattr(inside[0], "current_callable") else function


class _Compiled:
    """A compiled function; from its second call on what stands inside of it, if the first call showed that nothing else
    happens: it was called once, got the very operands, and its results were handed on as they were."""

    def __init__(self, function: Callable[..., Any], inside: Any) -> None:
        self._function = function
        self._inside: Any = inside
        self._turn = Lock()
        self._short: Callable[[list[Any]], Any] | None = None

    def __call__(self, *operands: Any) -> Any:
        if self._short is not None and not torch.is_grad_enabled():
            return self._short([*operands])
        if self._inside is None or not self._turn.acquire(blocking=False):
            return self._function(*operands)
        try:
            return self._look(operands)
        finally:
            self._turn.release()

    def _look(self, operands: tuple[Any, ...]) -> Any:
        inside, self._inside = self._inside, None
        if inside is None:  # another thread has looked meanwhile
            return self._function(*operands)
        function = inside.current_callable
        seen: list[Any] = []

        def watched(given: list[Any]) -> Any:
            handed = [*given]
            results = function(given)
            seen.append((handed, [*results]))
            return results

        inside.current_callable = watched
        try:
            results = self._function(*operands)
        finally:
            inside.current_callable = function
        if len(seen) == 1 and _the_same(seen[0][0], operands) and _the_same(seen[0][1], results):
            self._short = function
        return results


def _the_same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


@cache
def last_passes(*functions: Callable[[torch.fx.Graph], None]) -> dict[str, Any]:
    """Options of Inductor's with which ``functions`` change each graph behind Inductor's own passes. What was compiled
    before is known by the files that they stand in."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class Last(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            for function in functions:
                function(graph)

        def uuid(self) -> Any:
            return get_hash_for_files(
                tuple(map(inspect.getfile, functions)), " ".join(f.__qualname__ for f in functions)
            )

    return {"post_grad_custom_post_pass": Last()}


def load_inductor() -> None:
    """Import all of the compiler, which does so by and by: processes that are forked then share it."""
    import torch._inductor.compile_fx  # noqa: F401


def inductor_function(function: Any, operands: Any, options: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """``function``, of ATen operators and with a tuple as its result, compiled by Inductor for operands of this
    geometry. Roundings to a lower precision stay where the program has them."""
    return inductor_graph(torch.fx.symbolic_trace(function), operands, {**options, "emulate_precision_casts": True})


def compiler_failed(error: BaseException) -> bool:
    """Whether an exception of Inductor's says that there is no compiler to write kernels for, or that it failed."""
    if (exceptions := sys.modules.get("torch._inductor.exc")) is None:  # it has raised nothing then
        return False
    return isinstance(error, (exceptions.InvalidCxxCompiler, exceptions.CppCompileError, exceptions.TritonMissing))


def keeps_roundings(device: str) -> bool:
    """Whether Inductor's kernels on a type of device round to a lower precision where the program does: those for the
    CPU did not before PyTorch 2.13."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return device != "cpu" or version >= (2, 13)


def _set_data(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x.data = y
    return x


def with_data_set(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A graph of Dynamo's with ``x.data = y`` where the program has that."""
    counts = [n for n in module.graph.nodes if getattr(n.target, "__name__", "") == "_lower_version_count_by_1"]
    for count in counts:
        count.args[0].target = _set_data
        module.graph.erase_node(count)
    return torch.fx.GraphModule(module, module.graph) if counts else module


def dynamo_listens() -> bool:
    """Whether ``torch.compile`` traces who asks this, or would compile what is called from here."""
    return torch.compiler.is_dynamo_compiling() or _eval_frame.get_eval_frame_callback() is not None


@contextmanager
def one_graph() -> Iterator[None]:
    """What ``torch.compile`` compiles inside is not cut for ``DistributedDataParallel``."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        yield
        return
    with torch._dynamo.config.patch(optimize_ddp=False):  # pyright: ignore[reportAttributeAccessIssue]
        yield
