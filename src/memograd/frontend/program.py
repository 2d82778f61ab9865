"""What runs for one signature of a wrapped model: its graph, differentiated for the results that get cotangents.

Which results of a model somebody differentiates is known only when cotangents come back: a language model returns a
loss and logits, and mostly the loss alone is used. So a *variant* is a derivative for some of the results. The first
call takes all of them to be used, later ones those that were used last. Where others are used after all, the forward
pass is computed again from what the call was given: right, and slower once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import fx

from memograd._torch import pytree
from memograd.adjoint.partition import partition
from memograd.errors import CaptureError
from memograd.frontend.boundary import Boundary, Call
from memograd.graph.graph import Graph, Input, Output, run
from memograd.graph.views import tensors_of
from memograd.looks import look, trusting
from memograd.ops import is_random
from memograd.pipeline import capture_for, differentiate
from memograd.transforms.boundary import Step, only
from memograd.transforms.program import for_batches

Tensor = torch.Tensor


class Program:
    """The graph of ``function(*args, **kwargs)``.

    Attributes:
        early: its inputs, one for each flat one.
        results: its results that autograd hands out, one entry each.
        overwritten: positions of inputs that it writes to, and whose old value a derivative may need.
        devices: whose generators it draws from.
        decisions: its looks at values, as they were seen, in order.
    """

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, concrete: bool) -> None:
        leaves = pytree.tree_leaves((args, kwargs))
        tracked = [k for k, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad]
        forward = capture_for(function, args, kwargs, tracked, concrete)
        self.guards, self.effects = forward.guards, forward.effects
        self.graph = forward
        self._refuse_writes()
        given = iter([leaves[k] for k in forward.calling.tensor_in])
        values = [i.bound if i.tensor is not None else next(given) for i in forward.inputs]
        self.wrt = [i.name for i, t in zip(forward.inputs, values, strict=True) if t is not None and t.requires_grad]
        self.early: tuple[Input, ...] = forward.inputs
        self._results()
        self.devices = tuple({str(t.device) for n in forward.nodes if is_random(n) for t in tensors_of(n)})
        looks: list[Any] = sorted((n for n in forward.nodes if n.target is look), key=lambda n: n.args[1])  # pyright: ignore[reportArgumentType]
        self.decisions = tuple((n.args[2], n.args[3]) for n in looks)
        self.variants: dict[frozenset[int], Variant] = {}
        self.expected = frozenset(k for k, o in enumerate(self.results) if o.tracked)
        self.checked: set[frozenset[int]] = set()

    def _refuse_writes(self) -> None:
        for entry in self.graph.outputs:
            if entry.kind == "mutation" and entry.tracked:
                raise CaptureError(
                    f"the model writes to {entry.name!r} what depends on its parameters, so that this tensor has a "
                    "history from then on: a wrapped model cannot hand that on. Write the detached value "
                    "(copy_(h.detach())), or return the new one"
                )

    def _results(self) -> None:
        """Each tensor that is handed out once; what the program was given it hands back itself."""
        graph = self.graph
        self.results: list[Output] = []
        self.places: dict[int, int] = {}  # of an output or left among all results: where it stands in ``results``
        self.passed: dict[int, int] = {}  # or which of the flat inputs it is
        at: dict[fx.Node, int] = {}
        for k, (node, entry) in enumerate(zip(graph.results, graph.outputs, strict=True)):
            if entry.kind == "mutation":
                continue
            if node.op == "placeholder":
                self.passed[k] = graph.placeholders.index(node)
                continue
            if node not in at:
                at[node] = len(self.results)
                self.results.append(Output("output", f"result {at[node]}", entry.tracked))
            elif entry.tracked:
                self.results[at[node]] = replace(self.results[at[node]], tracked=True)
            self.places[k] = at[node]
        self.nodes = list(at)
        self.mutations = graph.positions("mutation")

    @property
    def plain(self) -> bool:
        """Whether nothing is left to differentiate."""
        return not self.wrt or not any(o.tracked for o in self.results)

    @property
    def shaped(self) -> bool:
        """Whether values decide shapes."""
        return any(what == "shape" for what, _ in self.decisions)

    @cached_property
    def overwritten(self) -> frozenset[int]:
        names = {self.graph.outputs[k].name for k in self.mutations}
        return frozenset(k for k, i in enumerate(self.early) if i.name in names)

    # -- forward ---------------------------------------------------------------------------------------------------

    def __call__(self, args: Any, kwargs: Any, witness: Any = None) -> Any:
        """What the model returns. Raises DecisionChangedError where looks are compared and see something else.

        Args:
            witness: PyTorch's own run of this call, to compare the gradients with.
        """
        flat = self.graph.bind(args, kwargs)
        call = Call.of(self, self.variant(self.expected), flat)
        call.witness = witness
        handed: Any = Boundary.apply(call, *flat)
        with trusting(), torch.no_grad():
            for k, value in zip(self.mutations, call.written, strict=True):
                flat[self._written_to[k]].copy_(value)
        values = {k: handed[at] for k, at in self.places.items()} | {k: flat[at] for k, at in self.passed.items()}
        left = [values[k] for k in self.graph.positions("left")]
        bound = {i.name: t for i, t in zip(self.early, flat, strict=True)}
        made = self.effects.happen(left, bound) if self.effects or self.effects.returned else {}
        leaves = list(self.graph.calling.out_leaves)
        for position, k in zip(self.graph.calling.tensor_out, self.graph.positions("output"), strict=True):
            leaves[position] = values[k]
        for position, value in made.items():
            leaves[position] = value
        return pytree.tree_unflatten(leaves, self.graph.calling.out_spec)

    @cached_property
    def _written_to(self) -> dict[int, int]:
        names = [i.name for i in self.early]
        return {k: names.index(self.graph.outputs[k].name) for k in self.mutations}

    # -- backward --------------------------------------------------------------------------------------------------

    def variant(self, used: frozenset[int]) -> Variant:
        if used not in self.variants:
            self.variants[used] = Variant(self, used)
        return self.variants[used]

    def pulled(self, call: Call, saved: list[Any], cotangents: list[Any]) -> list[Any]:
        """The gradient of each flat input, or None."""
        used = frozenset(k for k, c in enumerate(cotangents) if c is not None)
        if not used:
            return [None] * len(self.early)
        if torch.is_grad_enabled():  # somebody goes on from the gradients
            return self.variant(used).again(call, cotangents)
        gradients = self._gradients(call, used, saved, cotangents)
        self.expected = used
        if call.witness is not None:
            call.witness.compare(used, cotangents, gradients)
            call.witness = None
        return gradients

    def _gradients(self, call: Call, used: frozenset[int], saved: list[Any], cotangents: list[Any]) -> list[Any]:
        if used <= call.variant.used:
            return call.variant.backward(saved, cotangents)
        variant = self.variant(used)
        primals = call.primals()
        with call.generators():
            _, _, again = variant.forward(primals)
        return variant.backward(list(again), cotangents)


class Variant:
    """The derivative of a program for the results that are ``used``: positions among those handed out."""

    def __init__(self, program: Program, used: frozenset[int]) -> None:
        self.program = program
        self.used = used
        graph, written = program.graph, [program.graph.results[k] for k in program.mutations]
        new, where = graph.copy()
        new.output(tuple(where[n] for n in [*program.nodes, *written]))
        outputs = (*program.results, *(graph.outputs[k] for k in program.mutations))
        flat = graph.with_fx(new, outputs=outputs)
        among = [program.results[k].name for k in sorted(used)]
        self.joint: Graph = differentiate(flat, program.wrt, cotangents="output", among=among)
        self.halves = partition(self.joint)
        self._count = len(program.results)
        names = [i.name for i in program.early]
        self._gradients = [names.index(self.joint.outputs[k].name) for k in self.joint.positions("gradient")]
        self._cotangents = [
            next(k for k, o in enumerate(program.results) if o.name == i.of)
            for i in self.joint.inputs
            if i.kind == "cotangent"
        ]

    def forward(self, flat: Sequence[Any]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """(results, what is written back, what the backward pass reads)."""
        given = {id(t) for t in flat}
        out = run(self.halves.forward, flat)
        # one and the same tensor means something else to autograd, if it was an input
        results = [r.view_as(r) if id(r) in given else r for r in out[: self._count]]
        return results, out[self._count : self.halves.results], out[self.halves.results :]

    def backward(self, saved: list[Any], cotangents: Sequence[Any]) -> list[Any]:
        late = [self._zeros(k) if cotangents[k] is None else cotangents[k] for k in self._cotangents]
        with trusting():
            return self._placed(run(self.halves.backward, [*saved, *late]))

    def again(self, call: Call, cotangents: Sequence[Any]) -> list[Any]:
        """The same as a step of autograd's, from the inputs of the call."""
        late = [cotangents[k] for k in self._cotangents]
        return self._placed(self._step([*call.primals(), *late], call.generators))

    @cached_property
    def _step(self) -> Step:
        return Step(only(self.joint, self.joint.positions("gradient")), for_batches)

    def _placed(self, gradients: Sequence[Tensor]) -> list[Any]:
        placed: list[Any] = [None] * len(self.program.early)
        for place, value in zip(self._gradients, gradients, strict=True):
            placed[place] = value
        return placed

    def _zeros(self, result: int) -> Tensor:
        value = self.program.nodes[result].meta["val"]
        return torch.zeros(value.shape, dtype=value.dtype, device=value.device)
