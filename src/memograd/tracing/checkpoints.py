"""Activation checkpointing, whose place a memory plan takes: the program is traced as if there were none.

``torch.utils.checkpoint`` computes a part of the forward pass again during the backward pass, from the same state of
the random generator. A graph remembers what it has drawn, and what it computes again is for a plan to decide.

More generally, ``saved_tensors_hooks`` say how autograd is to keep what it saves. Those that only say where (on the
CPU, nowhere) make no difference to a graph; one that gives back other numbers than it was given would.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

import torch
from torch import fx
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from memograd import ops
from memograd.errors import CaptureError
from memograd.tracing.interposed import Interposed, current
from memograd.tracing.mutation import is_view
from memograd.tracing.provenance import caller
from memograd.tracing.tracer import Tracer

aten = torch.ops.aten
_BATCH_NORM = aten._native_batch_norm_legit_functional.default
_LINEAR = frozenset({aten.add, aten.sub, aten.rsub, aten.neg, aten.sum, aten.mean, aten.cat, aten.stack, aten._to_copy})
_COPIES = (ops.stop, ops.no_grad, aten.alias.default, aten.clone.default, aten.detach.default)


def is_checkpoint(cls: type) -> bool:
    """Whether applying ``cls`` is what ``checkpoint(..., use_reentrant=True)`` does."""
    return cls is CheckpointFunction


def run_through(tracer: Tracer, function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
    """What ``checkpoint(function, *args, use_reentrant=True)`` returns.

    Where no argument requires a gradient no parameter inside gets one either, as in PyTorch.
    """
    if not any(isinstance(a, torch.Tensor) and a.requires_grad for a in args):
        with torch.no_grad():
            return function(*args)
    region = Region(tracer, preserve_rng_state)
    out = function(*args)
    region.over()
    return out


class Region:
    """A part of the forward pass that autograd will compute again."""

    def __init__(self, tracer: Tracer, draws_the_same: bool = True) -> None:
        self.tracer = tracer
        self.draws_the_same = draws_the_same
        self.last = next(iter(reversed(tracer.graph.nodes)), None)
        self.before = {s: s.node for s in tracer.storages() if s.origin.op == "placeholder"}
        self.after: dict[Any, fx.Node] = {}
        self.inner: dict[fx.Node, bool] = {}  # of regions within this one; whether it is the first of such a region
        tracer.open_regions.append(self)

    def over(self, may_stop: bool = False) -> None:
        """``may_stop``: autograd computes it again only as far as it has saved something (``use_reentrant=False``)."""
        if not self.draws_the_same and torch.is_grad_enabled():
            self._refuse_draws()
        self.after = {s: s.node for s, node in self.before.items() if s.node is not node}
        around = self.tracer.open_regions
        del around[around.index(self) :]
        if around:
            nodes = list(self._inside())
            around[-1].inner |= {node: node is nodes[-1] for node in nodes}
        if self.after and torch.is_grad_enabled():
            if may_stop and any(self._is_last(node) for node in self.after.values()):
                raise CaptureError(
                    f"the checkpoint at {' ('.join(caller())}) writes to a buffer behind the last operator that "
                    "autograd saves something of, and the backward pass, which stops there, would not write again: "
                    "write first, leave the checkpoint out, or set use_reentrant=True"
                )
            self.tracer.regions.append(self)

    def _inside(self) -> Iterator[fx.Node]:
        return takewhile(lambda n: n is not self.last, reversed(self.tracer.graph.nodes))

    def _refuse_draws(self) -> None:
        for node in self._inside():
            if ops.is_random(node):
                raise CaptureError(
                    f"{node.target} at {node.meta.get('source')} draws random numbers inside a checkpoint with "
                    "preserve_rng_state=False, whose backward pass would draw others; leave that argument out"
                )

    def _is_last(self, written: fx.Node) -> bool:
        """Whether nothing behind ``written`` saves anything for its backward, as far as that can be told. A region
        within this one saves what it is given, and nothing else here."""
        needed = self._needed()
        while written.target is operator.getitem or written.target in _COPIES or written.target is ops.written:
            written = written.all_input_nodes[0]
        if written.target is _BATCH_NORM and written not in self.inner:
            return False
        for node in reversed(self.tracer.graph.nodes):
            if node is written or node is self.last:
                return True
            if self.inner.get(node, node not in needed and not _saves_nothing(node)):
                return False
        return True

    def write(self) -> None:
        """Write again what was written, on top of what is there by now."""
        needed = self._needed()
        where = {self.before[s]: s.node for s in self.after}
        for node in list(self.tracer.graph.nodes):
            if node in needed and not _of_batch(node) and any(operand in where for operand in node.all_input_nodes):
                if ops.is_random(node):
                    raise CaptureError(
                        f"{node.target} at {node.meta.get('source')}, inside a checkpoint, draws random numbers by "
                        "what is in a buffer, which the backward pass would find changed; leave the checkpoint out"
                    )
                where[node] = self.tracer.graph.node_copy(node, lambda n: where.get(n, n))
        for storage, node in self.after.items():
            storage.assign(where[node], None, self.tracer.emit_node)

    def _needed(self) -> set[fx.Node]:
        """What was computed in the region for what it wrote."""
        inside = set(self._inside())
        needed, waiting = set(), [node for node in self.after.values() if node in inside]
        while waiting:
            node = waiting.pop()
            needed.add(node)
            waiting += [n for n in node.all_input_nodes if n in inside and n not in needed]
        return needed


def _of_batch(node: fx.Node) -> bool:
    """Whether ``node`` is a result of BatchNorm in train mode that is the same whatever its statistics are."""
    source, index = node.args if node.target is operator.getitem else (None, None)
    return isinstance(source, fx.Node) and source.target is _BATCH_NORM and index in (0, 1, 2)


def _saves_nothing(node: fx.Node) -> bool:
    """Whether ``node`` is linear, with numbers as factors: its backward needs none of its operands."""
    target = node.target
    if target is operator.getitem or target in _COPIES or target is ops.written:
        return True
    if target in (aten.mul.Tensor, aten.div.Tensor):
        return len(node.all_input_nodes) == 1 and not isinstance(node.args[1], fx.Node)
    return isinstance(target, torch._ops.OpOverload) and (target.overloadpacket in _LINEAR or is_view(target))


def written_again(tracer: Tracer) -> None:
    """The program has run: the backward pass goes through its checkpoints from the last to the first."""
    for region in reversed(tracer.regions):
        region.write()


_PUSH, _EXIT = saved_tensors_hooks.__enter__, saved_tensors_hooks.__exit__
_HARMLESS = (save_on_cpu,)  # whose hooks give back what they were given
_ABSENT = "_memograd_absent"  # attribute of hooks that were not put in force


def _enter(hooks: saved_tensors_hooks) -> None:
    tracer = current()
    if tracer is None or not tracer.stops:
        _PUSH(hooks)
    elif type(hooks).__module__ == checkpoint.__module__:
        setattr(hooks, _ABSENT, Region(tracer, sys._getframe(1).f_locals.get("preserve_rng_state", True)))
    elif type(hooks) in _HARMLESS:
        _PUSH(hooks)  # which may be forbidden here
        _EXIT(hooks)
        setattr(hooks, _ABSENT, True)
    else:
        _PUSH(saved_tensors_hooks(lambda tensor: _checked(tracer, hooks, tensor), lambda packed: packed))


def _exit(hooks: saved_tensors_hooks, *args: Any) -> None:
    absent = vars(hooks).pop(_ABSENT, False)
    if isinstance(absent, Region):
        absent.over(may_stop=args[:1] in ((), (None,)))  # what the program raises is the program's
    elif not absent:
        _EXIT(hooks, *args)


def _checked(tracer: Tracer, hooks: saved_tensors_hooks, tensor: torch.Tensor) -> torch.Tensor:
    """What autograd saves in place of ``tensor``, which these hooks must give back as it is."""
    why = ""
    try:
        with torch.no_grad():
            returned = hooks.unpack_hook(hooks.pack_hook(tensor))
            same = returned is tensor or _origin(tracer, returned) is _origin(tracer, tensor)
    except Exception as error:
        same, why = False, f": {type(error).__name__}: {error}"
    if not same:
        source, line = caller()
        raise CaptureError(
            f"saved_tensors_hooks at {source} ({line}) give autograd back another tensor than it has saved, and a "
            f"graph has nothing of the kind; leave them out (a memory budget does what they are for){why}"
        )
    return tensor.detach()


def _origin(tracer: Tracer, tensor: torch.Tensor) -> Any:
    node: Any = tracer.node_of(tensor)
    while node.target in _COPIES:
        node = node.args[0]
    return node


ENTER = Interposed(saved_tensors_hooks, "__enter__", _enter)
EXIT = Interposed(saved_tensors_hooks, "__exit__", _exit)
