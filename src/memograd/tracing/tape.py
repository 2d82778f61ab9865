"""The tape: which tensor stands for which node of the graph that is written (``writer.py``).

A program runs on stand-ins, never on the user's tensors, so that tracing computes nothing twice and writes to nothing.
Usually they are fake tensors: shapes without data. A *concrete* tape's stand-ins are copies with data, for programs
whose shape or control flow depends on values; nodes are documented by fake tensors all the same.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd._torch import is_fake, is_lent
from memograd.errors import CaptureError
from memograd.tracing.mutation import Alias, Detached, Storage, write_back
from memograd.tracing.own_tensors import OwnTensors
from memograd.tracing.provenance import caller
from memograd.tracing.view_steps import Step
from memograd.tracing.writer import Writer, map_tensors

aten = torch.ops.aten


class Tape(Writer):
    """Appends nodes to ``graph``, and knows the tensors that stand for them.

    Args:
        graph: receives the nodes; its insertion point decides where.
        lift: called with a real tensor that the program uses without having been given it; returns its
            stand-in. Without it such a tensor is an error.
        stops: respect grad mode (true for user programs, false for rules, which run with autograd off).
        concrete: the stand-ins have data.
    """

    def __init__(
        self,
        graph: fx.Graph,
        lift: Callable[[torch.Tensor], torch.Tensor] | None = None,
        stops: bool = False,
        concrete: bool = False,
    ) -> None:
        super().__init__(graph, stops, concrete)
        self.lift = lift
        self.looks = 0  # how often the program has looked at a value so far
        self.adopt: Callable[[torch.Tensor], torch.Tensor] | None = None  # a tensor of the user's as a further input
        self._inputs: dict[fx.Node, torch.Tensor] = {}
        self._known: dict[int, Alias] = {}  # by id; each Alias keeps its tensor alive, so ids stay unique
        self._saved: dict[tuple[Any, int], fx.Node] = {}  # by autograd's name of a result: what was kept for backward
        self.moved: dict[Storage, Alias] = {}  # tensors whose .data was set, by the storage they had before
        self._raw: dict[int, torch.Tensor] = {}  # by id: memory the program has allocated and not used so far
        self._own = OwnTensors()
        self.applied: list[Any] = []  # applications of autograd.Functions under way, see ``applications.py``
        # By id: a tensor that was turned while others look at its memory, and the view that it is now (``turned.py``).
        self.turned: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.unseen: dict[int, torch.Tensor] = {}  # by id: views that autograd has made of such a tensor as it was

    # -- which tensor is which node ------------------------------------------------------------------------------

    def bind(self, tensor: torch.Tensor, node: fx.Node) -> torch.Tensor:
        """Let ``tensor`` stand for the value of ``node``, from now on."""
        self._known[id(tensor)] = Alias(tensor, Storage(tensor, node))
        return tensor

    def settle(self, tensor: torch.Tensor, node: fx.Node, written: bool = False) -> None:
        """Let ``node`` be the value of ``tensor``, which has the memory it had; ``written``: and be written to that, in
        the sight of autograd."""
        alias = self._alias_of(tensor)
        if written:
            write_back(alias, node, None, self._emit)
        elif alias.chain:
            alias.node, alias.version = node, alias.storage.memory.version
        else:
            alias.storage.settle(node)
        if tensor.grad_fn is not None:
            self._saved[tensor.grad_fn, tensor.output_nr] = node

    def present(self, tensor: torch.Tensor) -> torch.Tensor:
        """What the program means by ``tensor``: itself, unless it was turned."""
        while (pair := self.turned.get(id(tensor))) is not None:
            tensor = pair[1]
        return tensor

    def met_before_turn(self, *trees: Any) -> bool:
        """Whether one of the tensors is as it was before a turn."""
        met: list[torch.Tensor] = []
        map_tensors(met.append, trees)
        return any(id(tensor) in self.turned or id(tensor) in self.unseen for tensor in met)

    def is_looked_at(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor``, of the program's own, is a view or has views."""
        alias = self._known.get(id(tensor))
        if alias is None or (self.is_given(tensor) and not alias.chain):
            return False
        memory = alias.storage.memory
        return any(other is not alias and other.storage.memory is memory for other in self._known.values()) or bool(
            alias.chain
        )

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Whatever stood for ``old`` stands for ``new``."""
        for alias in self._known.values():
            if alias.node is old:
                alias.node = new
            if alias.storage.node is old:
                alias.storage.node = new
        self._saved.update({result: new for result, node in self._saved.items() if node is old})

    def forget(self, tensor: torch.Tensor) -> None:
        """``tensor`` stands for nothing any more."""
        self._known.pop(id(tensor), None)

    @property
    def count(self) -> int:
        """How many tensors were seen."""
        return len(self._known)

    def count_until(self, tensor: torch.Tensor) -> int:
        """How many tensors were seen until ``tensor`` was."""
        return next(k for k, one in enumerate(self._known, 1) if one == id(tensor))

    def seen_since(self, count: int) -> set[int]:
        """Ids of the tensors that were seen after the first ``count``."""
        return set(islice(self._known, count, None))

    def is_own(self, tensor: torch.Tensor) -> bool:
        """Whether the program computes on ``tensor`` itself, since it is none of the user's."""
        alias = self._known.get(id(self.present(tensor)))
        return is_fake(tensor) or (alias is not None and (bool(alias.chain) or alias.storage.tensor is tensor))

    def standing_for(self, nodes: set[fx.Node]) -> dict[int, torch.Tensor]:
        """The program's tensors that stand for one of ``nodes``, by id."""
        aliases = [a for a in self._known.values() if (a.node if a.chain else a.storage.node) in nodes]
        return {id(a.tensor): a.tensor for a in aliases if self.is_own(a.tensor) and id(a.tensor) not in self.turned}

    def alias(self, tensor: torch.Tensor, other: torch.Tensor) -> None:
        """Let ``tensor`` stand for the same memory as ``other``."""
        self._known[id(tensor)] = Alias(tensor, self._known[id(self.present(other))].storage)

    def lent(self, tensor: torch.Tensor, real: torch.Tensor) -> None:
        """``tensor`` stands for ``real``, which the program has made itself. If its memory is another library's
        (``from_numpy``), nobody can tell whether that is new at each run or kept by the user: it may not be written to.
        """
        self._known[id(tensor)].storage.memory.lent = is_lent(real)

    def raw(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` is fresh memory: C++ code may fill it behind the dispatcher's back (``at::tensor`` does), so that
        what it holds when it is first used is a constant of the program."""
        self._raw[id(tensor)] = tensor
        return tensor

    def input(self, node: fx.Node) -> torch.Tensor:
        """The tensor by which rules refer to ``node``."""
        if node not in self._inputs:
            value = node.meta["val"]
            # several nodes may share one value of metadata; tensors must tell them apart
            self._inputs[node] = self.bind(self.like(value) if id(value) in self._known else value, node)
        return self._inputs[node]

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """The node that computes the present value of ``tensor``."""
        tensor = self.present(tensor)
        alias = self._alias_of(tensor)
        if _is_copy(alias) and tensor.grad_fn is not None:
            self.bind(tensor, self._saved_value(tensor))
            alias = self._known[id(tensor)]
        return alias.refresh(self._emit)

    def _saved_value(self, tensor: torch.Tensor) -> fx.Node:
        """The value of ``tensor``, which was detached and has a history all the same: autograd gives that back to
        what it has saved for a backward, when the backward reads it."""
        result = (tensor.grad_fn, tensor.output_nr)
        if result not in self._saved:  # it was given to somebody's saved_tensors_hooks (checkpointing) and not detached
            for other in list(self._known.values()):
                t = other.tensor
                if t.requires_grad and t.grad_fn is result[0] and t.output_nr == result[1] and not _is_copy(other):
                    self._saved[result] = other.refresh(self._emit)
        if result not in self._saved:
            source, line = caller()
            raise CaptureError(
                f"a backward at {source} ({line}) reads a result of {tensor.grad_fn} that the program never had; take "
                "the gradient with memograd.grad instead of torch.autograd"
            )
        return self._saved[result]

    def assign(self, tensor: torch.Tensor, new: torch.Tensor) -> None:
        """``tensor.data = new``: the memory of ``new`` with the history that ``tensor`` has."""
        if self.stand_in(tensor) is self.stand_in(new):  # ``module.to(device)``, where it is there already
            return
        node, value = self.node_of(tensor), self.node_of(new)
        written = self._emit(ops.overwrite, (node, value), {}, self.stand_in(tensor))
        origin = self._alias_of(tensor)
        self._known[id(tensor)] = alias = self._alias_of(new).detached(tensor, written, untouched=False)
        if not origin.chain and isinstance(origin.storage, Storage):
            self.moved[origin.storage] = alias

    def stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        """What to compute on in place of ``tensor``: itself, unless it is the user's."""
        if is_fake(tensor):
            return self.present(tensor)
        alias = self._alias_of(tensor)
        return tensor if alias.chain else alias.storage.tensor

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` stands for the value of a node."""
        return id(tensor) in self._known

    def knows_id(self, of: int) -> bool:
        """The same by the id of a tensor."""
        return of in self._known

    def is_given(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` looks at memory that the program was given, and did not make itself."""
        alias = self._known.get(id(self.present(tensor)))
        return alias is not None and alias.storage.memory.origin.op == "placeholder"

    def memory_of(self, tensor: torch.Tensor) -> tuple[torch.Tensor, list[Step], bool]:
        """The tensor as which the memory was first seen that ``tensor`` looks at, the views that lead there, and
        whether ``tensor`` has a history of its own."""
        alias, way, apart = self._known[id(self.present(tensor))], [], False
        while isinstance(alias.storage, Detached):
            way = [*(step for step, _ in alias.chain), *way]
            alias, apart = alias.storage.source, True
        if alias.storage in self.moved:
            return tensor, [], False
        return alias.storage.tensor, [*(step for step, _ in alias.chain), *way], apart

    def written(self, tensor: torch.Tensor) -> bool:
        """Whether the memory of ``tensor`` has been written to."""
        return self._known[id(self.present(tensor))].storage.memory.version > 0

    def storages(self) -> Iterator[Storage]:
        """Every storage seen, each once."""
        return iter(dict.fromkeys(alias.storage.memory for alias in self._known.values()))

    def item(self, node: fx.Node, index: int) -> torch.Tensor:
        """One output of a node with several, as a tensor."""
        parts = [u for u in node.users if u.target is operator.getitem and u.args[1] == index]
        return self.input(
            parts[0] if parts else self._emit(operator.getitem, (node, index), {}, node.meta["val"][index])
        )

    def _alias_of(self, tensor: torch.Tensor) -> Alias:
        tensor = self.present(tensor)
        return self._known.get(id(tensor)) or self._lift(tensor)

    def _lift(self, tensor: torch.Tensor) -> Alias:
        if self.lift is None:
            raise CaptureError(
                f"a rule used a tensor {tuple(tensor.shape)} it was not given; build constants with torch functions "
                "(torch.full, torch.arange) inside the rule"
            )
        if self.concrete and self._recognised(tensor):
            return self._known[id(tensor)]
        if self._raw.pop(id(tensor), None) is not None:
            held = self.node_of(self.lift(tensor.clone()))
            self.bind(tensor, self._emit(aten.clone.default, (held,), {}, tensor))  # new at each run, and lies alike
        else:
            self.alias(tensor, self.lift(tensor))
        return self._known[id(tensor)]

    def _recognised(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` is one of the program's own under another name, and no constant."""
        own = self._own.same_as(tensor, self._known, self.is_own)
        if own is None:
            return False
        node, alias = self.node_of(own), self._known[id(own)]
        if tensor.grad_fn is None:
            self._known[id(tensor)] = alias.detached(tensor, self.stopped(node, tensor), untouched=False)
        else:
            step = (aten.alias.default, (), {}, None)
            self._known[id(tensor)] = alias.view(tensor, step, self._emit(step[0], (node,), {}, tensor))
        return True

    # -- new nodes -----------------------------------------------------------------------------------------------

    def placeholder(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """A further input of the graph, with the geometry of ``like``."""
        last = self.graph.find_nodes(op="placeholder")
        value = self.like(like)
        with self.graph.inserting_after(last[-1]) if last else nullcontext():
            node = self.graph.placeholder(name)
        self.document(node, value)
        return self.bind(value, node)

    def _nodes(self, tree: Any) -> Any:
        return map_tensors(self.node_of, tree)


def _is_copy(alias: Alias) -> bool:
    """Whether nothing has happened to a tensor since it was detached."""
    return isinstance(alias.storage, Detached) and not alias.chain and alias.storage.untouched
