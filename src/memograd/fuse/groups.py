"""Which values are put into memory, and which are computed inside the kernels that read them.

A value is stored if something other than a kernel reads it (a matrix product, a convolution, the step's results), if it
is a sum over other values, or if several kernels read it and computing it in each would move more bytes than storing
it. Everything else is computed where it is read. So a ReLU behind a normalization costs no memory, whoever reads it,
and what the backward pass asks of the forward pass is the convolution's result alone.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from memograd._torch import keeps_roundings
from memograd.graph.graph import Graph
from memograd.graph.views import is_view, tensors_of, viewed
from memograd.ops import is_random

aten = torch.ops.aten
LONGEST = 48  # operators computed inside a kernel: longer ones take long to compile
_SMALL = 1 / 16  # of a value's bytes: what may be read besides to compute it again where it is read

# Pointwise operators without the tag, or as good as pointwise where they are read.
_POINTWISE = {
    aten._to_copy.default,
    aten.full.default,
    aten.full_like.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.new_zeros.default,
    aten.scalar_tensor.default,
    aten.arange.start_step,
    aten.clamp.default,
    aten.elu_backward.default,
    aten.hardtanh_backward.default,
    aten.leaky_relu_backward.default,
    aten.log_sigmoid_backward.default,
    aten.mse_loss_backward.default,
    aten.softplus_backward.default,
    aten.cat.default,
    aten.constant_pad_nd.default,
    aten.upsample_nearest2d.default,
}

# Kernels of PyTorch that take several times as long as Inductor's, also alone.
SLOW = {aten.var_mean.correction, aten.upsample_nearest2d.default}

# Sums over other values, which Inductor computes together with what they read.
_REDUCTIONS = {
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.mean.default,
    aten.mean.dim,
    aten.amax.default,
    aten.var_mean.correction,
    aten._softmax.default,
    aten._softmax_backward_data.default,
    aten._log_softmax.default,
    aten._log_softmax_backward_data.default,
    aten.native_layer_norm.default,
    aten.native_layer_norm_backward.default,
    aten.mse_loss.default,
}

_NEAR = 8  # how many kernels before one are looked at for small results from the same values


@dataclass(frozen=True)
class Group:
    """What one kernel computes: the operators ``inside``, in order, of which ``results`` are stored."""

    inside: tuple[fx.Node, ...]
    results: tuple[fx.Node, ...]

    @property
    def operands(self) -> list[fx.Node]:
        """What the kernel reads from memory, in the order in which it does."""
        own = set(self.inside)
        return [n for n in dict.fromkeys(n for member in self.inside for n in member.all_input_nodes) if n not in own]

    @property
    def device(self) -> str:
        """The type of device it runs on."""
        return tensors_of(self.results[0])[0].device.type

    @property
    def computed(self) -> list[fx.Node]:
        """The operators inside that are no views."""
        return [n for n in self.inside if not is_view(n)]


def groups(graph: Graph) -> list[Group]:
    """The kernels of a lowered graph, but none of a single operator that PyTorch has a good kernel for."""
    build = _Build(graph)
    singles = [build.group([n]) for n in graph.nodes if n in build.stored and fusible(n)]
    return [g for g in build.together(singles) if len(g.computed) > 1 or g.computed[0].target in SLOW]


class _Build:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.order = {node: k for k, node in enumerate(graph.fx.nodes)}
        self.stored = {n for n in graph.nodes if self._must_be_stored(n)}
        self._store_what_many_read()

    def _must_be_stored(self, node: fx.Node) -> bool:
        if not _decidable(node):
            return False
        return node.target in _REDUCTIONS or any(not fusible(user) for user in _readers(node))

    def _store_what_many_read(self) -> None:
        """Decide the rest: sources first, as if everybody kept apart read them apart; then readers first, where
        several turned out to be one kernel."""
        readers = self._kernels_that_read()
        shared: set[fx.Node] = set()
        for node in self.graph.nodes:
            if node in self.stored or not _decidable(node):
                continue
            inside, count = self._inside([node]), len(readers[node])
            if sum(not is_view(n) for n in inside) >= LONGEST or _is_summand(node):
                self.stored.add(node)
            elif count > 1 and count * _bytes_read(inside) > _bytes_read(inside) + (1 + count) * bytes_in(node):
                self.stored.add(node)
                shared.add(node)
        self._kernels_that_read(shared)

    def _kernels_that_read(self, undecided: Collection[fx.Node] = ()) -> dict[fx.Node, frozenset[fx.Node]]:
        """For each value the kernels that read it; of those ``undecided`` the ones with one reader are not stored."""
        kernels: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in reversed(self.graph.nodes):
            direct = [frozenset([u]) if u in self.stored else kernels.get(u, frozenset()) for u in node.users]
            kernels[node] = frozenset().union(*direct)
            if node in undecided and len(kernels[node]) <= 1:
                self.stored.remove(node)
        return kernels

    def _inside(self, results: Iterable[fx.Node], recomputed: Collection[fx.Node] = ()) -> set[fx.Node]:
        """What is computed in the kernel that stores ``results``; there, the stored values ``recomputed`` are computed
        too."""
        inside = set(results)
        stack = list(inside)
        while stack:
            for source in stack.pop().all_input_nodes:
                if source not in inside and (source in recomputed or self._is_inlined(source)):
                    inside.add(source)
                    stack.append(source)
        return inside

    def _is_inlined(self, node: fx.Node) -> bool:
        return is_view(node) or (_decidable(node) and node not in self.stored)

    def group(self, results: list[fx.Node]) -> Group:
        """The group of ``results``. A value that it reads and could compute from what else it reads, it computes."""
        recomputed: set[fx.Node] = set()
        while True:
            inside = self._inside(results, recomputed)
            group = Group(tuple(sorted(inside, key=self.order.__getitem__)), tuple(results))
            operands = group.operands
            computable = next((n for n in operands if self._follows(n, operands)), None)
            if computable is None or len(group.computed) >= LONGEST:
                return group
            recomputed.add(computable)

    def _follows(self, node: fx.Node, operands: list[fx.Node]) -> bool:
        """Whether a stored value can be computed from other operands, and little more."""
        if not _decidable(node) or node.target in _REDUCTIONS or is_view(node):
            return False
        inside = self._inside([node])
        sources = {n for member in inside for n in member.all_input_nodes} - inside
        more = sum(bytes_in(n) for n in sources if n not in operands)
        return len(inside) > 1 and more <= _SMALL * bytes_in(node) and any(n in operands for n in sources)

    def together(self, groups: list[Group]) -> list[Group]:
        """Small results from the same values (sums over them, running statistics) become one kernel, which reads the
        values once."""
        joined: list[Group] = []
        for group in groups:
            for k, other in list(enumerate(joined))[-_NEAR:]:
                if (both := self._joint(other, group)) is not None:
                    joined[k] = both
                    break
            else:
                joined.append(group)
        return joined

    def _joint(self, one: Group, other: Group) -> Group | None:
        """Both as one group, where they see the same values, and together read hardly more than one of them does,
        nothing that comes later, and store little."""
        results = [*one.results, *other.results]
        values = {*one.operands, *one.results}
        if len({_phase(n) for n in results}) > 1 or values.isdisjoint(other.operands):
            return None
        both = self.group(results)
        if any(self.order[n] > self.order[results[0]] for n in both.operands):
            return None
        read = [sum(map(bytes_in, g.operands)) for g in (one, other, both)]
        return both if sum(map(bytes_in, results)) + read[2] <= (1 + _SMALL) * max(read[:2]) else None


def _phase(node: fx.Node) -> str:
    """Which pass an operator belongs to: what is computed again in one is not mixed with another."""
    return next((key for key in ("update_of", "adjoint_of") if key in node.meta), "forward")


def _readers(node: fx.Node) -> Iterable[fx.Node]:
    """Who reads a value, also through views."""
    for user in node.users:
        if user.target is operator.getitem or is_view(user):
            yield from _readers(user)
        else:
            yield user


def _bytes_read(inside: set[fx.Node]) -> int:
    """Bytes that a kernel reads from memory: of a value of which it sees a part, that part."""
    operands = {n for member in inside if not is_view(member) for n in member.all_input_nodes}
    return sum(min(bytes_in(n), bytes_in(_base(n))) for n in operands if _base(n) not in inside)


def _base(node: fx.Node) -> fx.Node:
    """The node whose memory ``node`` looks at, through any number of views."""
    while is_view(node):
        node = viewed(node)  # pyright: ignore[reportAssignmentType]
    return node


def _is_summand(node: fx.Node) -> bool:
    """Whether a node is a sum of adjoints that only goes into the next such sum: the gradient of a weight with many
    uses, formed as its parts come, so that they need not all be there at once."""
    if node.target is not aten.add.Tensor or "adjoint_of" not in node.meta or len(node.users) != 1:
        return False
    (user,) = node.users
    while is_view(user) and len(user.users) == 1:
        (user,) = user.users
    return user.target is aten.add.Tensor and user.meta.get("adjoint_of") == node.meta["adjoint_of"]


def _decidable(node: fx.Node) -> bool:
    """Whether ``node`` is an operator of a kernel, of which it can be asked whether its result is stored."""
    return node.target is not operator.getitem and not is_view(node) and fusible(node)


def fusible(node: fx.Node) -> bool:
    """Whether Inductor computes an operator in a kernel with its neighbours."""
    if node.op != "call_function" or is_random(node):
        return False
    target: Any = node.target
    if target is operator.getitem:
        return fusible(node.args[0])  # pyright: ignore[reportArgumentType]
    pointwise = torch.Tag.pointwise in getattr(target, "tags", ())
    if not (pointwise or target in _POINTWISE or target in _REDUCTIONS or is_view(node)):
        return False
    results = tensors_of(node)
    device = results[0].device
    if target is aten._to_copy.default and results[0].dtype.itemsize < 4 and not keeps_roundings(device.type):
        return False
    touched = [*results, *(t for n in node.all_input_nodes for t in tensors_of(n))]
    return all(t.numel() for t in results) and all(not t.is_complex() and t.device == device for t in touched)


def bytes_in(node: fx.Node) -> int:
    """Bytes of a node's results."""
    return sum(t.numel() * t.element_size() for t in tensors_of(node))
