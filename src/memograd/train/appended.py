"""What a step does with its gradients, as further operators behind a differentiated graph: the update, or adding them
up for a later one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, optim

from memograd.finite import largest
from memograd.graph.entries import Input, InputKind, Output
from memograd.graph.graph import Graph
from memograd.tracing.tracer import Tracer
from memograd.train.carried import Carried
from memograd.train.formulas import State
from memograd.train.rates import Rates
from memograd.train.refinements import Clip
from memograd.train.update import RULES, prepare, updated

Tensor = torch.Tensor
EVERY = "all parameters"  # whose update an operator belongs to that reads every gradient


def average_name(name: str) -> str:
    """What the average of the parameter ``name`` is called in a graph."""
    return f"average of {name}"


def watched(joint: Graph) -> Graph:
    """``joint``, which also returns the largest number of its loss and gradients: one that is not finite is a flag."""
    graph, where = joint.copy()
    tracer = Tracer(graph)
    results = [where[n] for n in joint.results]
    looked_at = [n for n, o in zip(results[1:], joint.outputs[1:], strict=True) if o.kind == "gradient"]
    with tracer.rules():
        flag = tracer.node_of(largest([tracer.input(n) for n in dict.fromkeys([results[0], *looked_at])]))
    graph.output((*results, flag))
    return joint.with_fx(graph, outputs=(*joint.outputs, Output("flag", "largest"))).verify()


class Appended:
    """A copy of ``base`` that grows. Its results: those of ``base`` that are no gradients, then what is written."""

    def __init__(self, base: Graph) -> None:
        self.base = base
        self.graph, self.where = base.copy()
        self.tracer = Tracer(self.graph)
        self.inputs = list(base.inputs)
        self.outputs: list[Output] = []
        self.results: list[fx.Node] = []
        self.gradients: dict[str, fx.Node] = {}
        self.written: dict[str, fx.Node] = {}  # what the forward writes to: statistics, clipped weights
        self.bound = {id(i.tensor): i.name for i in base.inputs if i.tensor is not None}

    def _start(self, takes_writes: bool) -> None:
        """Take the gradients away; ``takes_writes``: and the new values of their parameters."""
        base = self.base
        self.gradients = {base.outputs[i].name: self.where[base.results[i]] for i in base.positions("gradient")}
        for entry, node in zip(base.outputs, base.results, strict=True):
            if entry.kind == "mutation":
                self.written[entry.name] = self.where[node]
            taken = takes_writes and entry.kind == "mutation" and entry.name in self.gradients
            if entry.kind != "gradient" and not taken:
                self._output(entry, self.where[node])

    def _finish(self) -> Graph:
        self.graph.output(tuple(self.results))
        grown = self.base.with_fx(self.graph, inputs=tuple(self.inputs), outputs=tuple(self.outputs))
        return grown.verify()

    def _input(self, name: str, tensor: Tensor, kind: InputKind = "state") -> Tensor:
        self.inputs.append(Input(kind, name, tensor))
        return self.tracer.placeholder("".join(c if c.isalnum() else "_" for c in name), tensor)

    def _value(self, name: str) -> Tensor:
        """A parameter when the backward pass is over."""
        return self.tracer.input(self.written.get(name) or self.where[self.base.placeholder(name)])

    def _mutation(self, name: str, tensor: Tensor) -> None:
        self._output(Output("mutation", name), self.tracer.node_of(tensor))

    def _output(self, entry: Output, node: fx.Node) -> None:
        self.outputs.append(entry)
        self.results.append(node)


class Update(Appended):
    """Appends the update of every parameter with a gradient to a differentiated graph.

    Where every step so far has updated the same parameters (``share``), those with equal step counters have their bias
    corrections in common.
    """

    def __init__(
        self,
        joint: Graph,
        optimizer: optim.Optimizer,
        rates: Rates,
        share: bool = True,
        clip: Clip | None = None,
        carried: Carried | None = None,
    ) -> None:
        super().__init__(joint)
        self.optimizer = optimizer
        self.rule = RULES[type(optimizer)]
        self.rates = rates
        self.share = share  # parameters with equal step counters have equal ones for ever
        self.clip = clip or Clip()
        self.carried = carried
        self.norm: Tensor | None = None  # where the norm of the gradients goes
        self.new: dict[str, Tensor] = {}  # what each parameter becomes

    def append(self) -> Graph:
        """The graph of the whole step: results, then mutations of buffers, parameters and optimizer state."""
        self._start(takes_writes=True)
        groups = [
            [(p, name) for p in group["params"] if (name := self.bound.get(id(p), "")) in self.gradients]
            for group in self.optimizer.param_groups
        ]
        states = [
            [prepare(self.optimizer, group, p) for p, _ in members]
            for group, members in zip(self.optimizer.param_groups, groups, strict=True)
        ]
        values = [self.gradients[name].meta["val"] for members in groups for _, name in members]
        if self.carried is not None and self.clip.norm is not None and values:
            self.norm = self.carried.norm_of(values)
        counts = [[{k: float(s[k]) for k in self.rule.counters if k in s} for s in group] for group in states]
        with self.tracer.rules():
            gradients = self._clipped([name for members in groups for _, name in members])
            for k, members in enumerate(groups):
                if members:
                    self._group(k, [name for _, name in members], states[k], counts[k], gradients)
            if self.carried is not None and self.carried.averages:
                self._average(self.carried)
        return self._finish()

    def _clipped(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The gradients as the optimizer gets them, by name."""
        gradients: dict[str, Tensor] = {}
        sizes: list[Tensor] = []
        for name in names:
            with self.tracer.labelled({"update_of": name}):
                gradients[name] = self.clip.bounded(self.tracer.input(self.gradients[name]))
                if self.clip.norm is not None:
                    sizes.append(self.clip.size(gradients[name]))
        if not sizes:
            return gradients
        with self.tracer.labelled({"update_of": EVERY}):
            total = self.clip.total(sizes)
            scale = self.clip.scale(total)
        if self.norm is not None:
            self._input("gradient norm", self.norm)
            self._mutation("gradient norm", total)
        for name, gradient in gradients.items():
            with self.tracer.labelled({"update_of": name}):
                gradients[name] = gradient * scale.to(gradient.device)
        return gradients

    def _group(
        self,
        k: int,
        names: Sequence[str],
        states: Sequence[State],
        counts: Sequence[Mapping[str, float]],
        gradients: Mapping[str, Tensor],
    ) -> None:
        group = self._options(k)
        lr = self._input(f"learning rate {k}", self.rates.learning[k])
        shared: dict[Any, Tensor] = {}  # bias corrections are computed once where all counters are equal
        for name, tensors, numbers in zip(names, states, counts, strict=True):
            with self.tracer.labelled({"update_of": name}):
                state: State = {key: self._input(f"{key} of {name}", t) for key, t in tensors.items()}
                if "step" in state:
                    new_step = state["step"] + 1
                    self._mutation(f"step of {name}", new_step)
                    state["shared_step"] = new_step
                if self.share:
                    numbers = {"shared_step" if key == "step" else key: number for key, number in numbers.items()}
                    equal = tuple(numbers.items())
                    state |= {key: shared.setdefault((key, equal), state[key]) for key in numbers}
                gradient = -gradients[name] if group.get("maximize") else gradients[name]
                old = self._value(name)
                value, new = updated(self.optimizer, old, gradient, lr, state, group)
                self.new[name] = value
                self._mutation(name, value)
                for key, tensor in new.items():
                    self._mutation(f"{key} of {name}", tensor)

    def _options(self, k: int) -> dict[str, Any]:
        """The options of a group, with inputs in the place of those that change."""
        group = dict(self.optimizer.param_groups[k])
        for option, tensors in self.rates.inputs(k).items():
            symbols = tuple(self._input(f"{option} {at} of group {k}", t) for at, t in enumerate(tensors))
            group[option] = symbols if isinstance(group[option], (tuple, list)) else symbols[0]
        return group

    def _average(self, carried: Carried) -> None:
        """ema ← decay · ema + (1 - decay) · p, of parameters that this step does not update too."""
        decay = carried.refinements.ema_decay
        assert decay is not None
        names = carried.names
        for p, average in carried.averages.items():
            name = self.bound.get(id(p)) or names[p]
            with self.tracer.labelled({"update_of": name}):
                value = self.new.get(name)
                if value is None:
                    value = self._value(name) if id(p) in self.bound else self._input(name, p, "parameter")
                old = self._input(average_name(name), average)
                self._mutation(average_name(name), torch.lerp(old, value, 1 - decay))
