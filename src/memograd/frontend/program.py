"""What runs for one signature of a wrapped model: its graph, and its derivatives as they are asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import torch

from memograd._torch import inside_torch_func, is_batched, pytree
from memograd.draws import drawing, go_on, states
from memograd.errors import BackendError
from memograd.frontend.answers import Question
from memograd.frontend.boundary import Call, through
from memograd.frontend.chain import Ends, UnderWay, linked
from memograd.frontend.expected import Expected, guesses
from memograd.frontend.held import HeldOpen
from memograd.frontend.inputs import Inputs
from memograd.frontend.load import refuse_shared_memory
from memograd.frontend.passes import Pass, Running
from memograd.frontend.reach import Reach
from memograd.frontend.results import Results, refuse_histories
from memograd.frontend.segments import bytes_of
from memograd.frontend.settings import Settings
from memograd.graph.entries import Input
from memograd.graph.graph import Graph
from memograd.graph.views import tensors_of
from memograd.looks import DecisionChangedError, look
from memograd.ops import is_random
from memograd.pipeline import capture_for
from memograd.tracing.undisturbed import Generators
from memograd.transforms.boundary import one_by_one

Tensor = torch.Tensor


class Program:
    """The graph of ``function(*args, **kwargs)``.

    Attributes:
        early: its inputs, one for each flat one.
        results: its results that autograd hands out, one entry each.
        overwritten: positions of inputs that it writes to, and whose old value a derivative may need.
        devices: whose generators it draws from.
        decisions: its looks at values, as they were seen, in order.
        inputs: makes the flat inputs of a call's arguments.
    """

    def __init__(
        self, function: Callable[..., Any], args: Any, kwargs: Any, concrete: bool, settings: Settings
    ) -> None:
        self.settings = settings
        leaves = pytree.tree_leaves((args, kwargs))
        tracked = [k for k, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad]
        forward = capture_for(function, args, kwargs, tracked, concrete, united=True, in_autograd=True)
        self.guards, self.effects = forward.guards, forward.effects
        self.graph = forward
        refuse_histories(forward)
        given = iter([leaves[k] for k in forward.calling.tensor_in])
        values = [i.bound if i.tensor is not None else next(given) for i in forward.inputs]
        self.wrt = [
            i.name
            for i, t in zip(forward.inputs, values, strict=True)
            if t is not None and (t.requires_grad or i.woken)
        ]
        self.wakes = any(i.woken for i in forward.inputs)
        self.early: tuple[Input, ...] = forward.inputs
        handed = Results(forward)
        self.results, self.nodes, self.places, self.passed = handed.entries, handed.nodes, handed.places, handed.passed
        self.rewritten = handed.rewritten
        self.mutations = [k for k in forward.positions("mutation") if k not in self.rewritten]
        self.devices = tuple({str(t.device) for n in forward.nodes if is_random(n) for t in tensors_of(n)})
        looks: list[Any] = sorted((n for n in forward.nodes if n.target is look), key=lambda n: n.args[1])  # pyright: ignore[reportArgumentType]
        self.decisions = tuple((n.args[2], n.args[3]) for n in looks)
        usual, of_leaves = guesses(self.results, self.early, values, self.wrt)
        if settings.memory_budget is not None:
            of_leaves = None  # nobody goes on within a plan
        self.expected = Expected(usual, of_leaves)
        self._plans: dict[Question, HeldOpen] = {}
        self._backend = self._backend_for(settings.backend)
        self._begin()
        self.first.expect(usual)
        if of_leaves:
            self.first.expect(of_leaves, further=True)
        if self._backend == "native" and not self.plain:
            self.first.running().compile()  # what it cannot run it refuses here, and not in the backward pass
        self._reach = Reach(forward, self.wrt, self.nodes)
        self.inputs = Inputs(forward)

    @cached_property
    def plain(self) -> bool:
        """Whether nothing is left to differentiate."""
        return not self.wrt or not any(o.tracked for o in self.results)

    @cached_property
    def shaped(self) -> bool:
        """Whether values decide shapes."""
        return any(what == "shape" for what, _ in self.decisions)

    @cached_property
    def overwritten(self) -> frozenset[int]:
        names = {o.name for o in self.graph.outputs if o.kind == "mutation"}
        return frozenset(k for k, i in enumerate(self.early) if i.name in names)

    # -- forward ---------------------------------------------------------------------------------------------------

    def __call__(self, args: Any, kwargs: Any, witness: Any = None) -> Any:
        """What the model returns. Raises DecisionChangedError where looks are compared and see something else.

        Args:
            witness: PyTorch's own run of this call, to compare the gradients with.
        """
        if not self.wakes:
            return self.launch(self.inputs.flat(args, kwargs), witness, (args, kwargs))
        bound = {i.name: i.bound for i in self.early if i.tensor is not None}
        woken = [t.requires_grad_() for t in self.effects.woken(bound, (args, kwargs))]  # ahead: autograd is to see it
        try:
            return self.launch(self.inputs.flat(args, kwargs), witness, (args, kwargs))
        except DecisionChangedError:  # another program is asked, for tensors as they were
            for tensor in woken:
                tensor.requires_grad_(False)
            raise

    def launch(self, flat: list[Any], witness: Any = None, arguments: Any = None) -> Any:
        """The same for the flat inputs; ``arguments`` are needed where there are any but tensors."""
        call = Call(self, flat)
        if witness is not None:
            call.witness = witness
        handed: Any = self._handed(call, flat)
        if self._only:
            return handed[0]
        values = {k: handed[at] for k, at in self.places.items()} | {k: flat[at] for k, at in self.passed.items()}
        left_behind = self.effects or self.effects.on_results
        run = self.effects.begin(self._left(values), self._bound(flat), arguments) if left_behind else None
        if self.mutations and call.written is not None:
            with torch.no_grad():
                for k, value in zip(self.mutations, call.written, strict=True):
                    flat[self._written_to[k]].copy_(value)
        for k, at in self.rewritten.items():
            flat[self._written_to[k]].copy_(handed[at])  # autograd goes on from it
        leaves = list(self.graph.calling.out_leaves)
        pairs = zip(self.graph.calling.tensor_out, self.graph.positions("output"), strict=True)
        tensors = {position: values[k] for position, k in pairs}
        for position, tensor in tensors.items():
            leaves[position] = tensor
        if run is not None:
            for position, value in self.effects.happen(run, tensors).items():
                leaves[position] = value
        return pytree.tree_unflatten(leaves, self.graph.calling.out_spec)

    def _left(self, values: dict[int, Any]) -> list[Any]:
        return [values[k] for k in self.graph.positions("left")]

    def _bound(self, flat: list[Any]) -> dict[str, Any]:
        return {i.name: t for i, t in zip(self.early, flat, strict=True)}

    def _handed(self, call: Call, flat: list[Any]) -> Any:
        """The results of a run on ``flat``, as autograd hands them out."""
        if self.plain:
            with torch.no_grad():
                handed, call.written, _ = self.first.running().start(call, flat)
            return handed
        running = self.first.running() if self.settings.memory_budget is None else self.running()
        call.groups = self._ends.groups(running, self.expected.last, flat)
        return self._run(call, running, flat) if not self.devices else self._drawn(call, running, flat)

    def _run(self, call: Call, running: Any, flat: list[Any]) -> Any:
        first, *others = call.groups
        if not others:
            return through(call, running, *self._ends.alone(flat))
        return through(call, running, *[flat[k] for k in first], *linked(others, flat, self._device))

    def _drawn(self, call: Call, running: Any, flat: list[Any]) -> Any:
        """The same where random numbers are drawn. Until it is known what is to be remembered of a call, they may have
        to be drawn again: then this thread draws them alone."""
        if call.witness is None and self.expected.asked:
            handed = self._run(call, running, flat)
            call.behind = states(self.devices)
            return handed
        call.drawn = states(self.devices) if call.witness is None else call.witness.drawn_on(self.devices)
        with drawing(call.drawn) as own:
            handed = self._run(call, running, flat)
        for state, device in call.drawn:
            go_on(state, own[device], device)
        return handed

    @cached_property
    def _device(self) -> torch.device:
        """Where the first result lies."""
        return self.nodes[0].meta["val"].device

    @cached_property
    def _only(self) -> bool:
        """Whether one tensor is all that comes out of a call, and nothing is written."""
        one = self.graph.calling.out_spec.is_leaf() and len(self.places) == len(self.results) == 1 and not self.passed
        return one and not (self.effects or self.effects.on_results or self.mutations or self.rewritten)

    @cached_property
    def _written_to(self) -> dict[int, int]:
        names = [i.name for i in self.early]
        return {k: names.index(self.graph.outputs[k].name) for k in self.graph.positions("mutation")}

    # -- backward --------------------------------------------------------------------------------------------------

    def running(self) -> Running | HeldOpen:
        """What a call runs now."""
        plan = self.settings.plan if self.settings.memory_budget is not None else None
        if plan is None:
            return self.first.running()
        question = self.expected.last
        if question not in self._plans:
            self._plans[question] = HeldOpen(self.forward, len(self.results), question, plan)
        return self._plans[question]

    @cached_property
    def forward(self) -> Graph:
        """What autograd sees: the results that are handed out, then what is written back."""
        graph, written = self.graph, [self.graph.results[k] for k in self.mutations]
        outputs = (*self.results, *(graph.outputs[k] for k in self.mutations))
        return graph.rewritten(results=[*self.nodes, *written], outputs=outputs)

    def _backend_for(self, backend: str) -> str:
        """``backend``, or ``eager`` for ``auto`` where the native one is not to be thought of."""
        why = refuse_shared_memory(self.nodes)
        if why is not None and backend == "native":
            raise BackendError(
                f"{why}, and the native backend writes each to memory of its own: return a copy (.clone())"
            )
        return "eager" if why is not None and backend == "auto" else backend

    def _begin(self) -> None:
        """Begin with what the program alone does."""
        sources = [k for k, i in enumerate(self.early) if i.name in self.wrt]
        self.first = Pass(self.forward, len(self.results), sources, self._backend)

    @cached_property
    def _ends(self) -> Ends:
        """The inputs that some result depends on: autograd knows of no others, nor does who looks for parameters that
        have no part in a call."""
        reached = self._reach.of([k for k, o in enumerate(self.results) if o.tracked])
        known = sorted(reached) or [k for k, i in enumerate(self.early) if i.name in self.wrt]
        sizes = {k: bytes_of(self.graph.placeholders[k]) for k in known}
        return Ends(sizes, {k for k in known if self.early[k].kind == "parameter"})

    def under_way(
        self, call: Call, running: Any, question: Question, saved: list[Any], arriving: Sequence[Any]
    ) -> UnderWay:
        """What a pass of this program is to answer, for autograd to take as it is computed where several nodes do."""
        further = torch.is_grad_enabled() or inside_torch_func() or any(map(is_batched, arriving))
        if len(call.groups) > 1 and call.witness is None and self.settings.watch is None and not further:
            self._see(running, question, further, own=True)
            parts = running.in_segments(call, question, saved, arriving)
            if parts is not None:
                return UnderWay(parts, partial(self._reach.one_as_autograd, call, question))
        return UnderWay([self.pulled(call, running, question, call.flat, saved, arriving)])

    def pulled(
        self,
        call: Call,
        running: Any,
        question: Question,
        inputs: Sequence[Any],
        saved: list[Any],
        arriving: Sequence[Any],
    ) -> dict[int, Any]:
        """What a pass of this program is to answer, by position of the input.

        Args:
            running: the pass, as it ran on ``inputs`` and remembered ``saved``.
            arriving: the cotangents of those of its results that the question names.
        """
        own, further = inputs is call.flat, torch.is_grad_enabled()
        many = any(map(is_batched, arriving))
        if many:
            self.settings.say_unplanned(many)
        if many and further:
            witness, call.witness = call.witness, None  # it draws directions, which nobody may do here
            gradients = one_by_one(
                lambda each: self.pulled(call, running, question, inputs, list(saved), each), arriving
            )
            call.witness = witness
            return gradients
        gradients = None
        drawn = Generators() if own and call.witness is not None else None
        if not inside_torch_func():
            self._see(running, question, further, own)
            gradients = running.answer(call, question, saved, arriving, further)
        foreseen = gradients is not None
        if gradients is None:
            gradients = self._unforeseen(call, running, question, inputs, arriving, further)
        if own:
            if not many:
                self.look(call, question, gradients.values(), arriving)
            self._reach.as_autograd(call, question, gradients)
        if foreseen and isinstance(running, Running) and len(call.groups) == 1:
            running.get_ready(question, further, call.groups[0] if own else range(len(inputs)), gradients)
        if own and call.witness is not None and max(question[0]) < len(self.results) and not many:
            witness, call.witness = call.witness, None
            witness.compare(call, question, arriving, gradients, further, drawn)
        return gradients

    def look(self, call: Call, question: Question, gradients: Iterable[Any], arriving: Sequence[Any]) -> None:
        """Raises NonFiniteError where gradients are watched, and one is not finite."""
        if self.settings.watch is not None and max(question[0]) < len(self.results):
            self.settings.watch.look(call, question, gradients, arriving)

    def as_foreseen(self, call: Call, running: Any, question: Question) -> bool:
        """Whether this question of the program's own pass, which was answered before, may be answered the same way."""
        if call.witness is not None or running.of is not self.first or len(call.groups) > 1:
            return False
        self.expected.last = question
        return True

    def _see(self, running: Any, question: Question, further: bool, own: bool) -> None:
        """Remember what was asked, for the next call."""
        if own and self.expected.see(question, further):
            self._begin()  # nothing of what was remembered for the guess
        if isinstance(running, Running):
            (self.first if own else running.of).see(question, further)

    def _unforeseen(
        self,
        call: Call,
        running: Any,
        question: Question,
        inputs: Sequence[Any],
        arriving: Sequence[Any],
        further: bool,
    ) -> dict[int, Any]:
        """The answer from what the pass was called with, which it computes again."""
        own = inputs is call.flat
        if own:
            call.primals()
        if isinstance(running, Running):
            return running.afresh(call, question, inputs, arriving)
        if further or inside_torch_func():
            self.settings.say_unplanned(many=not further)
            return self.first.running().afresh(call, question, inputs, arriving)
        assert self.settings.memory_budget is not None
        again = HeldOpen(self.forward, len(self.results), question, self.settings.plan)
        with call.generators():
            call = copy.copy(call)
            call.running = None
            again.start(call, inputs)
            return again.answer(call, question, [], arriving, further) or {}
