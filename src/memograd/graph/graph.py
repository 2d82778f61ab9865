"""The graph every stage reads and returns: a ``torch.fx`` graph of ATen operators, and its signature.

A graph is functional: what a step must write back (BatchNorm statistics, new parameters) is an output of kind
``mutation``. Every tensor it reads is a placeholder, so a graph is a pure function of a flat list of tensors; the
signature says which of them the user passes and which (parameters, buffers, constants) the graph holds by reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx

from memograd._torch import schema_of
from memograd.collector import no_collection
from memograd.errors import CaptureError, GraphError
from memograd.graph.entries import Calling, Input, InputKind, Output, OutputKind
from memograd.graph.printing import annotated, flat_function, load
from memograd.graph.rewriting import Rewriting, Visit
from memograd.graph.signature import fit, leaves_of, output_tree, refuse_shared, run, write_mutations


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
        beside: bytes that are alive while it runs and that it does not read: a memory budget counts them.
    """

    fx: fx.Graph
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    calling: Calling
    wrt: tuple[str, ...] = ()
    guards: Any = None
    effects: Any = None
    beside: int = 0

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
        strided = [n for n in self.nodes if n.target is torch.ops.aten.as_strided.default]
        return any(len(n.args) > 3 or "storage_offset" in n.kwargs for n in strided)

    def check_offsets(self, tensors: Sequence[Any]) -> None:
        """Refuse views into larger tensors where the graph reads by offset."""
        if self.reads_by_offset and any(isinstance(t, torch.Tensor) and t.storage_offset() for t in tensors):
            raise CaptureError(
                "the program calls as_strided with an explicit offset, and an argument is a view into a larger tensor: "
                "pass a copy (x.clone())"
            )

    @cached_property
    def written(self) -> frozenset[str]:
        """Names of the inputs that it has a new value for."""
        return frozenset(o.name for o in self.outputs if o.kind == "mutation")

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Those of ``wrt`` that the loss does not depend on."""
        reached = {o.name for o in self.outputs if o.kind == "gradient"}
        return tuple(name for name in self.wrt if name not in reached)

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
        with no_collection():
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
            return self.unpack(run(self.function, flat), flat, (args, kwargs))

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any], extra: Sequence[Any] = ()) -> list[Any]:
        """The flat list of tensors for this call; ``extra`` are the cotangents."""
        leaves = leaves_of(self.calling, args, kwargs)
        self.check_offsets(leaves)
        if self.effects:
            self.effects.refuse_one_in_two_places((args, kwargs))
        given = iter([*(leaves[i] for i in self.calling.tensor_in), *extra])
        flat: list[Any] = []
        for entry, node in zip(self.inputs, self.placeholders, strict=True):
            # parameters too: the module may have been converted since
            tensor = entry.bound if entry.tensor is not None else next(given, None)
            flat.append(fit(entry, node.meta["val"], tensor, entry.name in self.written))
        refuse_shared(self.inputs, self.written, flat)
        return flat

    def unpack(self, results: Sequence[torch.Tensor], flat: Sequence[Any], arguments: Any = None) -> Any:
        """The flat results as the user sees them; writes mutations back, and to ``arguments`` what the program does."""
        values: list[torch.Tensor] = []
        gradients: dict[str, Any] = dict.fromkeys(self.wrt)
        for entry, value in zip(self.outputs, results, strict=True):
            if entry.kind == "output":
                values.append(value)
            elif entry.kind == "gradient":
                gradients[entry.name] = value
        tensors = dict(zip(self.calling.tensor_out, values, strict=True))
        made = self.write_back(results, flat, arguments, tensors)
        out = output_tree(self.calling, values, made)
        return (out, gradients) if gradients else out

    def output_tree(self, values: Sequence[torch.Tensor]) -> Any:
        """The user's results, nested as the program returned them."""
        return output_tree(self.calling, values)

    def write_back(
        self,
        results: Sequence[torch.Tensor],
        flat: Sequence[Any],
        arguments: Any = None,
        returned: Mapping[int, torch.Tensor] | None = None,
    ) -> dict[int, Any]:
        """What the program writes, into the inputs it writes to, and what it leaves behind. ``results`` may end before
        the gradients, which come last; for the rest see ``leave``."""
        write_mutations(self.inputs, self.outputs, results, flat)
        left = [v for o, v in zip(self.outputs, results, strict=False) if o.kind == "left"]
        return self.leave(left, flat, arguments, returned)

    def leave(
        self,
        left: Sequence[torch.Tensor],
        flat: Sequence[Any],
        arguments: Any = None,
        returned: Mapping[int, torch.Tensor] | None = None,
    ) -> dict[int, Any]:
        """What the program leaves behind after a run on ``flat`` that had the results ``left``, also in the dicts and
        lists among its ``arguments``, and on the tensors that it has ``returned``, by position among the leaves of
        that. Gives the objects among these leaves that hold tensors of the run."""
        if not (self.effects or (returned is not None and self.effects is not None and self.effects.on_results)):
            return {}
        bound = {i.name: x if i.tensor is None else i.bound for i, x in zip(self.inputs, flat, strict=False)}
        return self.effects.happen(self.effects.begin(left, bound, arguments), returned or {})

    def verify(self) -> Graph:
        """Check that the graph is well formed; returns it.

        Raises:
            GraphError: an operator before one of its operands, two nodes or inputs of one name, a mutating operator, a
                value without metadata, a signature that does not fit.
        """
        if len(self.placeholders) != len(self.inputs) or len(self.results) != len(self.outputs):
            raise GraphError("the signature and the graph disagree on the number of inputs or outputs")
        named = [entry.name for entry in self.inputs if entry.kind != "cotangent"]  # (looked up by ``of``)
        if len(set(named)) < len(named):
            raise GraphError("two inputs have one name")
        earlier: set[fx.Node] = set()  # one pass, and not fx's own check besides: this runs after every stage
        for node in self.fx.nodes:
            if node.op not in ("placeholder", "call_function", "output"):
                raise GraphError(f"unexpected node {node.format_node()}")
            for operand in node.all_input_nodes:
                if operand not in earlier:
                    raise GraphError(f"node {node.name} ({node.target}) reads {operand.name}, which is not before it")
            if node.op != "output" and "val" not in node.meta:
                raise GraphError(f"node {node.name} ({node.target}) has no value metadata")
            earlier.add(node)
        if len({node.name for node in earlier}) < len(earlier):
            raise GraphError("two nodes have one name")
        for target in {node.target for node in earlier}:
            schema = schema_of(target)
            if schema is not None and schema.is_mutable:
                names = ", ".join(n.name for n in earlier if n.target is target)
                raise GraphError(f"node {names} calls {target}, which writes in place")
        return self

    def with_fx(self, new: fx.Graph, **changes: Any) -> Graph:
        """This graph's signature around other operators."""
        return replace(self, fx=new, **changes)

    def rewritten(
        self,
        visit: Visit | None = None,
        nodes: Iterable[fx.Node] | None = None,
        results: Sequence[fx.Node] | None = None,
        new: Rewriting | None = None,
        **changes: Any,
    ) -> Graph:
        """A new graph, in which what ``visit`` returns stands for each node; by default a copy of it.

        Args:
            nodes: other nodes than all, or in another order.
            results: other nodes of this graph than its results.
            new: where it is written, for who has a tracer there, or has written the first of it.
            changes: of the signature.
        """
        new = new or Rewriting()
        new.write(self.fx.nodes if nodes is None else nodes, visit)
        new.fx.output(tuple(new.where[n] for n in (self.results if results is None else results)))
        return self.with_fx(new.fx, **changes)

    def copy(self) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
        """A copy of the operators (without the output node) and the map from old to new nodes."""
        new = Rewriting()
        new.write(self.fx.nodes)
        return new.fx, new.where
