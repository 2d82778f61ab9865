"""What a captured program is given: placeholders of the graph, and the tensors that stand for the user's while it runs.

Parameters and buffers come first, then the arguments. A tensor that the program uses without having been given it (a
constant, a parameter of a module that nobody saw) is an input, too: the tracer asks for it (``lift``) when it meets it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, count

import torch
from torch import fx, nn

from memograd._torch import copy_of, fake_like, is_fake, outside_torch_func
from memograd.errors import CaptureError
from memograd.graph.bits import has_bits
from memograd.graph.entries import Input, InputKind
from memograd.tracing.closures import Closure
from memograd.tracing.effects import Change
from memograd.tracing.holders import OfATensor, noted
from memograd.tracing.processes import refuse_spread
from memograd.tracing.provenance import caller
from memograd.tracing.substitute import with_history
from memograd.tracing.tracer import Tracer
from memograd.tracing.under_way import ACTIVE
from memograd.tracing.unusual import refuse_unusual


class Inputs:
    """The inputs of one capture.

    Attributes:
        entries: what the graph is given, in the order of its placeholders.
        names: names of the entries by id of what stands for them.
        stood_for: what stands for each placeholder.
        users: ids of the user's tensors that the program has used.
    """

    def __init__(self, tracer: Tracer, closure: Closure) -> None:
        self.tracer = tracer
        self.closure = closure
        self.entries: list[Input] = []
        self.names: dict[int, str] = {}
        self.stood_for: dict[fx.Node, torch.Tensor] = {}
        self.users: set[int] = set()
        self._taken: set[str] = set()  # names of entries, and other names of tied parameters
        self._stand_in = copy_of if tracer.concrete else fake_like
        self._first_operator: fx.Node | None = None
        self._trained: dict[int, tuple[str, bool]] = {}  # names of parameters and whether they are trained, by stand-in
        self._awake: dict[int, bool] = {}  # what required no gradient at first, and whether it was used with one since
        self._with_history: set[int] = set()  # stand-ins of arguments that require a gradient
        self._amid: set[int] = set()  # stand-ins of what is no leaf

    def parameters(self, root: nn.Module) -> None:
        """Placeholders for parameters and buffers; tied ones share one."""
        named: list[tuple[InputKind, str, torch.Tensor]] = []
        named.extend(("parameter", *p) for p in root.named_parameters(remove_duplicate=False))
        named.extend(("buffer", *b) for b in root.named_buffers(remove_duplicate=False))
        position: dict[int, int] = {}
        for kind, name, tensor in named:
            if id(tensor) in position:
                at = position[id(tensor)]
                entry = self.entries[at]
                self.entries[at] = Input(entry.kind, entry.name, tensor, (*entry.aliases, name))
                self._taken.add(name)
            else:
                refuse_unusual(tensor, f"the {kind} {name!r}", True)
                refuse_spread(tensor, f"the {kind} {name!r}")
                self.tracer.bits |= has_bits(tensor)
                self.tracer.offset_inputs |= kind == "parameter" and tensor.storage_offset() != 0
                position[id(tensor)] = len(self.entries)
                stand_in = self._stand_in(tensor.detach())
                if kind == "parameter":
                    stand_in = nn.Parameter(stand_in, requires_grad=tensor.requires_grad)
                self.users.add(id(tensor))
                self.tracer.alias(tensor, self._placeholder(Input(kind, name, tensor), stand_in))

    def argument(self, tensor: torch.Tensor, name: str, differentiable: bool) -> torch.Tensor:
        sparse = tensor.layout is torch.sparse_coo and not tensor.requires_grad and not differentiable
        refuse_unusual(tensor, f"argument {name!r}", sparse)
        self._check_ours(tensor, f"argument {name!r}")
        refuse_spread(tensor, f"argument {name!r}")
        self.tracer.offset_inputs |= not sparse and tensor.storage_offset() != 0
        stand_in = self._stand_in(tensor.detach())
        if differentiable or tensor.requires_grad:
            stand_in = with_history(stand_in)
        if tensor.requires_grad:
            self._with_history.add(id(stand_in))
            self._amid |= set() if tensor.is_leaf else {id(stand_in)}
            self.tracer.not_asked |= set() if differentiable else {id(stand_in)}
        return self._placeholder(Input("input", name, fixed=not differentiable), noted(stand_in, tensor))

    def lift(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor the program uses without having been given it: a constant, or a parameter if it wants gradients."""
        kind = "parameter" if tensor.requires_grad and tensor.is_leaf else "constant"
        own = self.closure.tensors.get(id(tensor))
        name = own or f"constant_{sum(i.kind == 'constant' for i in self.entries)}"
        refuse_unusual(tensor, f"the tensor {name!r}, which the program uses,", True)
        self._check_ours(tensor, f"the tensor {name!r}, which the program uses,")
        refuse_spread(tensor, f"the tensor {name!r}, which the program uses,")
        self.users.add(id(tensor))
        with outside_torch_func():  # else it would be one of ``torch.func.grad``'s wrappers
            stand_in = self._stand_in(tensor.detach())
            if tensor.requires_grad:
                stand_in = stand_in.requires_grad_() if tensor.is_leaf else with_history(stand_in)
                self._amid |= set() if tensor.is_leaf else {id(stand_in)}
        stand_in = self._placeholder(Input(kind, name, tensor), stand_in)
        if own is None:
            self.tracer.lent(stand_in, tensor)
        return stand_in

    def _placeholder(self, entry: Input, stand_in: torch.Tensor) -> torch.Tensor:
        if self._first_operator is None:
            self._first_operator = next((n for n in self.tracer.graph.nodes if n.op == "call_function"), None)
        before = self._first_operator
        with self.tracer.graph.inserting_before(before) if before is not None else nullcontext():
            node = self.tracer.graph.placeholder(_identifier(entry.name))
        self.tracer.document(node, stand_in)
        entry = replace(entry, name=self._unused(entry))
        self.entries.append(entry)
        self.names[id(stand_in)] = entry.name
        self.stood_for[node] = stand_in
        if entry.kind == "parameter":
            self._trained[id(stand_in)] = (entry.name, stand_in.requires_grad)
        elif not stand_in.requires_grad:
            self._awake[id(stand_in)] = False
        return self.tracer.bind(stand_in, node)

    def _unused(self, entry: Input) -> str:
        """A name for ``entry`` alone: an argument may be called like a parameter, and variables of several functions
        alike. Gradients and writes are looked up by it."""
        numbered = (f"{entry.name} ({entry.kind} {k})" for k in count(2))
        names = chain([entry.name, f"{entry.name} ({entry.kind})"], numbered)
        name = next(n for n in names if n not in self._taken)
        self._taken.add(name)
        return name

    # -- parameters that the program freezes, and others that it lets require a gradient ---------------------------

    def used(self, tensor: torch.Tensor) -> fx.Node:
        """The node of an operand: a parameter's behind a stop while the program has it frozen."""
        node = self.tracer.node_of(tensor)
        if self._awake.get(id(tensor)) is False and tensor.requires_grad and tensor.is_leaf:
            self._wake(node, tensor)
        name, trained = self._trained.get(id(tensor), ("", tensor.requires_grad))
        if trained == tensor.requires_grad:
            return node
        if trained:
            return self.tracer.stopped(node, tensor)
        if torch.is_grad_enabled():
            raise CaptureError(
                f"the program unfreezes its parameter {name!r} and uses it at {' ('.join(caller())}): a graph is "
                "derived for what requires a gradient when it is called; call requires_grad_(True) before"
            )
        return node

    def frozen(self) -> list[Change]:
        """The parameters that the program has frozen, or unfrozen, and left so, and what else requires a gradient since
        (``pos.requires_grad_()``)."""
        changes: list[Change] = []
        for k, (node, stand_in) in enumerate(self.stood_for.items()):
            entry = self.entries[k]
            now = stand_in.requires_grad
            if id(stand_in) in self._with_history and not now:
                raise CaptureError(
                    f"the program detaches its argument {entry.name!r} in place, for whoever called it too, which a "
                    "graph cannot: use x.detach(), or pass that"
                )
            marked = id(stand_in) in self._awake and stand_in.is_leaf  # else it was written to
            _, before = self._trained.get(id(stand_in), ("", now and not marked))
            if now == before:
                continue
            changes.append((self.of_input(entry, stand_in, "requires_grad"), "requires_grad", not before, entry.name))
            if before:
                self._freeze(node, stand_in)
            elif entry.kind != "parameter":
                self._wake(node, stand_in)
                self.entries[k] = replace(entry, woken=True, fixed=False)
        return changes

    def is_amid_a_history(self, stand_in: torch.Tensor) -> bool:
        """Whether the tensor that it stands for was computed of others that require a gradient."""
        return id(stand_in) in self._amid

    def of_input(self, entry: Input, stand_in: torch.Tensor, key: str) -> OfATensor:
        """What PyTorch keeps under ``key`` with the tensor of an input."""
        return OfATensor(stand_in, key) if entry.tensor is None else OfATensor(entry.tensor, key, entry.name)

    def _wake(self, node: fx.Node, stand_in: torch.Tensor) -> None:
        """It requires a gradient from here on: what has read it before has no part in that."""
        if not self._awake[id(stand_in)]:
            self._awake[id(stand_in)] = True
            self._freeze(node, stand_in)

    def _freeze(self, node: fx.Node, stand_in: torch.Tensor) -> None:
        """No adjoint reaches a parameter that is frozen by the time of the backward pass, not even of uses before."""
        users = list(node.users)
        if users:
            graph = self.tracer.graph
            with graph.inserting_before(next(n for n in graph.nodes if n.op == "call_function")):
                stop = self.tracer.stopped(node, stand_in)
            for user in users:
                user.replace_input_with(node, stop)

    def _check_ours(self, tensor: torch.Tensor, what: str) -> None:
        self.tracer.bits |= has_bits(tensor)
        if is_fake(tensor) and not any(t is not self.tracer for t in ACTIVE.tracers):
            raise CaptureError(
                f"{what} belongs to a capture that is over or runs in another thread; do not keep tensors or start "
                "threads inside a captured program"
            )


def _identifier(name: str) -> str:
    """A Python identifier that reads like ``name``."""
    text = "".join(c if c.isalnum() else "_" for c in name) or "x"
    return text if not text[0].isdigit() else f"x_{text}"
