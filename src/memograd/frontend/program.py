"""What runs for one signature of a wrapped model: its graph, differentiated for the results that get cotangents.

Which results of a model somebody differentiates is known only when cotangents come back: a language model returns a
loss and logits, and mostly the loss alone is used. So a *variant* is a derivative for some of the results. The first
call takes all of them to be used, later ones those that were used last. Where others are used after all, the forward
pass is computed again from what the call was given: right, and slower once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import fx

from memograd._torch import pytree
from memograd.adjoint.activity import active_nodes
from memograd.adjoint.partition import partition
from memograd.errors import CaptureError
from memograd.frontend.boundary import Boundary, Call
from memograd.frontend.chain import Pass, early_gradients_matter, linked
from memograd.frontend.held import held_open, read_late, receiving, resumed
from memograd.frontend.own_memory import own_memory
from memograd.frontend.segments import Segments, bytes_of
from memograd.graph.entries import Input, Output
from memograd.graph.graph import Graph
from memograd.graph.signature import may_share, refuse_shared, run
from memograd.graph.views import tensors_of
from memograd.looks import look
from memograd.lower.lower import lower
from memograd.memory.plan import Plan
from memograd.ops import is_random
from memograd.pipeline import capture_for, differentiate, plan
from memograd.run.inductor import compiled
from memograd.transforms.boundary import Step, only
from memograd.transforms.program import for_batches

Tensor = torch.Tensor


@dataclass(eq=False)
class Settings:
    """How the programs of one model run.

    Attributes:
        memory_budget, backend: see ``wrap``.
        allowed: bytes that a share ("50%") has meant for the largest program so far: smaller ones may have them too.
    """

    memory_budget: int | str | Plan | None = None
    backend: str = "auto"
    allowed: int = 0

    def plan(self, graph: Graph) -> Plan:
        """A schedule of ``graph`` within the budget."""
        assert self.memory_budget is not None
        made = plan(graph, self.memory_budget, self.allowed, fused=self.backend == "inductor")
        self.allowed = max(self.allowed, made.budget)
        return made

    def built(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` of ATen operators as the backend runs it."""
        return compiled(function) if self.backend == "inductor" else function


class Program:
    """The graph of ``function(*args, **kwargs)``.

    Attributes:
        early: its inputs, one for each flat one.
        results: its results that autograd hands out, one entry each.
        overwritten: positions of inputs that it writes to, and whose old value a derivative may need.
        devices: whose generators it draws from.
        decisions: its looks at values, as they were seen, in order.
    """

    def __init__(
        self, function: Callable[..., Any], args: Any, kwargs: Any, concrete: bool, settings: Settings
    ) -> None:
        self.settings = settings
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
        self._reach: dict[frozenset[int], frozenset[int]] = {}
        self._bound: list[Any] | None = None  # the flat inputs that are no arguments, and where they lie
        self._addresses: list[int] = []
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
        written = {graph.results[k]: graph.placeholder(graph.outputs[k].name) for k in graph.positions("mutation")}
        for k, (node, entry) in enumerate(zip(graph.results, graph.outputs, strict=True)):
            if entry.kind == "mutation":
                continue
            if node in written and not entry.tracked:  # the tensor itself, as it is after the write
                node = written[node]
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
        flat = self._flat(args, kwargs)
        call = Call.of(self, self.variant(self.expected), flat)
        call.witness = witness
        first, *others = groups = self._groups(call.variant)
        if others and not early_gradients_matter(flat):
            first, others = [k for group in groups for k in group], []
        call.in_segments = bool(others)
        device = self.graph.results[0].meta["val"].device
        handed: Any = Boundary.apply(call, first, linked(others, flat, device), *[flat[k] for k in first])
        if self.mutations:
            with torch.no_grad():
                for k, value in zip(self.mutations, call.written, strict=True):
                    flat[self._written_to[k]].copy_(value)
        if self._alone:
            return handed[0]
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

    def _flat(self, args: Any, kwargs: Any) -> list[Any]:
        """The flat inputs for these arguments."""
        if kwargs or not only_tensors(args):
            return self.graph.bind(args, kwargs)
        self.graph.check_offsets(args)
        bound = self._bound
        if bound is None or self.guards.moved or [t.data_ptr() for t in bound if t is not None] != self._addresses:
            flat = self.graph.bind(args, kwargs)
            held = [(i.bound, t) for i, t in zip(self.early, flat, strict=True)]
            self._bound = [b for b, _ in held] if all(b is None or b is t for b, t in held) else None
            self._addresses = [b.data_ptr() for b, _ in held if b is not None]
            self.guards.moved = False
            return flat
        flat = bound.copy()
        for slot, tensor in zip(self._slots, args, strict=True):
            flat[slot] = tensor
        if self.mutations and may_share(self.early, self.graph.outputs, flat):
            refuse_shared(self.early, self.graph.outputs, flat)
        return flat

    @cached_property
    def _slots(self) -> list[int]:
        """Where the arguments go."""
        return [k for k, i in enumerate(self.early) if i.tensor is None]

    @cached_property
    def _alone(self) -> bool:
        """Whether one tensor is all that comes out of a call."""
        one = self.graph.calling.out_spec.is_leaf() and len(self.places) == 1 and not self.passed
        return one and not (self.effects or self.effects.returned)

    @cached_property
    def _written_to(self) -> dict[int, int]:
        names = [i.name for i in self.early]
        return {k: names.index(self.graph.outputs[k].name) for k in self.mutations}

    # -- backward --------------------------------------------------------------------------------------------------

    def variant(self, used: frozenset[int]) -> Variant:
        if used not in self.variants:
            self.variants[used] = Variant(self, used)
        return self.variants[used]

    def _groups(self, variant: Variant) -> list[list[int]]:
        """The flat inputs that autograd knows of, those whose gradients come first first. What is no parameter waits
        for the end: who is there may take the backward pass of this model for over."""
        if variant.groups is None:
            reached = self._reached(frozenset(k for k, o in enumerate(self.results) if o.tracked))
            own = {k for k in reached if self.early[k].kind == "parameter"}
            groups = [[k for k in group if k in own] for group in variant.together]
            groups = [group for group in groups if group] or [[]]
            listed = {k for group in groups for k in group}
            groups[-1] += sorted((reached or {k for k, i in enumerate(self.early) if i.name in self.wrt}) - listed)
            variant.groups = groups
        return variant.groups

    def pulled(self, call: Call, saved: list[Any], cotangents: list[Any]) -> Pass:
        """The gradients of the flat inputs."""
        used = frozenset(k for k, c in enumerate(cotangents) if c is not None)
        if not used:
            return Pass()
        as_autograd = partial(self._as_autograd, call, self._reached(used))
        if torch.is_grad_enabled():  # somebody goes on from the gradients
            return Pass([self.variant(used).again(call, cotangents)], as_autograd)
        under_way = Pass(self._gradients(call, used, saved, cotangents), as_autograd)
        self.expected = used
        if call.witness is not None:
            gradients = under_way.all()
            call.witness.compare(used, cotangents, [as_autograd(k, gradients.get(k)) for k in range(len(self.early))])
            call.witness = None
        return under_way

    def _as_autograd(self, call: Call, reached: frozenset[int], k: int, gradient: Any) -> Any:
        """``gradient``, or zeros, or none, where PyTorch has these."""
        if (gradient is not None) == (k in reached):
            return gradient
        return torch.zeros_like(call.flat[k]) if gradient is None else None

    def _reached(self, used: frozenset[int]) -> frozenset[int]:
        """The flat inputs that get a gradient, be it zero, where these results are used; the others get none, which
        an optimizer takes for something else."""
        if used not in self._reach:
            nodes = self.graph.placeholders
            sources = [n for n, i in zip(nodes, self.early, strict=True) if i.name in self.wrt]
            active = set(active_nodes(sources, [self.nodes[k] for k in used]))
            self._reach[used] = frozenset(k for k, n in enumerate(nodes) if n in active)
        return self._reach[used]

    def _gradients(
        self, call: Call, used: frozenset[int], saved: list[Any], cotangents: list[Any]
    ) -> Iterator[dict[int, Tensor]]:
        if used == call.variant.used and not call.ended:  # a cotangent of zeros is not none: 0 times inf
            return call.variant.backward(call, saved, cotangents)
        again = replace(call, variant=self.variant(used), flat=call.primals(), running=None)
        with call.generators():
            _, _, saved = again.variant.forward(again)
        return again.variant.backward(again, saved, cotangents)


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
        self.joint: Graph = own_memory(differentiate(flat, program.wrt, cotangents="output", among=among))
        settings = program.settings
        self.plan = settings.plan(receiving(self.joint)) if settings.memory_budget is not None else None
        if self.plan is None:
            halves = partition(lower(self.joint))
            self._forward, self._backward = settings.built(halves.forward), Segments(halves, settings.built)
            self._handed, groups = halves.results, self._backward.groups
        else:
            sizes = [bytes_of(self.joint.results[k]) for k in self.joint.positions("gradient")]
            self._held_open, groups = held_open(self.plan, sizes)
            self._needed = read_late(lower(self.joint))
        self._count = len(program.results)
        names = [i.name for i in program.early]
        self._gradients = [names.index(self.joint.outputs[k].name) for k in self.joint.positions("gradient")]
        self.together = [[self._gradients[k] for k in group] for group in groups]
        self.groups: list[list[int]] | None = None
        self._cotangents = [
            next(k for k, o in enumerate(program.results) if o.name == i.of)
            for i in self.joint.inputs
            if i.kind == "cotangent"
        ]

    def forward(self, call: Call) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """(results, what is written back, what the backward pass reads)."""
        if self.plan is None:
            out = run(self._forward, call.flat)
            handed, saved = out[: self._handed], out[self._handed :]
        else:
            call.running = self._held_open(*call.flat)
            handed, saved = run(next, [call.running]), [torch.empty(0)]  # something for autograd to have freed
            # what waits must not hold what autograd hands out, whose history holds what waits
            call.handed = [(weakref.ref(r), r._version) for r in handed[: self._count]]
            return _twins(handed[: self._count]), handed[self._count :], saved
        return _apart(handed[: self._count], call.flat), handed[self._count :], saved

    def backward(self, call: Call, saved: Sequence[Any], cotangents: Sequence[Any]) -> Iterator[dict[int, Tensor]]:
        """The gradients by position of the flat inputs, some at a time."""
        late = [cotangents[k] for k in self._cotangents]
        if self.plan is None:
            return map(self._placed, self._backward.run([*saved, *late], call.in_segments))
        call.primals()  # raises where one was written to, and so does the next line for a result
        call.refuse_written_results(self._needed)
        running, call.running, call.ended = call.running, None, True
        return map(self._placed, resumed(running, late))

    def again(self, call: Call, cotangents: Sequence[Any]) -> dict[int, Tensor]:
        """The same as a step of autograd's, from the inputs of the call."""
        late = [cotangents[k] for k in self._cotangents]
        return self._placed(dict(enumerate(self._step([*call.primals(), *late], call.generators))))

    @cached_property
    def _step(self) -> Step:
        return Step(only(self.joint, self.joint.positions("gradient")), for_batches, self.program.settings.built)

    def _placed(self, handed: dict[int, Tensor]) -> dict[int, Tensor]:
        placed = {self._gradients[k]: gradient for k, gradient in handed.items()}
        handed.clear()
        return placed


def only_tensors(args: Sequence[Any]) -> bool:
    """Whether there is nothing to look through for tensors."""
    return all([type(x) is Tensor for x in args])


def _apart(results: Sequence[Tensor], flat: Sequence[Tensor]) -> list[Tensor]:
    """``results``, each an object of its own: to autograd one that is an input means something else, and what a result
    and its detached twin have in common is their memory."""
    seen = {id(t) for t in flat}
    apart: list[Tensor] = []
    for result in results:
        apart.append(result.detach() if id(result) in seen else result)
        seen.add(id(result))
    return apart


def _twins(results: Sequence[Tensor]) -> list[Tensor]:
    """Other tensors over the same memory; views where two of them share it, so that autograd knows and lets nobody
    write to one of them."""
    memory = [r.untyped_storage().data_ptr() for r in results]
    return [r.view_as(r) if memory.count(at) > 1 else r.detach() for r, at in zip(results, memory, strict=True)]
