"""What runs for one signature of a wrapped model: its graph, as one step of autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from memograd._torch import pytree
from memograd.draws import drawing, go_on, states
from memograd.frontend.between import Between
from memograd.frontend.boundary import Call, through
from memograd.frontend.chain import linked
from memograd.frontend.derivatives import Derivatives
from memograd.frontend.inputs import Inputs
from memograd.frontend.results import Results, refuse_histories
from memograd.frontend.settings import Settings
from memograd.graph.views import tensors_of
from memograd.looks import DecisionChangedError, look
from memograd.ops import is_random
from memograd.pipeline import capture_for

Tensor = torch.Tensor


class Program(Derivatives):
    """The graph of ``function(*args, **kwargs)``: what a call of it returns and leaves behind.

    Attributes:
        overwritten: positions of inputs that it writes to, and whose old value a derivative may need.
        devices: whose generators it draws from.
        decisions: its looks at values, as they were seen, in order.
        inputs: makes the flat inputs of a call's arguments.
    """

    def __init__(
        self, function: Callable[..., Any], args: Any, kwargs: Any, concrete: bool, settings: Settings
    ) -> None:
        leaves = pytree.tree_leaves((args, kwargs))
        tracked = [k for k, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad]
        forward = capture_for(function, args, kwargs, tracked, concrete, united=True, in_autograd=True)
        refuse_histories(forward)
        self.guards, self.effects = forward.guards, forward.effects
        given = iter([leaves[k] for k in forward.calling.tensor_in])
        values = [i.bound if i.tensor is not None else next(given) for i in forward.inputs]
        self.wakes = any(i.woken for i in forward.inputs)
        self.devices = tuple({str(t.device) for n in forward.nodes if is_random(n) for t in tensors_of(n)})
        looks: list[Any] = sorted((n for n in forward.nodes if n.target is look), key=lambda n: n.args[1])  # pyright: ignore[reportArgumentType]
        self.decisions = tuple((n.args[2], n.args[3]) for n in looks)
        handed = Results(forward)
        self.places, self.passed, self.rewritten = handed.places, handed.passed, handed.rewritten
        super().__init__(forward, handed, values, settings)
        self.inputs = Inputs(forward)

    @cached_property
    def shaped(self) -> bool:
        """Whether values decide shapes."""
        return any(what == "shape" for what, _ in self.decisions)

    @cached_property
    def overwritten(self) -> frozenset[int]:
        return frozenset(k for k, i in enumerate(self.early) if i.name in self.graph.written)

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
        if witness is not None:
            witness.drew()
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
            handed = through(call, running, *self._ends.alone(flat))
        else:
            handed = through(call, running, *[flat[k] for k in first], *linked(others, flat, self._device))
        return self.between.tied(call, handed) if self.between.sources else handed

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
    def between(self) -> Between:
        """The ways from one result to another."""
        return Between(self.graph, self.nodes, [k for k, o in enumerate(self.results) if o.tracked], self._backend)

    @cached_property
    def _only(self) -> bool:
        """Whether one tensor is all that comes out of a call, and nothing is written."""
        one = self.graph.calling.out_spec.is_leaf() and len(self.places) == len(self.results) == 1 and not self.passed
        return one and not (self.effects or self.effects.on_results or self.mutations or self.rewritten)

    @cached_property
    def _written_to(self) -> dict[int, int]:
        names = [i.name for i in self.early]
        return {k: names.index(self.graph.outputs[k].name) for k in self.graph.positions("mutation")}
