"""What the transforms share: a function with graphs made of it, and which of its arguments are differentiated.

Each transform captures its function once per input signature (structure, shapes, strides, dtypes, devices, baked
values, what the function closes over), differentiates the graph and keeps it. A function whose shapes or control flow
depend on values (``x[mask]``, ``if x.sum() > 0``) is captured at each call, for the values of that call. Transforms
nest: one inside another is captured through, and the graphs of the inner one become part of the outer graph.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import fx

from memograd._torch import inside_torch_func, pytree, without_modes
from memograd.errors import GraphError
from memograd.graph.graph import Graph
from memograd.pipeline import capture_for
from memograd.tracing.reuse import Cache, Recent
from memograd.tracing.under_way import capturing
from memograd.tracing.undisturbed import Generators
from memograd.transforms.check import check_transforms, compared
from memograd.transforms.plain import Plain
from memograd.transforms.program import Program
from memograd.transforms.surroundings import apart, captured_apart, no_saved_tensor_hooks
from memograd.witness.autograd import witnessing

Argnums = int | tuple[int, ...]


class Transform:
    """A function of the same arguments as ``f``; holds the graphs made for it.

    A subclass says in ``differentiated`` what becomes of the graph of ``f``, and in ``api`` how errors call it.
    """

    api = "f(*args)"
    forward_mode = False
    takes_any_aux = False  # torch.func's names take tensors alone, as there
    marks: dict[Any, Any] = {}  # noqa: RUF012  (those of the graph that mean something else to tangents)

    def __init__(self, f: Callable[..., Any], argnums: Argnums, has_aux: bool = False) -> None:
        if not callable(f):
            raise GraphError(f"expected a function or module, got {type(f).__name__}")
        self.f = f
        self.argnums = argnums
        self.has_aux = has_aux
        self.cache = Cache(f)
        functools.update_wrapper(cast(Any, self), f, updated=())

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """A transform that is an attribute of a class is a method, like the function it was made of."""
        return self if instance is None else types.MethodType(cast(Any, self), instance)

    def differentiated(self, graph: Graph, names: list[str]) -> Graph:
        """``graph`` with the derivatives in question, with respect to the inputs ``names``."""
        raise NotImplementedError

    def program(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program | Plain:
        """What is run for these arguments."""
        if witnessing() and not inside_torch_func():
            return Plain(self.f, self.chosen(args), self.has_aux, self.forward_mode, bool(self.marks))
        hooks = nullcontext() if self.forward_mode else no_saved_tensor_hooks(self.api)
        with torch.enable_grad(), hooks:  # what stands inside f counts, not what f is called in
            return self.cache.get(args, kwargs, lambda concrete: self._program(args, kwargs, concrete))

    def _program(self, args: tuple[Any, ...], kwargs: dict[str, Any], concrete: bool) -> Program:
        leaves = self.chosen(args)
        drawn = Generators(self.f) if check_transforms.on and not capturing() else None
        with apart() as inside:
            capture = captured_apart if inside else capture_for
            graph = capture(self.f, args, kwargs, leaves, concrete)
            position_of = {leaf: k for k, leaf in enumerate(graph.calling.tensor_in)}
            inputs = [i.name for i in graph.inputs if i.kind == "input"]
            names = [inputs[position_of[leaf]] for leaf in leaves]
            _refuse_writes(graph, names)
            program = Program(self.differentiated(graph, names), names, self.main(graph))
        other = any(node.target in self.marks for node in graph.nodes)  # than autograd's derivative
        if drawn is not None and not inside and not other and not graph.guards.unknown:
            with without_modes():  # the caller's do not see what the comparison does
                compared(self.f, (args, kwargs), graph, program, drawn, self.forward_mode)
        return program

    # -- arguments -----------------------------------------------------------------------------------------------

    def chosen(self, args: tuple[Any, ...]) -> list[int]:
        """Positions of the leaves to differentiate among those of all arguments."""
        counts = [len(pytree.tree_leaves(a)) for a in args]
        positions: list[int] = []
        for argnum in positions_of(self.argnums, len(args)):
            start = sum(counts[:argnum])
            for leaf, value in enumerate(pytree.tree_leaves(args[argnum]), start):
                if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
                    raise GraphError(
                        f"argument {argnum} cannot be differentiated: it holds "
                        f"{value.dtype if isinstance(value, torch.Tensor) else type(value).__name__}; gradients exist "
                        "for floating-point and complex tensors (convert it with .float(), or leave it out of argnums)"
                    )
                positions.append(leaf)
        return positions

    def points(self, args: tuple[Any, ...]) -> Any:
        """The arguments that are differentiated, nested as their derivatives will be."""
        if isinstance(self.argnums, int):
            return args[positions_of(self.argnums, len(args))[0]]
        return tuple(args[a] for a in positions_of(self.argnums, len(args)))

    # -- results -------------------------------------------------------------------------------------------------

    def main(self, graph: Graph) -> list[str]:
        """Names of the results to differentiate: all, or with ``has_aux`` those of the first of the two.

        Raises:
            GraphError: with ``has_aux`` the function returned no pair; or something that is no tensor.
        """
        spec, calling = graph.calling.out_spec, graph.calling
        if self.has_aux:
            if spec.is_leaf() or spec.type is not tuple or len(spec.children()) != 2:
                raise GraphError(
                    f"{self.api}: output of function f should be a tuple: (output, aux) if has_aux is True, a pair"
                )
            spec = spec.children()[0]
            self._refuse_other_aux(graph, spec.num_leaves)
        count = spec.num_leaves
        if count == 0 or (count == 1 and 0 not in calling.tensor_out and calling.out_leaves[0] is None):
            raise GraphError(
                f"{self.api}: Expected f to be a function that has non-empty output (got {calling.out_leaves[:count]})"
            )
        for position in range(count):
            if position not in calling.tensor_out:
                raise GraphError(
                    f"{self.api}: expected f(*primals) to return only tensors, got unsupported type "
                    f"{type(calling.out_leaves[position]).__name__}"
                )
        return [o.name for o in graph.outputs if o.kind == "output"][:count]

    def _refuse_other_aux(self, graph: Graph, count: int) -> None:
        """What stands behind the first ``count`` leaves must be tensors, as ``torch.func`` has it."""
        leaves, tensors = graph.calling.out_leaves, graph.calling.tensor_out
        others = [type(leaves[k]).__name__ for k in range(count, len(leaves)) if k not in tensors]
        if others and not self.takes_any_aux:
            raise GraphError(
                f"{self.api}: Expected tensors, got unsupported type {others[0]} in aux, the second of what f "
                "returned; return tensors there (torch.tensor(...)), or use value_and_grad, whose aux may hold anything"
            )


def _refuse_writes(graph: Graph, names: list[str]) -> None:
    """A tensor that ``f`` closes over must not become part of this transform's graph by a write; buffers may, as in a
    training step. What is written without a history (under ``no_grad``, detached) does not."""
    kinds = {i.name: i.kind for i in graph.inputs}
    depending: set[fx.Node] = {graph.placeholder(name) for name in names}
    for node in graph.nodes:
        if not depending.isdisjoint(node.all_input_nodes):
            depending.add(node)
    for node, entry in zip(graph.results, graph.outputs, strict=True):
        tracked = entry.kind == "mutation" and entry.tracked
        if tracked and kinds[entry.name] in ("constant", "parameter") and node in depending:
            raise GraphError(
                f"the function writes to {entry.name!r}, which depends on its arguments then and is none of them. A "
                "transform cannot mutate a captured Tensor: make it an argument, or return the new value"
            )


def positions_of(argnums: Argnums, count: int) -> list[int]:
    """``argnums`` as positions among ``count`` arguments, counted from the first."""
    if not isinstance(argnums, (int, tuple)):
        raise GraphError(f"argnums must be int or Tuple[int, ...], got {argnums!r}")
    if argnums == ():
        raise GraphError("argnums must be non-empty: name at least one argument to differentiate")
    chosen = [argnums] if isinstance(argnums, int) else list(argnums)
    for argnum in chosen:
        if not isinstance(argnum, int):
            raise GraphError(f"argnum must be int, got {argnum!r} in argnums={argnums}")
        if not -count <= argnum < count:
            raise GraphError(f"argnums={argnums}, but only {count} positional inputs were given to the function")
    positions = [a % count for a in chosen]
    if len(set(positions)) != len(positions):
        raise GraphError(f"argnums elements must be unique, got {argnums}")
    return positions


def zeros_for(values: Sequence[torch.Tensor | None], like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients of inputs the result does not depend on are zeros."""
    return [torch.zeros_like(x) if v is None else v for v, x in zip(values, like, strict=True)]


class _Few(Recent):
    """Who calls ``vjp`` with ever new things closed over shall not fill the memory with them."""

    LIMIT = 8


_KEPT: dict[int, tuple[weakref.ref[Any], dict[Any, _Few]]] = {}


def kept_for(f: Any, purpose: Any) -> Recent:
    """The graphs made of ``f`` for ``purpose`` in earlier calls: ``vjp(f, x)`` returns no object to hold them.
    They go when ``f`` goes."""
    key = id(f)
    entry = _KEPT.get(key)
    if entry is None or entry[0]() is not f:
        try:
            reference = weakref.ref(f, lambda _, forget=_KEPT.pop: forget(key, None))  # also when Python is leaving
        except TypeError:  # it cannot be watched
            return _Few()
        entry = _KEPT[key] = (reference, {})
    return entry[1].setdefault(purpose, _Few())
