"""Turn mutation into values: which functional operator an in-place one stands for, and what a write to a view
means for its base and for the base's other views.

A *storage* is a piece of memory with the node of its present value. An *alias* is a tensor that looks at a storage
through a chain of view operators; one that was *detached* has the memory in common, and not the history. Writing
through an alias makes a new value of the whole storage (the inverse of each view, from the last to the first) and a new
version; other aliases replay their chain when they are next read. This is the bookkeeping PyTorch calls
functionalization.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from memograd import ops
from memograd._torch import schema_of
from memograd.errors import CaptureError
from memograd.tracing.repeating import repeats, scattered, written_once
from memograd.tracing.strided import refuse_strided, strided_anew
from memograd.tracing.view_steps import Emit, Step, applied, inverted

aten = torch.ops.aten

# In-place operators whose functional twin has another name or signature.
_RENAMED = {
    aten.bernoulli_.float: ops.bernoulli,
    aten.bernoulli_.Tensor: aten.bernoulli.Tensor,
    aten.polygamma_.default: aten.polygamma.default,
    aten.normal_.default: aten.normal_functional.default,
    aten.rrelu_with_noise.default: aten.rrelu_with_noise_functional.default,
    aten.rrelu_with_noise_.default: aten.rrelu_with_noise_functional.default,
    aten._fused_moving_avg_obs_fq_helper.default: aten._fused_moving_avg_obs_fq_helper_functional.default,
    aten._native_batch_norm_legit.default: aten._native_batch_norm_legit_functional.default,
    aten._batch_norm_with_update.default: aten._batch_norm_with_update_functional.default,
}
# What a function that makes a tensor is told of it, and one that fills ``out`` reads off that.
_OPTIONS = ("dtype", "layout", "device", "pin_memory")
_REFUSED = ("set_", "resize_", "resize_as_", "share_memory_")


@functools.cache
def functional_twin(func: Any) -> Any:
    """The operator that returns what ``func`` would write, or None when ``func`` writes nothing."""
    if func in _RENAMED:
        return _RENAMED[func]
    schema = schema_of(func)
    if not schema.is_mutable:
        return None
    namespace, name = schema.name.split("::")
    if name in _REFUSED:
        raise CaptureError(
            f"{func} changes the memory of a tensor; write the result to a new tensor instead, and read what comes "
            "from a file or a pickle (torch.load) outside of the program"
        )
    outs = {a.name for a in schema.arguments if a.kwarg_only and a.alias_info is not None and a.alias_info.is_write}
    wanted = [(a.name, str(a.type)) for a in schema.arguments if a.name not in outs]
    pure = name if outs else name.replace("__i", "__", 1) if name.startswith("__i") else name.removesuffix("_")
    packet = getattr(getattr(torch.ops, namespace), pure, None)
    for overload in packet.overloads() if packet is not None else ():
        twin = getattr(packet, overload)
        pure_schema = schema_of(twin)
        others = [
            a for a in pure_schema.arguments if not outs or a.name not in _OPTIONS or (a.name, str(a.type)) in wanted
        ]
        if not pure_schema.is_mutable and [(a.name, str(a.type)) for a in others] == wanted:
            return twin
    raise CaptureError(f"{func} writes in place and has no functional twin; use an operator that returns its result")


def arguments_for(functional: Any, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of ``func`` in the order of its twin (``x.polygamma_(n)`` and ``polygamma(n, x)``)."""
    names, order = ([a.name for a in schema_of(f).arguments[: len(args)]] for f in (func, functional))
    if names == order or set(names) != set(order):
        return args
    by_name = dict(zip(names, args, strict=True))
    return tuple(by_name[name] for name in order)


def options_of(func: Any, twin: Any, out: Any) -> dict[str, Any]:
    """What ``twin`` must be told to make what ``func`` writes into ``out``."""
    given = {a.name for a in schema_of(func).arguments}
    wanted = {a.name for a in schema_of(twin).arguments} - given
    return {name: getattr(out, name) for name in ("dtype", "device") if name in wanted}


@functools.cache
def is_view(func: Any) -> bool:
    """True when the operator's result shares memory with its first argument."""
    schema = schema_of(func)
    arguments, returns = schema.arguments, schema.returns
    if not arguments or not returns or arguments[0].alias_info is None:  # ``overwrite`` shares that of its second
        return False
    return returns[0].alias_info is not None and not returns[0].alias_info.is_write


@dataclass(eq=False)
class Storage:
    """A piece of memory: the tensor it was first seen as, the node of its present value, the node it began with.

    ``node`` carries the history that autograd keeps for this tensor and its views.
    """

    tensor: torch.Tensor
    node: fx.Node
    version: int = 0
    lent: bool = False  # by another library
    origin: fx.Node = field(init=False)

    def __post_init__(self) -> None:
        self.origin = self.node

    @property
    def memory(self) -> Storage:
        return self

    def value(self, emit: Emit) -> fx.Node:
        """The node of the present value."""
        return self.node

    def settle(self, node: fx.Node) -> None:
        """``node`` computes the value that is there already."""
        self.node = node

    def assign(self, new: fx.Node, hidden: Any, emit: Emit) -> None:
        """``new`` is the value from now on. Hidden: autograd does not see this write (no_grad), so that adjoints go
        past it, to the old value."""
        self.node = emit(hidden, (self.node, new), {}, self.tensor) if hidden else new
        self.version += 1


@dataclass(eq=False)
class Detached:
    """The memory of ``source`` with a history of its own: what ``detach`` and ``.data`` return.

    Autograd begins anew there. What is written through it changes the numbers that ``source`` shows and not the
    adjoints that go to ``source``; and the other way round::

        y = x.detach()
        y += w         # y depends on w; x has the same numbers now, and does not
    """

    source: Alias
    tensor: torch.Tensor
    node: fx.Node
    untouched: bool = True  # nothing was written through it
    current: int = field(init=False)  # version of the memory that ``node`` is the value of

    def __post_init__(self) -> None:
        self.current = self.memory.version

    @property
    def memory(self) -> Storage:
        return self.source.storage.memory

    def value(self, emit: Emit) -> fx.Node:
        if self.current != self.memory.version:
            self.node = emit(ops.overwrite, (self.node, self.source.refresh(emit)), {}, self.tensor)
            self.current = self.memory.version
        return self.node

    def settle(self, node: fx.Node) -> None:
        self.node, self.untouched = node, False
        self.current = self.memory.version

    def assign(self, new: fx.Node, hidden: Any, emit: Emit) -> None:
        self.node = emit(hidden, (self.value(emit), new), {}, self.tensor) if hidden else new
        self.untouched = False
        write_back(self.source, new, ops.overwrite, emit)
        self.current = self.memory.version


@dataclass(eq=False)
class Alias:
    """A tensor that looks at ``storage`` through ``chain``."""

    tensor: torch.Tensor
    storage: Storage | Detached
    chain: tuple[tuple[Step, torch.Tensor], ...] = ()  # each view with a tensor of its result's geometry
    node: fx.Node | None = None
    version: int = 0

    def view(self, tensor: torch.Tensor, step: Step, node: fx.Node, offset: int | torch.SymInt | None = None) -> Alias:
        """The alias one view further; ``offset``: where that begins in its memory, if not where ``tensor`` does."""
        chain = (*self.chain, (step, tensor))
        if step[0] is aten.as_strided.default:
            anew = strided_anew(self.storage.tensor, tensor, tensor.storage_offset() if offset is None else offset)
            chain = ((anew, tensor),) if anew is not None else chain
        return Alias(tensor, self.storage, chain, node, self.storage.memory.version)

    def detached(self, tensor: torch.Tensor, node: fx.Node, untouched: bool = True) -> Alias:
        """``tensor``, which looks at the same memory with another history, that of ``node``, which is its value."""
        return Alias(tensor, Detached(self, tensor, node, untouched))

    def read_anew(self) -> None:
        """The tensor is about to be written to in place: what that reads of it comes from the memory itself, where
        ``as_strided`` has made it of a view, see ``strided.py``."""
        if self.chain and self.chain[0][0][0] is aten.as_strided.default:
            self.node = None

    def refresh(self, emit: Emit) -> fx.Node:
        """The node of the present value; replays the chain if the storage was written since."""
        if not self.chain:
            return self.storage.value(emit)
        if self.version != self.storage.memory.version or self.node is None:
            refuse_strided(self.chain)
            self.node = self.storage.value(emit)
            for step, value in self.chain:
                self.node = applied(step, self.node, value, emit)
            self.version = self.storage.memory.version
        return self.node


def write_back(alias: Alias, value: fx.Node, hidden: Any, emit: Emit) -> None:
    """Give ``alias`` the new ``value``: rebuild the storage through the inverse of its views.

    Args:
        hidden: the mark of a write that autograd does not see (``ops.overwrite``, ``ops.written``), or None.
    """
    storage = alias.storage
    refuse_strided(alias.chain)
    if repeats(alias.chain) and written_once(storage.tensor, alias.chain):
        new = scattered(storage.tensor, alias.chain, storage.value(emit), value, emit)
        storage.assign(new, hidden, emit)
        return
    befores = [storage.value(emit)]  # the value in front of each view of the chain
    fakes = [storage.tensor]
    for step, fake in alias.chain[:-1]:
        befores.append(applied(step, befores[-1], fake, emit))
        fakes.append(fake)
    new = value
    for (step, _), before, fake in zip(reversed(alias.chain), reversed(befores), reversed(fakes), strict=False):
        new = inverted(step, before, new, fake, emit)
    storage.assign(new, hidden, emit)
