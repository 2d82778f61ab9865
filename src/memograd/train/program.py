"""The program of a step: the graph of forward, loss, backward and update for one signature, and what it is bound to.

A program may run again as long as everything it was made from is as it was: the batch's geometry and what a forward
may branch on are in its ``key``; what lies in memory (the model's tensors, the optimizer's state) is compared at each
step by ``stale``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import nn, optim

from memograd._torch import has_hooks
from memograd.errors import DataDependentError, GraphError
from memograd.graph.entries import OutputKind
from memograd.graph.graph import Graph
from memograd.graph.signature import refuse_shared
from memograd.graph.views import tensors_of
from memograd.looks import look
from memograd.ops import is_random
from memograd.pipeline import capture_for, differentiate, simplify
from memograd.run.choose import Choice
from memograd.tracing.reuse import ambient, signature
from memograd.tracing.undisturbed import Generators
from memograd.train.update import Update, why_not

_NOT_BAKED = frozenset({"params", "lr", "initial_lr"})  # params by identity


Compare = Callable[["Program", list[Any]], Sequence[torch.Tensor] | None]


@dataclass(frozen=True)
class Decision:
    """A look of the model at a value (or at a shape that values decide)."""

    what: str
    seen: str
    source: str
    line: str

    @property
    def text(self) -> str:
        return f"{self.source} ({self.line}) looked at a {self.what} and saw {self.seen}"


@dataclass
class Origin:
    """What a program was made of, for who compares it with PyTorch."""

    forward: Graph
    joint: Graph
    drawn: Generators | None  # before it was captured
    state: dict[Any, dict[str, Any]]  # of the optimizer, before it was prepared

    def undo(self, optimizer: optim.Optimizer) -> None:
        """As if nothing had been captured."""
        _put_back(optimizer, self.state)
        if self.drawn is not None:
            self.drawn.put_back()


@dataclass(eq=False)
class Program:
    """The compiled step for one signature."""

    graph: Graph
    choice: Choice
    bound: list[Any]  # the flat inputs, detached; None where the batch goes
    owners: list[tuple[torch.Tensor, int]]  # whose memory they are, and its address
    slots: list[int]  # positions of the batch in it
    state: list[tuple[torch.Tensor, str, torch.Tensor]]  # optimizer state the graph is bound to
    gradients: list[tuple[nn.Parameter, int]]  # for an optimizer outside the graph: where each gradient is
    decisions: tuple[Decision, ...]  # what the model decided by values, in order
    devices: tuple[str, ...]  # whose generators it draws from
    updated: frozenset[int]  # the parameters, by id
    share: bool  # they have step counters in common
    left: list[int]  # where the results are that the forward leaves behind
    origin: Origin | None  # until it was compared with PyTorch

    def stale(self, optimizer: optim.Optimizer) -> bool:
        """Whether something the graph is bound to is no longer where it was."""
        held = optimizer.state
        if any(p not in held or held[p].get(k) is not t for p, k, t in self.state):
            return True  # load_state_dict put new tensors in place
        # the model was moved, or a parameter's .data replaced
        return any(owner.data_ptr() != address for owner, address in self.owners)

    @property
    def shaped(self) -> bool:
        """Whether values decide shapes."""
        return any(d.what == "shape" for d in self.decisions)

    def _bind(self) -> None:
        """Look up the tensors in whose places the user, or the last step, has put others."""
        for k, entry in enumerate(self.graph.inputs):
            if entry.place is not None and entry.bound is not None:
                self.bound[k] = entry.bound.detach()
        self.graph.guards.moved = False

    def step(
        self, batch: tuple[Any, ...], options: dict[str, Any], compare: Compare | None = None
    ) -> list[torch.Tensor]:
        """One step, with what the forward leaves behind in the model; returns the results that are no mutations.
        ``compare`` may run it first, without its effects, and hand over what it computed."""
        flat, backend = self.flat(batch, options), self.choice.backend
        computed = compare(self, flat) if compare is not None else None
        results = backend.step(flat) if computed is None else backend.commit(flat, computed)
        if self.graph.effects:
            self.graph.leave([results[i] for i in self.left], flat)
        return results

    def flat(self, batch: tuple[Any, ...], options: dict[str, Any]) -> list[Any]:
        """The flat inputs of this step, detached."""
        if options or not _only_tensors(batch):
            return detached(self.graph.bind(batch, options))
        self.graph.check_offsets(batch)
        if self.graph.guards.moved:
            self._bind()
        flat = self.bound.copy()
        for slot, tensor in zip(self.slots, batch, strict=True):
            flat[slot] = tensor.detach() if tensor.requires_grad else tensor
        if self.writes_batch or not self.memory.isdisjoint([t.untyped_storage().data_ptr() for t in batch]):
            refuse_shared(self.graph.inputs, self.graph.outputs, flat)
        return flat

    @cached_property
    def writes_batch(self) -> bool:
        """Whether the model writes to its arguments."""
        written = {o.name for o in self.graph.outputs if o.kind == "mutation"}
        return any(self.graph.inputs[k].name in written for k in self.slots)

    @cached_property
    def memory(self) -> frozenset[int]:
        """Where what the step writes to lies: a batch must not lie there."""
        written = {o.name for o in self.graph.outputs if o.kind == "mutation"}
        pairs = zip(self.graph.inputs, self.bound, strict=True)
        return frozenset(t.untyped_storage().data_ptr() for i, t in pairs if t is not None and i.name in written)


class Updates:
    """Which parameters the steps of an optimizer have updated: while it is the same ones each time, parameters that had
    equal step counters once have them for ever."""

    _OF: ClassVar[WeakKeyDictionary[optim.Optimizer, Updates]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.parameters: frozenset[int] | None = None
        self.alike = True

    @classmethod
    def of(cls, optimizer: optim.Optimizer) -> Updates:
        """Those of ``optimizer``, whoever makes its steps."""
        return cls._OF.setdefault(optimizer, cls())

    def note(self, parameters: frozenset[int]) -> bool:
        """A step will update ``parameters``; whether all steps still do the same."""
        if self.parameters is None:
            self.parameters = parameters
        self.alike &= self.parameters == parameters
        return self.alike


def geometry(batch: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What the batch decides of a program."""
    if not options and _only_tensors(batch):
        return tuple([(b.shape, b.stride(), b.dtype, b.device) for b in batch])
    return signature(batch, options)


def settings(optimizer: optim.Optimizer) -> Any:
    """What of the optimizer is baked into the graph (which parameters it holds, all hyperparameters but the learning
    rate, whether it is called itself), and ambient modes."""
    groups = [
        (*map(id, g["params"]), *[(k, v) for k, v in g.items() if k not in _NOT_BAKED]) for g in optimizer.param_groups
    ]
    itself = (
        bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks),
        "step" in vars(optimizer),
    )
    return (tuple(groups), itself, ambient())


def build(
    objective: nn.Module,
    optimizer: optim.Optimizer,
    rates: list[torch.Tensor],
    batch: tuple[Any, ...],
    options: dict[str, Any],
    choose: Callable[[Graph, list[Any]], Choice],
    concrete: bool = False,
    share: bool = True,
) -> Program:
    """Capture a step on this batch, differentiate it, append the update, and let ``choose`` find what runs it.

    A model that decides by values is captured on those of this batch, at once where ``concrete``. ``share``: see
    ``Update``.

    Raises:
        GraphError: nothing the optimizer trains takes part.
    """
    drawn, state = Generators(objective), {p: dict(held) for p, held in optimizer.state.items()}
    forward, joint = differentiated(objective, optimizer, batch, options, concrete)
    outside = _hooked(joint) or why_not(optimizer) is not None
    try:
        graph = joint if outside else simplify(Update(joint, optimizer, rates, share).append())
        choice = choose(graph, detached(graph.bind(batch, options)))
    except BaseException:
        _put_back(optimizer, state)
        raise
    optimizer._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]  # what schedulers look at
    bound = detached([i.tensor for i in graph.inputs])
    parameters = {i.name: i.tensor for i in joint.inputs}
    return Program(
        graph=graph,
        choice=choice,
        bound=bound,
        owners=[(i.tensor, i.tensor.data_ptr()) for i in graph.inputs if i.tensor is not None],
        slots=[i for i, t in enumerate(bound) if t is None],
        state=[] if outside else _state(optimizer),
        gradients=_gradients(graph) if outside else [],
        decisions=_decisions(graph),
        updated=frozenset(id(parameters[name]) for name in joint.wrt if name not in joint.unused),
        share=share,
        devices=tuple({str(t.device) for n in graph.nodes if is_random(n) for t in tensors_of(n)}),
        left=_positions(graph, "left"),
        origin=Origin(forward, joint, drawn, state),
    )


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
                forward = capture_for(objective, batch, options, wrt=())
        if forward is None:
            forward = capture_for(objective, batch, options, wrt=(), concrete=True)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    parameters = {i.name: i.tensor for i in forward.inputs if i.kind == "parameter" and i.tensor is not None}
    if not any(id(p) in trained for p in parameters.values()):
        raise GraphError("no trainable parameter takes part in this step")
    names = [n for n, p in parameters.items() if id(p) in trained or (p.requires_grad and has_hooks(p))]
    return forward, differentiate(forward, names)


def _hooked(joint: Graph) -> bool:
    return any(i.tensor is not None and has_hooks(i.tensor) for i in joint.inputs if i.name in joint.wrt)


def _put_back(optimizer: optim.Optimizer, state: dict[Any, dict[str, Any]]) -> None:
    """Forget what was prepared in the optimizer's state since."""
    for p in list(optimizer.state):
        if p in state:
            optimizer.state[p] = {**optimizer.state[p], **state[p]}
            for key in optimizer.state[p].keys() - state[p].keys():
                del optimizer.state[p][key]
        else:
            del optimizer.state[p]


def _decisions(graph: Graph) -> tuple[Decision, ...]:
    looks = {n.args[1]: n for n in graph.nodes if n.target is look}
    ordered: list[Any] = [looks[index] for index in sorted(looks)]  # pyright: ignore[reportArgumentType]
    return tuple(Decision(n.args[2], n.args[3], n.meta.get("source", "?"), n.meta.get("line", "")) for n in ordered)


def _gradients(graph: Graph) -> list[tuple[nn.Parameter, int]]:
    """Each parameter and where its gradient stands among the results that are no mutations."""
    by_name: dict[str, Any] = {i.name: i.tensor for i in graph.inputs}
    names = [graph.outputs[i].name for i in graph.positions("gradient")]
    return [(by_name[name], at) for name, at in zip(names, _positions(graph, "gradient"), strict=True)]


def _positions(graph: Graph, kind: OutputKind) -> list[int]:
    """Where the results of a kind stand among those that are no mutations."""
    return [at for at, o in enumerate(o for o in graph.outputs if o.kind != "mutation") if o.kind == kind]


def _state(optimizer: optim.Optimizer) -> list[tuple[torch.Tensor, str, torch.Tensor]]:
    """Every tensor of the optimizer's state, with its parameter and its name."""
    return [
        (p, key, tensor)
        for group in optimizer.param_groups
        for p in group["params"]
        if p in optimizer.state
        for key, tensor in optimizer.state[p].items()
        if isinstance(tensor, torch.Tensor)
    ]


def detached(flat: list[Any]) -> list[Any]:
    return [t.detach() if isinstance(t, torch.Tensor) else t for t in flat]


def _only_tensors(batch: tuple[Any, ...]) -> bool:
    return all(type(b) is torch.Tensor for b in batch)
