"""A step run again, operator by operator, with everything made finite that is born otherwise, but for what is asked
about.

An operator whose operands are finite and whose result is not is a *birth*. In a run in which every birth is made finite
at once all numbers are finite, and all births are seen, also those that stand behind others. In a run in which one of
them is left as it is, all that is not finite comes from it: if the loss is finite then, nobody reads what it spoils.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import fx

from memograd.doctor.probes import is_finite, probe, tensors_in
from memograd.graph.graph import Graph
from memograd.graph.interpreter import called

_SOME = 30.0  # further from zero than all others: what an infinite number becomes


@dataclass(frozen=True)
class Step:
    """A step that is not finite, as it can be run again.

    Attributes:
        forward: the program as it was captured; ``joint``: with its derivative.
        flat: the flat inputs of ``joint``; generators stand where they stood before the step.
        number: which step of this training it was, from 0.
        trail: losses of the steps before, the last one last.
        root: what the model is called in the graph's names of modules and parameters, which the user does not see.
        backend: what ran it.
        outside: the loss is not part of the graph, whose results are the model's.
        differentiate: makes ``joint`` of ``forward``.
        names: what the user calls the arguments.
        results: where there is no loss, the results that must be finite.
        trail_of: what grew, if it is no loss.
        untouched: what has not happened.
    """

    forward: Graph
    joint: Graph
    flat: Sequence[Any]
    number: int = 0
    trail: Sequence[float] = ()
    root: str = ""
    backend: str = "eager"
    outside: bool = False
    differentiate: Callable[[Graph], Graph] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    results: tuple[int, ...] = ()
    trail_of: str = "the loss"
    untouched: str = "(nothing was written: weights, optimizer, buffers and generators are as before this step)"

    def shown(self, name: str) -> str:
        """A module's, a parameter's or an argument's name as the user knows it."""
        if name in self.names:
            return self.names[name]
        if not self.root:
            return name
        return "" if name == self.root else name.removeprefix(f"{self.root}.")

    @cached_property
    def losses(self) -> list[fx.Node]:
        """The loss, or all results of a model without one."""
        if self.outside:
            return [self.joint.results[k] for k in self.results]
        return [self.joint.results[k] for k in self.joint.positions("output")[:1]]

    @cached_property
    def gradients(self) -> list[fx.Node]:
        return [self.joint.results[k] for k in self.joint.positions("gradient")]

    @property
    def targets(self) -> list[fx.Node]:
        """What must be finite."""
        return [*self.losses, *self.gradients]


@dataclass
class Run:
    """One run.

    Attributes:
        bad: the nodes whose value was not finite, in order.
        births: those of them, made finite or not, whose operands were finite; inputs come first.
        calls: of the nodes that were asked for: operands, options and result.
        nan: those of ``bad`` that hold NaN.
        turns: those that hold NaN, whose operands do not.
    """

    bad: dict[fx.Node, None] = field(default_factory=dict)
    births: dict[fx.Node, None] = field(default_factory=dict)
    nan: set[fx.Node] = field(default_factory=set)
    turns: list[fx.Node] = field(default_factory=list)
    calls: dict[fx.Node, tuple[Any, Any, Any]] = field(default_factory=dict)

    def spoils(self, targets: Collection[fx.Node]) -> list[fx.Node]:
        """Those of ``targets`` that were not finite."""
        return [n for n in targets if n in self.bad]


def as_it_was(step: Step, look_at: Collection[fx.Node] = ()) -> Run:
    """The step as it was run."""
    return _run(step, None, look_at)


def mended(step: Step, but: Sequence[fx.Node], look_at: Collection[fx.Node] = (), part: Any = None) -> Run:
    """The step with every birth made finite, except those in ``but``; of the first of these only the elements in
    ``part`` stay, by flat position, if that is given."""
    return _run(step, but, look_at, part)


def _run(step: Step, but: Sequence[fx.Node] | None, look_at: Collection[fx.Node], part: Any = None) -> Run:
    run, graph = Run(), step.joint

    def settled(node: fx.Node, value: Any, operands: Any) -> Any:
        if is_finite(value):
            return value
        if not any(n in run.bad for n in node.all_input_nodes):
            run.births[node] = None
            if but is not None and node not in but:
                return made_finite(value)
            if part is not None and but is not None and node is but[0]:
                value = _only(value, part)
        elif has_nan(value) and not has_nan(operands):
            run.turns.append(node)
        run.bad[node] = None
        if has_nan(value):
            run.nan.add(node)
        return value

    def call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = settled(node, called(node, args, kwargs), args)
        if node in look_at:
            run.calls[node] = (args, kwargs, value)
        return value

    flat = [settled(n, x, ()) for n, x in zip(graph.placeholders, step.flat, strict=True)]
    for node, value in zip(graph.placeholders, flat, strict=True):
        if node in look_at:
            run.calls[node] = ((), {}, value)
    for _ in probe(graph, flat, call):
        pass
    return run


def made_finite(value: Any) -> Any:
    """``value`` with finite numbers for those that are not: 0 for NaN, and for an infinite one something a little
    larger than all others."""
    return _each(value, _finite_tensor)


def _finite_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.layout is not torch.strided:
        return tensor
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    finite = real[torch.isfinite(real)]
    most = min((finite.abs().max().item() if finite.numel() else 0.0) + _SOME, torch.finfo(real.dtype).max / 4)
    clean = torch.nan_to_num(real, nan=0.0, posinf=most, neginf=-most)
    return torch.view_as_complex(clean) if tensor.is_complex() else clean


def _only(value: Any, part: torch.Tensor) -> Any:
    """``value`` with the elements at these flat positions as they are, and all others finite."""

    def one(tensor: torch.Tensor) -> torch.Tensor:
        clean = _finite_tensor(tensor).reshape(-1).clone()
        inside = part[part < clean.numel()]
        clean[inside] = tensor.reshape(-1)[inside]
        return clean.reshape(tensor.shape)

    return _each(value, one)


def _each(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_each(v, change) for v in value)
    return value


def has_nan(value: Any) -> bool:
    """Whether some number in ``value`` is NaN."""
    return any(bool(t.isnan().any()) for t in tensors_in(value) if t.is_floating_point() or t.is_complex())


def bad_positions(value: Any) -> torch.Tensor:
    """Flat positions of what is not finite in ``value``; of several tensors in the first that has any."""
    for tensor in tensors_in(value):
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.layout is torch.strided:
            positions = (~torch.isfinite(tensor)).reshape(-1).nonzero().reshape(-1)
            if positions.numel():
                return positions
    return torch.empty(0, dtype=torch.int64)
