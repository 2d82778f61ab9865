"""The program of a step: the graph of forward, loss, backward and update for one signature, and what it is bound to.
``build.py`` makes it.

A program may run again as long as everything it was made from is as it was: the batch's geometry and what a forward
may branch on are in its ``key``; what lies in memory (the model's tensors, the optimizer's state) is compared at each
step by ``stale``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn, optim

from memograd import finite
from memograd._torch import has_hooks, has_step_hooks, memory_of, pytree
from memograd.draws import states, undone_on_error
from memograd.errors import GraphError
from memograd.finite import TrippedError
from memograd.graph.bits import has_bits, worked_out
from memograd.graph.entries import OutputKind
from memograd.graph.graph import Graph
from memograd.graph.signature import refuse_shared
from memograd.run.choose import Choice
from memograd.tracing.reuse import ambient, places, signature
from memograd.tracing.undisturbed import Generators
from memograd.train.held import Held
from memograd.train.rates import Rates

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
        put_back(optimizer, self.state)
        if self.drawn is not None:
            self.drawn.put_back()


@dataclass(eq=False)
class Program:
    """The compiled step for one signature."""

    graph: Graph
    choice: Choice
    bound: list[Any]  # the flat inputs, detached; None where the batch goes
    held: Held  # whose memory they are, and the optimizer's state it is bound to
    slots: list[int]  # positions of the batch in it
    gradients: list[tuple[nn.Parameter, int]]  # for an optimizer outside the graph: where each gradient is
    decisions: tuple[Decision, ...]  # what the model decided by values, in order
    devices: tuple[str, ...]  # whose generators it draws from
    updated: tuple[torch.Tensor, ...]  # the parameters that have gradients
    share: bool  # they have step counters in common
    left: list[int]  # where the results are that the forward leaves behind
    origin: Origin | None  # until it was compared with PyTorch
    gathers: bool = False  # it adds gradients up for a later update
    averages: int = 0  # of how many parameters, when it was made
    norm: torch.Tensor | None = None  # where it writes that of its gradients
    watched: tuple[Graph, Graph] | None = None  # what it differentiates and that with its gradients, if it is watched
    state_before: dict[Any, dict[str, Any]] | None = None  # of the optimizer, before it was prepared; until it has run
    begun: tuple[list[Any], list[tuple[torch.Tensor, str]]] | None = None  # its last step: inputs, generators before it

    def stale(self, optimizer: optim.Optimizer) -> bool:
        """Whether something the graph is bound to is no longer where it was."""
        return self.held.elsewhere(optimizer)

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
        if self.watched is None:
            computed = compare(self, flat) if compare is not None else None
            results = backend.step(flat) if computed is None else backend.commit(flat, computed)
        else:
            results = self._watched(flat, compare)
        if self.graph.effects:
            self.graph.leave([results[i] for i in self.left], flat, (batch, options))
        return results

    def _watched(self, flat: list[Any], compare: Compare | None) -> list[torch.Tensor]:
        """The same for a step that may turn out not to be finite: nothing has happened then."""
        backend = self.choice.backend
        if self.is_read_late:
            self.begun = (flat, states(self.devices))
        try:
            with undone_on_error(self.devices) if self.devices else nullcontext():
                computed = compare(self, flat) if compare is not None else None
                results = backend.step(flat) if computed is None else backend.commit(flat, computed)
        except TrippedError as error:
            error.program, error.flat = self, flat
            raise
        self.state_before = None
        return results

    @cached_property
    def is_read_late(self) -> bool:
        """Whether nobody waits for the flag, since an accelerator computes it."""
        flags = [self.graph.results[k].meta["val"].device for k in self.graph.positions("flag")]
        return any(map(finite.is_asynchronous, flags))

    def flat(self, batch: tuple[Any, ...], options: dict[str, Any]) -> list[Any]:
        """The flat inputs of this step, detached."""
        if options or not _only_tensors(batch):
            refuse_waiting(pytree.tree_leaves((batch, options)))
            return detached(self.graph.bind(batch, options))
        self.graph.check_offsets(batch)
        if self.graph.guards.moved:
            self._bind()
        flat = self.bound.copy()
        for k in self.with_bits:
            flat[k] = worked_out(flat[k])
        for slot, tensor in zip(self.slots, batch, strict=True):
            if tensor.requires_grad:
                refuse_waiting([tensor])
                tensor = tensor.detach()
            flat[slot] = tensor
        if self.writes_batch or not self.memory.isdisjoint([memory_of(t) for t in batch]):
            refuse_shared(self.graph.inputs, self.graph.written, flat)
        return flat

    @cached_property
    def with_bits(self) -> list[int]:
        """What it is bound to that is worked out anew for each step: conjugated buffers."""
        return [k for k, i in enumerate(self.graph.inputs) if i.tensor is not None and has_bits(i.tensor)]

    @cached_property
    def writes_batch(self) -> bool:
        """Whether the model writes to its arguments."""
        return any(self.graph.inputs[k].name in self.graph.written for k in self.slots)

    @cached_property
    def memory(self) -> frozenset[int]:
        """Where what the step writes to lies: a batch must not lie there."""
        pairs = zip(self.graph.inputs, self.bound, strict=True)
        return frozenset(memory_of(t) for i, t in pairs if t is not None and i.name in self.graph.written)


def refuse_waiting(leaves: Iterable[Any]) -> None:
    """Raises GraphError where hooks wait for the gradient of a tensor of the batch, which no step computes."""
    if any(isinstance(x, torch.Tensor) and x.requires_grad and has_hooks(x) for x in leaves):
        raise GraphError(
            "a hook waits for the gradient of a tensor of the batch, and a step has the gradients of its parameters "
            "alone: wrap the model (mg.wrap) and train it in a loop of your own, or pass x.detach()"
        )


def geometry(batch: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What the batch decides of a program."""
    if not options and _only_tensors(batch):
        each = [(b.shape, b.stride(), b.storage_offset() != 0, b.dtype, b.device, b.requires_grad) for b in batch]
        return tuple(each), places(batch)
    return signature(batch, options)


def settings(optimizer: optim.Optimizer, rates: Rates) -> Any:
    """What of the optimizer is baked into the graph (which parameters it holds, its options, whether it is called
    itself), and ambient modes."""
    itself = (has_step_hooks(optimizer), "step" in vars(optimizer))
    return (rates.baked(), itself, ambient())


def put_back(optimizer: optim.Optimizer, state: dict[Any, dict[str, Any]]) -> None:
    """Forget what was prepared in the optimizer's state since."""
    for p in list(optimizer.state):
        if p in state:
            optimizer.state[p] = {**optimizer.state[p], **state[p]}
            for key in optimizer.state[p].keys() - state[p].keys():
                del optimizer.state[p][key]
        else:
            del optimizer.state[p]


def positions(graph: Graph, kind: OutputKind) -> list[int]:
    """Where the results of a kind stand among those that are no mutations."""
    return [at for at, o in enumerate(o for o in graph.outputs if o.kind != "mutation") if o.kind == kind]


def detached(flat: list[Any]) -> list[Any]:
    return [t.detach() if isinstance(t, torch.Tensor) else t for t in flat]


def _only_tensors(batch: tuple[Any, ...]) -> bool:
    return all([type(b) is torch.Tensor and _is_dense(b) and not b.__dict__ for b in batch])


def _is_dense(b: torch.Tensor) -> bool:
    return b.layout is torch.strided and not (b.is_nested or b.is_conj() or b.is_neg())
