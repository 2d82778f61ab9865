"""The graph every stage reads and returns: a ``torch.fx`` graph of ATen operators, and its signature.

A graph is functional: what a step must write back (BatchNorm statistics, new parameters) is an output of kind
``mutation``. Every tensor it reads is a placeholder, so a graph is a pure function of a flat list of tensors; the
signature says which of them the user passes and which (parameters, buffers, constants) the graph holds by reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import fx

from memograd import autocast
from memograd._torch import is_wrapped, pytree
from memograd.errors import CaptureError, GraphError
from memograd.graph.printing import annotated, flat_function

InputKind = Literal["parameter", "buffer", "constant", "input", "cotangent", "state"]
OutputKind = Literal["output", "gradient", "mutation", "left"]


@dataclass(frozen=True)
class Input:
    """One placeholder.

    Attributes:
        name: the user's name: a parameter's dotted path, an argument's name.
        tensor: what it is bound to (parameters, buffers, constants); None for what the caller passes.
        aliases: other names of the same tensor (tied weights).
        fixed: captured as an input that is not differentiated.
        place: where the tensor it is bound to is looked up at each call (``place.get()``), if the user may have put
            another one there.
        of: whose adjoint it is (cotangents): a result's name, or the name of the input a gradient belongs to.
    """

    kind: InputKind
    name: str
    tensor: torch.Tensor | None = None
    aliases: tuple[str, ...] = ()
    fixed: bool = False
    place: Any = None

    @property
    def bound(self) -> torch.Tensor | None:
        """The tensor it is bound to now."""
        return self.tensor if self.place is None else self.place.get()

    of: str = ""


@dataclass(frozen=True)
class Output:
    """One result.

    Attributes:
        kind: ``output`` (the user's), ``gradient`` (of the input ``name``), ``mutation`` (the new value of the input
            ``name``), or ``left`` (what the program leaves behind in some object).
        tracked: whether it required a gradient when PyTorch ran the program.
    """

    kind: OutputKind
    name: str
    tracked: bool = False


@dataclass(frozen=True)
class Calling:
    """How the user's arguments and results are nested: pytree specs and the leaves that are no tensors."""

    in_spec: Any
    in_leaves: tuple[Any, ...]  # None where a tensor goes
    in_names: tuple[str, ...]  # one for each leaf
    out_spec: Any
    out_leaves: tuple[Any, ...]  # None where a tensor goes
    tensor_in: tuple[int, ...]  # positions of tensors in in_leaves
    tensor_out: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A functional ATen graph with its signature.

    Attributes:
        fx: the operators; placeholders and outputs in the order of ``inputs`` and ``outputs``.
        inputs: one entry for each placeholder.
        outputs: one entry for each result.
        calling: how ``graph(*args)`` maps onto them.
        wrt: names of the inputs for which gradients were asked, in that order.
        guards: what the program read besides its arguments; the graph computes the program while ``guards.hold()``.
        effects: what the program leaves behind in objects (``memograd.tracing.effects``).
    """

    fx: fx.Graph
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    calling: Calling
    wrt: tuple[str, ...] = ()
    guards: Any = None
    effects: Any = None

    @cached_property
    def placeholders(self) -> tuple[fx.Node, ...]:
        return tuple(self.fx.find_nodes(op="placeholder"))

    @cached_property
    def results(self) -> tuple[fx.Node, ...]:
        """The nodes returned, one for each entry of ``outputs``."""
        returned: Any = self.fx.output_node().args[0]
        return tuple(returned)

    @property
    def nodes(self) -> list[fx.Node]:
        """The operators, in order of computation."""
        return [n for n in self.fx.nodes if n.op == "call_function"]

    def named(self, kind: InputKind) -> dict[str, torch.Tensor]:
        """The bound tensors of a kind by name."""
        return {i.name: i.tensor for i in self.inputs if i.kind == kind and i.tensor is not None}

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        return self.named("parameter")

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        return self.named("buffer")

    @cached_property
    def reads_by_offset(self) -> bool:
        """Whether an operator counts from the start of a tensor's memory, which for a view is not its own start."""
        found = [n for n in self.nodes if n.target is torch.ops.aten.as_strided.default]
        return any(len(n.args) > 3 or "storage_offset" in n.kwargs for n in found)

    def check_offsets(self, tensors: Sequence[Any]) -> None:
        """Refuse views into larger tensors where the graph reads by offset."""
        if self.reads_by_offset and any(isinstance(t, torch.Tensor) and t.storage_offset() for t in tensors):
            raise CaptureError(
                "the program calls as_strided with an explicit offset, and an argument is a view into a larger tensor: "
                "pass a copy (x.clone())"
            )

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Those of ``wrt`` that the loss does not depend on."""
        found = {o.name for o in self.outputs if o.kind == "gradient"}
        return tuple(name for name in self.wrt if name not in found)

    def positions(self, kind: OutputKind) -> list[int]:
        """Where the results of a kind stand among all results."""
        return [i for i, o in enumerate(self.outputs) if o.kind == kind]

    def placeholder(self, name: str) -> fx.Node:
        """The placeholder of the input called ``name`` (an alias of a tied parameter also finds it)."""
        for node, entry in zip(self.placeholders, self.inputs, strict=True):
            if name == entry.name or name in entry.aliases:
                return node
        known = ", ".join(i.name for i in self.inputs)
        raise GraphError(f"the graph has no input named {name!r}; it has: {known or 'none'}")

    @cached_property
    def code(self) -> str:
        """The graph as runnable Python: one function of the flat inputs, which returns the flat outputs."""
        return annotated(self)

    def __str__(self) -> str:
        return self.code

    @cached_property
    def function(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The graph as a plain function of its flat inputs that returns its flat outputs and frees as it goes."""
        return load(flat_function("graph", list(self.placeholders), self.nodes, list(self.results)), "graph")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on the arguments the graph was captured with (same structure, shapes, dtypes).

        Returns:
            What the captured function returns; for a differentiated graph ``(that, {name: gradient})``, where the
            gradient of an input the loss does not depend on is None.

        Raises:
            CaptureError: the arguments do not fit.
        """
        with torch.no_grad():
            flat = self.bind(args, kwargs)
            return self.unpack(run(self.function, flat), flat)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any], extra: Sequence[Any] = ()) -> list[Any]:
        """The flat list of tensors for this call; ``extra`` are the cotangents."""
        leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
        calling = self.calling
        if spec != calling.in_spec:
            raise CaptureError(
                f"the arguments have the structure {spec}, the graph was captured with {calling.in_spec}"
            )
        for leaf, baked, name in zip(leaves, calling.in_leaves, calling.in_names, strict=True):
            if not isinstance(leaf, torch.Tensor) and not same(leaf, baked):
                raise CaptureError(
                    f"argument {name!r} is {leaf!r}, the graph was captured with {baked!r}; capture again"
                )
        self.check_offsets(leaves)
        given = iter([*(leaves[i] for i in calling.tensor_in), *extra])
        flat: list[Any] = [i.bound if i.tensor is not None else next(given, None) for i in self.inputs]
        written = {o.name for o in self.outputs if o.kind == "mutation"}
        for i, (entry, node) in enumerate(zip(self.inputs, self.placeholders, strict=True)):
            _check(entry, node.meta["val"], flat[i])  # parameters too: the module may have been converted since
            flat[i] = _laid_out(entry, node.meta["val"], flat[i], entry.name in written)
        return flat

    def unpack(self, results: Sequence[torch.Tensor], flat: Sequence[Any]) -> Any:
        """The flat results as the user sees them; writes mutations back."""
        values: list[torch.Tensor] = []
        gradients: dict[str, Any] = dict.fromkeys(self.wrt)
        for entry, value in zip(self.outputs, results, strict=True):
            if entry.kind == "output":
                values.append(value)
            elif entry.kind == "gradient":
                gradients[entry.name] = value
        self.write_back(results, flat)
        out = self.output_tree(values)
        return (out, gradients) if gradients else out

    def output_tree(self, values: Sequence[torch.Tensor]) -> Any:
        leaves = list(self.calling.out_leaves)
        for position, value in zip(self.calling.tensor_out, values, strict=True):
            leaves[position] = value
        return pytree.tree_unflatten(leaves, self.calling.out_spec)

    def write_back(self, results: Sequence[torch.Tensor], flat: Sequence[Any]) -> None:
        """Copy every ``mutation`` output into the input it is the new value of: a buffer, or a tensor the caller
        passed; and leave behind what the program does. ``results`` may end before the gradients, which come last."""
        names = [i.name for i in self.inputs]
        with torch.no_grad():
            for entry, value in zip(self.outputs, results, strict=False):
                if entry.kind == "mutation":
                    flat[names.index(entry.name)].copy_(value)
        self.leave([v for o, v in zip(self.outputs, results, strict=False) if o.kind == "left"], flat)

    def leave(self, left: Sequence[torch.Tensor], flat: Sequence[Any]) -> None:
        """What the program leaves behind after a run on ``flat`` that had the results ``left``."""
        if self.effects:
            bound = {i.name: x if i.tensor is None else i.bound for i, x in zip(self.inputs, flat, strict=False)}
            self.effects.happen(left, bound)

    def verify(self) -> Graph:
        """Check that the graph is well formed; returns it.

        Raises:
            GraphError: an undefined or mutating operator, a value without metadata, a signature that does not fit.
        """
        self.fx.lint()
        if len(self.placeholders) != len(self.inputs) or len(self.results) != len(self.outputs):
            raise GraphError("the signature and the graph disagree on the number of inputs or outputs")
        for node in self.fx.nodes:
            if node.op not in ("placeholder", "call_function", "output"):
                raise GraphError(f"unexpected node {node.format_node()}")
            if node.op != "output" and "val" not in node.meta:
                raise GraphError(f"node {node.name} ({node.target}) has no value metadata")
            schema = getattr(node.target, "_schema", None)
            if schema is not None and schema.is_mutable:
                raise GraphError(f"node {node.name} calls {node.target}, which writes in place")
        return self

    def with_fx(self, new: fx.Graph, **changes: Any) -> Graph:
        """This graph's signature around other operators."""
        return replace(self, fx=new, **changes)

    def copy(self) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
        """A copy of the operators (without the output node) and the map from old to new nodes."""
        new, where = fx.Graph(), {}
        for node in self.fx.nodes:
            if node.op != "output":
                where[node] = new.node_copy(node, where.__getitem__)
        return new, where


def run(function: Callable[..., Any], flat: Sequence[Any]) -> Any:
    """Call a graph's function as it was captured: autocast is part of the graph already and must not act twice."""
    with autocast.off():
        return function(*flat)


def load(source: str, name: str) -> Callable[..., Any]:
    """The function called ``name`` that ``source`` defines."""
    scope: dict[str, Any] = {}
    exec(compile(source, f"<memograd {name}>", "exec"), scope)  # our own printer wrote it
    return scope[name]


def same(left: Any, right: Any) -> bool:
    """Equality of two leaves that are no tensors; never raises."""
    if left is right:
        return True
    try:
        return type(left) is type(right) and bool(left == right)
    except Exception:  # objects with an exotic ==
        return False


def _check(entry: Input, value: torch.Tensor, tensor: Any) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise CaptureError(f"argument {entry.name!r} must be a tensor, got {type(tensor).__name__}")
    if tensor.shape != value.shape or tensor.dtype != value.dtype:
        raise CaptureError(
            f"argument {entry.name!r} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; the graph was captured "
            f"with {tuple(value.shape)} and {value.dtype}; capture again for other shapes"
        )


def _laid_out(entry: Input, value: torch.Tensor, tensor: torch.Tensor, written: bool) -> torch.Tensor:
    """``tensor`` in the memory layout the graph was traced with, on which its operators count: a ``contiguous()``, for
    one, is no operator where the tensor was contiguous already, and some kernels read memory as it lies. (A batch of
    ``vmap`` lies as it lies; who runs a graph on one has seen to that.)"""
    pairs = zip(tensor.shape, tensor.stride(), value.stride(), strict=True)
    if tensor.numel() == 0 or is_wrapped(tensor) or all(n == 1 or there == here for n, there, here in pairs):
        return tensor
    if written:
        raise CaptureError(
            f"argument {entry.name!r}, which the program writes to, has strides {tensor.stride()}; the graph was "
            f"captured with {value.stride()}; capture again, or pass a copy"
        )
    layout = torch.empty_strided(value.shape, value.stride(), dtype=tensor.dtype, device=tensor.device)
    try:
        return layout.copy_(tensor)
    except RuntimeError as error:
        raise CaptureError(
            f"argument {entry.name!r} was captured with several elements at one place in memory (strides "
            f"{value.stride()}); this one has strides {tensor.stride()}: capture again"
        ) from error
