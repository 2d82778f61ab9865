"""Making a step's program: capture, differentiate, append what is done with the gradients, choose what runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import nn, optim

from memograd._torch import has_hooks, memory_of, note_step, pytree
from memograd.cautions import caution
from memograd.errors import CaptureError, DataDependentError, GraphError
from memograd.graph.graph import Graph
from memograd.graph.views import tensors_of
from memograd.looks import look
from memograd.ops import is_random
from memograd.pipeline import capture_for, differentiate, simplify
from memograd.run.choose import Choice
from memograd.tracing.undisturbed import Generators
from memograd.train.appended import Update, watched
from memograd.train.carried import Carried
from memograd.train.gather import Gather
from memograd.train.held import Held, tensors_in
from memograd.train.objective import refuse_other_losses
from memograd.train.outer_histories import refuse_held_histories
from memograd.train.program import Decision, Origin, Program, detached, positions, put_back
from memograd.train.rates import Rates
from memograd.train.refinements import Refinements
from memograd.train.update import prepare, why_not

Choose = Callable[[Graph, list[Any]], Choice]


@dataclass(frozen=True)
class Training:
    """What the programs of a step have in common.

    Attributes:
        rates: what of the optimizer's numbers are inputs.
        watch: whether programs say if they are finite, and write nothing where they are not.
    """

    objective: nn.Module
    optimizer: optim.Optimizer
    rates: Rates
    refinements: Refinements
    carried: Carried
    watch: bool = False

    @property
    def gathers(self) -> bool:
        """Whether an update has the gradients of several batches."""
        return self.refinements.accumulate > 1

    @property
    def trained(self) -> list[nn.Parameter]:
        """What the optimizer may update."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    def prepare(self) -> None:
        """Make whatever state the parameters will have, as far as it is ours to make."""
        self.carried.cover(self.trained)
        if self.gathers and why_not(self.optimizer) is None:
            for group in self.optimizer.param_groups:
                for p in group["params"]:
                    if p.requires_grad and p in self.carried.names:
                        prepare(self.optimizer, group, p)

    def beside(self, graph: Graph, also: int = 0) -> Graph:
        """``graph``, knowing how many bytes of what is carried and of the optimizer's state it does not read."""
        read = {memory_of(i.tensor) for i in graph.inputs if i.tensor is not None}
        states = (t for held in self.optimizer.state.values() for t in held.values() if isinstance(t, torch.Tensor))
        carried = chain(self.carried.averages.values(), self.carried.sums.values())
        others = [t.untyped_storage() for t in chain(states, carried)]
        sizes = {s.data_ptr(): s.nbytes() for s in others if s.data_ptr() not in read}
        return replace(graph, beside=sum(sizes.values()) + also)


def build(
    training: Training,
    batch: tuple[Any, ...],
    options: dict[str, Any],
    choose: Choose,
    concrete: bool = False,
    share: bool = True,
) -> Program:
    """Capture a step on this batch, differentiate it, append the update, or the sum of gradients that a later update
    will have, and let ``choose`` find what runs it.

    A model that decides by values is captured on those of this batch, at once where ``concrete``. ``share``: see
    ``Update``.

    Raises:
        GraphError: nothing the optimizer trains takes part.
    """
    objective, optimizer = training.objective, training.optimizer
    _say_of_histories((batch, options))
    drawn, state = Generators(objective), {p: dict(held) for p, held in optimizer.state.items()}
    forward, joint = differentiated(objective, optimizer, batch, options, concrete)
    if training.gathers and forward.effects.forgotten:
        raise CaptureError(
            f"the program sets {forward.effects.forgotten[0]} to None, and accumulate= is to add up gradients over "
            "several batches; leave one of the two out"
        )
    outside = _hooked(joint) or (not training.gathers and why_not(optimizer) is not None)
    try:
        stage, graph = _appended(training, joint, outside, share)
        choice = choose(graph, detached(graph.bind(batch, options)))
    except BaseException:
        put_back(optimizer, state)
        raise
    note_step(optimizer)
    bound = detached([i.tensor for i in graph.inputs])
    parameters = {i.name: i.tensor for i in joint.inputs if i.tensor is not None}
    return Program(
        graph=graph,
        choice=choice,
        bound=bound,
        held=Held(graph, tensors_in(optimizer) if isinstance(stage, Update) else ()),
        slots=[i for i, t in enumerate(bound) if t is None],
        gradients=_gradients(graph) if outside else [],
        decisions=_decisions(graph),
        updated=tuple(parameters[name] for name in joint.wrt if name not in joint.unused),
        share=share,
        devices=tuple({str(t.device) for n in graph.nodes if is_random(n) for t in tensors_of(n)}),
        left=positions(graph, "left"),
        origin=Origin(forward, joint, drawn, state),
        gathers=isinstance(stage, Gather),
        averages=len(training.carried.averages),
        norm=stage.norm if isinstance(stage, Update) else None,
        watched=(forward, joint) if training.watch else None,
        state_before=state,
    )


def _appended(training: Training, joint: Graph, outside: bool, share: bool) -> tuple[Gather | Update | None, Graph]:
    """The graph with what is done with its gradients, and who appended that: nobody where it is done ``outside``."""
    training.carried.name(joint)
    training.prepare()
    base = watched(joint) if training.watch else joint
    stage: Gather | Update | None = None
    if not outside and training.gathers:
        stage = Gather(base, training.carried)
    elif not outside:
        clip = training.refinements.clip
        stage = Update(base, training.optimizer, training.rates, share, clip, training.carried)
    return stage, training.beside(base if stage is None else simplify(stage.append()))


def differentiated(
    objective: nn.Module,
    optimizer: optim.Optimizer,
    batch: tuple[Any, ...],
    options: dict[str, Any],
    concrete: bool = False,
) -> tuple[Graph, Graph]:
    """The graph of the loss on this batch, and that of its gradients too: of every parameter that the optimizer
    trains, or whose hooks wait for it."""
    with torch.enable_grad():  # only parameters are differentiated
        forward = None
        if not concrete:
            with suppress(DataDependentError):
                forward = capture_for(objective, batch, options, wrt=(), united=True)
        if forward is None:
            forward = capture_for(objective, batch, options, wrt=(), concrete=True, united=True)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    parameters = {i.name: i.tensor for i in forward.inputs if i.kind == "parameter" and i.tensor is not None}
    if not any(id(p) in trained for p in parameters.values()):
        raise GraphError("no trainable parameter takes part in this step")
    refuse_other_losses(forward)
    refuse_held_histories(forward, [p for group in optimizer.param_groups for p in group["params"]])
    names = [n for n, p in parameters.items() if id(p) in trained or (p.requires_grad and has_hooks(p))]
    return forward, differentiate(forward, names)


def _say_of_histories(batch: Any) -> None:
    if any(isinstance(x, torch.Tensor) and x.grad_fn is not None for x in pytree.tree_leaves(batch)):
        caution(
            "a tensor of the batch was computed of others that require a gradient, and a step sends none there: what "
            "is trained in front of the step belongs into its model; where nothing is, pass x.detach()"
        )


def _hooked(joint: Graph) -> bool:
    return any(i.tensor is not None and has_hooks(i.tensor) for i in joint.inputs if i.name in joint.wrt)


def _decisions(graph: Graph) -> tuple[Decision, ...]:
    looks = {n.args[1]: n for n in graph.nodes if n.target is look}
    ordered: list[Any] = [looks[index] for index in sorted(looks)]  # pyright: ignore[reportArgumentType]
    return tuple(Decision(n.args[2], n.args[3], n.meta.get("source", "?"), n.meta.get("line", "")) for n in ordered)


def _gradients(graph: Graph) -> list[tuple[nn.Parameter, int]]:
    """Each parameter and where its gradient stands among the results that are no mutations."""
    by_name: dict[str, Any] = {i.name: i.tensor for i in graph.inputs}
    names = [graph.outputs[i].name for i in graph.positions("gradient")]
    return [(by_name[name], at) for name, at in zip(names, positions(graph, "gradient"), strict=True)]
