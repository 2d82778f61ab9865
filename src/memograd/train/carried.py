"""What a step carries from one call to the next besides the optimizer's state: the sums of gradients, the average of
the weights, the norm that gradients had before they were clipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import nn

from memograd.errors import DataError, GraphError
from memograd.graph.graph import Graph
from memograd.train.refinements import Refinements

Tensor = torch.Tensor


class Carried:
    """Tensors that graphs read and write in place; they are made when they are first needed and stay where they are.

    Attributes:
        averages: of each parameter of the model that the optimizer has held so far.
        averaged: how often they were updated.
        sums: of the gradients, by parameter; zero between two groups of batches.
        gathered: the parameters that had a gradient in this group, in order, and ``batches``: how many it has so far.
        names: of parameters, in a step's graph.
        norm: of all gradients before the last update, before they were clipped by it.
        swapped: whether the averages stand in the model now, and the model's weights here.
    """

    def __init__(self, objective: nn.Module, model: nn.Module, refinements: Refinements) -> None:
        self.objective = objective
        self.model = model
        self.refinements = refinements
        self.averages: dict[Tensor, Tensor] = {}
        self.averaged = 0
        self.sums: dict[Tensor, Tensor] = {}
        self.gathered: dict[Tensor, None] = {}
        self.batches = 0
        self.norm: Tensor | None = None
        self.swapped = False
        self.names: dict[Tensor, str] = {p: name for name, p in objective.named_parameters()}
        self._norms: dict[Any, Tensor] = {}

    def name(self, joint: Graph) -> None:
        """Know the parameters by what a step's graph calls them: they need not be a module's."""
        self.names |= {i.tensor: i.name for i in joint.inputs if i.kind == "parameter" and i.tensor is not None}

    def cover(self, parameters: Iterable[Tensor]) -> None:
        """Average these too, as far as they are the model's: one that was constant so far has itself as its average."""
        if self.refinements.ema_decay is None:
            return
        own = set(self.model.parameters())
        for p in parameters:
            if p in own and (p.is_floating_point() or p.is_complex()):
                average = self.averages.get(p)
                self.averages[p] = p.detach().clone() if average is None else moved(average, p)

    def sum_of(self, parameter: Tensor) -> Tensor:
        """The sum of the gradients of ``parameter``, to be written to."""
        total = self.sums.get(parameter)
        if total is None:
            total = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
        self.sums[parameter] = total = moved(total, parameter)
        return total

    def norm_of(self, gradients: Sequence[Tensor]) -> Tensor:
        """Where the norm of these goes."""
        kind = (reduce(torch.promote_types, [g.dtype.to_real() for g in gradients]), gradients[0].device)
        if kind not in self._norms:
            self._norms[kind] = torch.zeros((), dtype=kind[0], device=kind[1])
        return self._norms[kind]

    def update_averages(self) -> None:
        """After an update that PyTorch has done."""
        for p, average in self.averages.items():
            assert self.refinements.ema_decay is not None
            average.lerp_(p.detach(), 1 - self.refinements.ema_decay)
        self.updated()

    def updated(self) -> None:
        """After an update, with averages. The first average is what the first update leaves, as it is in PyTorch."""
        if self.averages and not self.averaged:
            for p, average in self.averages.items():
                average.copy_(p.detach())
        self.averaged += bool(self.averages)

    def forget_sums(self) -> None:
        """The next batch is the first of a group."""
        for total in self.sums.values():
            total.zero_()
        self.gathered.clear()
        self.batches = 0

    # -- for the user ----------------------------------------------------------------------------------------------

    def averaged_state(self) -> dict[str, Any]:
        """The model's ``state_dict`` with averages in the place of parameters."""
        if self.refinements.ema_decay is None:
            raise GraphError("this step averages no weights: make it with ema_decay=0.999, for example")
        held = self.model.state_dict(keep_vars=True)
        return {name: self.averages.get(x, x).detach() if isinstance(x, Tensor) else x for name, x in held.items()}

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """Averages and weights change places while this lasts."""
        self.averaged_state()
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for p, average in self.averages.items():
            weight = p.detach().clone()
            p.copy_(average)
            average.copy_(weight)
        self.swapped = not self.swapped

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on as if nothing had happened."""
        names = self.names
        return {
            "averages": {names[p]: t for p, t in self.averages.items()},
            "averaged": self.averaged,
            "sums": {names[p]: t for p, t in self.sums.items()} if self.batches else {},
            "gathered": [names[p] for p in self.gathered],
            "batches": self.batches,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises DataError, and changes nothing, where ``state`` is of another model."""
        parameters = {name: p for p, name in self.names.items()}
        _refuse_other(state, parameters)
        for kind in ("averages", "sums"):
            for name, tensor in state[kind].items():
                p = parameters.get(name)
                if p is None or p.shape != tensor.shape or p.dtype != tensor.dtype:
                    here = "no such parameter" if p is None else f"{p.dtype} of shape {tuple(p.shape)}"
                    there = f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                    raise DataError(f"the state of another step: its {kind} hold {name!r}, {there}; here is {here}")
        self.cover(parameters[name] for name in state["averages"])
        self.forget_sums()
        for p in self.averages:
            self.averages[p].copy_(p)
        for name, tensor in state["averages"].items():
            if (average := self.averages.get(parameters[name])) is not None:
                average.copy_(tensor)
        for name, tensor in state["sums"].items():
            self.sum_of(parameters[name]).copy_(tensor)
        self.gathered = dict.fromkeys(parameters[name] for name in state["gathered"])
        self.averaged, self.batches = state["averaged"], state["batches"]


def _refuse_other(state: Any, parameters: Mapping[str, Tensor]) -> None:
    """Raises DataError for what ``state_dict`` has not made."""
    kinds = {"averages": Mapping, "averaged": int, "sums": Mapping, "gathered": list, "batches": int}
    for key, kind in kinds.items():
        if not isinstance(state, Mapping) or not isinstance(state.get(key), kind):
            raise DataError(f"this is not what step.state_dict() returns: it has no {key!r}, or another kind of it")
    tensors = (t for kind in ("averages", "sums") for t in state[kind].values())
    if not all(isinstance(t, Tensor) for t in tensors):
        raise DataError("this is not what step.state_dict() returns: it holds more than tensors")
    if unknown := [name for name in state["gathered"] if name not in parameters]:
        raise DataError(f"the state of another step: it gathers gradients of {unknown[0]!r}, which is not here")


def moved(tensor: Tensor, parameter: Tensor) -> Tensor:
    """``tensor`` where ``parameter`` is, if the model was moved or converted since."""
    same = tensor.dtype == parameter.dtype and tensor.device == parameter.device
    return tensor if same else tensor.to(parameter.device, parameter.dtype)
