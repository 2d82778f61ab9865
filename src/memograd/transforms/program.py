"""A differentiated graph of one signature, ready to be called: as a whole, or cut where further arguments come in.

Those further arguments are cotangents (``vjp``) or tangents (``jvp``), and what depends on them is linear in them::

    outputs, saved = program.forward(args, kwargs)     # once
    gradients = program.linear(saved, cotangents)      # as often as one likes, one by one or a whole batch at a time

Where autograd will go on from the results, the graph is one step of it (``boundary.py``); a graph that draws random
numbers is run operator by operator then, since it cannot be computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from memograd._torch import in_forward_mode, inside_torch_func, is_tracked
from memograd.adjoint.activity import active_nodes
from memograd.adjoint.partition import Halves, gather, partition
from memograd.errors import GraphError
from memograd.graph.bits import worked_out
from memograd.graph.graph import Graph
from memograd.graph.reach import behind_cotangents
from memograd.graph.signature import run
from memograd.tracing.under_way import capturing
from memograd.transforms.batches import for_batches, in_batch, refuse_by_memory
from memograd.transforms.boundary import Step, only, repeatable
from memograd.transforms.surroundings import apart

Saved = Callable[
    [list[torch.Tensor]], Sequence[torch.Tensor]
]  # what is left to do once the further arguments are known


class Program:
    """``joint`` with what a transform has to know to call it.

    Attributes:
        names: the inputs that are differentiated, in the order of the leaves of the arguments.
        main: the results that are differentiated, in order.
    """

    def __init__(self, joint: Graph, names: list[str], main: list[str]) -> None:
        self.joint = joint
        self.names = names
        self.main = main
        self.guards = joint.guards
        self._functions: dict[Any, Any] = {}

    # -- all at once ---------------------------------------------------------------------------------------------

    def whole(self, args: Any, kwargs: Any, given: Mapping[str, torch.Tensor] | None = None) -> tuple[Any, dict]:
        """(what ``f`` returns, {name: gradient or tangent}); ``given``: the further arguments by name."""
        extra = [given[i.of].contiguous() for i in self.joint.inputs if i.kind == "cotangent"] if given else ()
        flat = self._without_idle_histories(self.joint.bind(args, kwargs, extra))
        tracked = self._tracked(flat)
        if tracked and self.repeatable:
            results = self._step("all", list(range(len(self.joint.outputs))))(self._kept_apart(flat))
        else:
            results = run(self._function(), self._kept_apart(flat) if tracked else flat)
        self.joint.write_back(results, flat)
        return self._outputs(results), self._derivatives(results[-self._count :] if self._count else ())

    # -- cut in two ----------------------------------------------------------------------------------------------

    def forward(self, args: Any, kwargs: Any) -> tuple[Any, Saved]:
        """What ``f`` returns, and what ``linear`` goes on from."""
        pairs = list(zip(self.joint.placeholders, self.joint.inputs, strict=True))
        flat = self.joint.bind(args, kwargs, [n.meta["val"] for n, i in pairs if i.kind == "cotangent"])
        flat = self._without_idle_histories(flat)
        early = [t for t, (_, i) in zip(flat, pairs, strict=True) if i.kind != "cotangent"]
        tracked, later = self._tracked(early), self._tracked_later(early)
        operands = [
            t
            for t, (_, i) in zip(self._kept_apart(flat) if tracked or later else flat, pairs, strict=True)
            if i.kind != "cotangent"
        ]
        followed = self._followed(operands) if tracked or later else None
        if tracked and followed:
            count = len(self.joint.outputs) - self._count
            results = self._step("results", list(range(count)), early=True)(operands)
            saved: Saved = followed
        else:
            if inside_torch_func():
                refuse_by_memory(self.joint.nodes)
            results, values = run(lambda *early: gather(self.halves, list(early)), operands)

            def behind(late: list[torch.Tensor], /) -> Sequence[torch.Tensor]:
                if later and followed and torch.is_grad_enabled():
                    return followed(late)
                return run(self.halves.backward, [*values, *late])

            saved = behind
        self.joint.write_back(results, flat)
        return self._outputs(results), saved

    def _followed(self, operands: list[Any]) -> Saved | None:
        """The second half as one step of autograd's, from the inputs; None where they do not give the same again."""
        if not self.repeatable:
            return None
        versions = [None if t.is_inference() else t._version for t in operands]

        def followed(late: list[torch.Tensor]) -> Sequence[torch.Tensor]:
            for tensor, version, name in zip(operands, versions, self._early_names, strict=True):
                if version is not None and tensor._version != version:
                    raise GraphError(
                        f"{name!r} has been modified by an inplace operation since the function was computed, and its "
                        "derivative is computed from it; write to a copy, or call the transform again"
                    )
            return self._step("derivatives", self.joint.positions("gradient"))([*operands, *late])

        return followed

    @property
    def _early_names(self) -> list[str]:
        return [i.name for i in self.joint.inputs if i.kind != "cotangent"]

    def linear(self, saved: Saved, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """{name: gradient or tangent} for further arguments by name; what does not depend on them is left out."""
        if inside_torch_func():
            late = behind_cotangents(self.joint)
            refuse_by_memory([n for n in self.joint.nodes if n in late])
        late = [given[i.of] for i in self.joint.inputs if i.kind == "cotangent"]
        return self._derivatives(saved([worked_out(t).contiguous() for t in late]))

    @cached_property
    def halves(self) -> Halves:
        with apart():
            return partition(for_batches(self.joint))

    @cached_property
    def batchable(self) -> bool:
        """Whether ``vmap`` runs every operator of ``linear`` on a whole batch."""
        return all(map(in_batch, behind_cotangents(self.joint)))

    @cached_property
    def repeatable(self) -> bool:
        return repeatable(self.joint)

    # -- in between ----------------------------------------------------------------------------------------------

    def _tracked(self, flat: list[Any]) -> bool:
        """Whether somebody will differentiate through what is computed; a capture of ours records the operators, and
        PyTorch's forward mode goes through them."""
        return not capturing() and not in_forward_mode() and any(map(is_tracked, flat))

    def _tracked_later(self, early: list[Any]) -> bool:
        """Whether somebody will once grad mode is on, which it is not: a ``vjp`` may be made under ``no_grad`` and its
        function called outside."""
        if torch.is_grad_enabled():
            return False
        with torch.enable_grad():
            return self._tracked(early)

    def _without_idle_histories(self, flat: list[Any]) -> list[Any]:
        """``flat``, where an input by which no result has a derivative has no history: that is a module's own parameter
        where others were put in its place (``functional_call``)."""
        if not self._idle or capturing() or in_forward_mode():  # who is not autograd may go other ways
            return flat
        return [t.detach() if k in self._idle and t.requires_grad else t for k, t in enumerate(flat)]

    @cached_property
    def _idle(self) -> frozenset[int]:
        active = set(active_nodes(self.joint.placeholders, self.joint.results))
        return frozenset(k for k, node in enumerate(self.joint.placeholders) if node not in active)

    def _function(self) -> Callable[..., Any]:
        if not inside_torch_func():
            return self.joint.function
        refuse_by_memory(self.joint.nodes)
        return self._built("batch", lambda: for_batches(self.joint).function)

    def _step(self, name: str, results: list[int], early: bool = False) -> Step:
        """The graph with these results as one step of autograd's; ``early``: without the further arguments."""
        if inside_torch_func():
            refuse_by_memory(self.joint.nodes)
        return self._built(name, lambda: Step(self._part(results, early), for_batches))

    def _part(self, results: list[int], early: bool) -> Graph:
        graph = only(self.joint, results)
        if not early:
            return graph
        for node, entry in zip(graph.placeholders, graph.inputs, strict=True):
            if entry.kind == "cotangent":
                graph.fx.erase_node(node)
        return replace(graph, inputs=tuple(i for i in graph.inputs if i.kind != "cotangent"))

    def _built(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._functions:
            with apart():
                self._functions[name] = make()
        return self._functions[name]

    def _kept_apart(self, flat: list[Any]) -> list[Any]:
        """``flat`` with copies of what will be written to: autograd remembers what it was."""
        return [t.clone() if i.name in self.joint.written else t for t, i in zip(flat, self.joint.inputs, strict=True)]

    @property
    def _count(self) -> int:
        return len(self.joint.positions("gradient"))

    def _outputs(self, results: Sequence[torch.Tensor]) -> Any:
        return self.joint.output_tree([results[i] for i in self.joint.positions("output")])

    def _derivatives(self, values: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        names = [o.name for o in self.joint.outputs if o.kind == "gradient"]
        return dict(zip(names, values, strict=True))
