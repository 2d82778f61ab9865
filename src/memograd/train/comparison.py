"""The program of a step beside PyTorch: its gradients by autograd, its writes by PyTorch's optimizer.

A step returns new parameters, not gradients, and an update of a millionth shows nothing of the gradient it was made of.
So the gradients are compared on the differentiated graph, run operator by operator. The program that will really run
must then write what PyTorch's optimizer writes with these gradients; compiled kernels, whose gradients are their own,
run once more with learning rates so large that a wrong gradient is seen in the parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import torch
from torch import optim

from memograd.graph.graph import Graph
from memograd.ops import is_random
from memograd.run.backend import Backend
from memograd.run.choose import Choice
from memograd.tracing.at_run_time import called_in_vain, calls_code
from memograd.train.build import Training
from memograd.train.expected import Expected, clipped, sums, updates
from memograd.train.gather import sum_name
from memograd.train.program import Program
from memograd.witness.agreement import Difference, Results, difference, differences, largest, precision_of
from memograd.witness.trial import Trial, mismatch

Tensor = torch.Tensor
_NEARBY = 1e-2  # share by which parameters are moved to look again: a kink that is met by chance is left behind
_ULPS = 16  # an update is a handful of operations on each element
_BLAMED = "{} is the {} backend, or the optimizer's update in the graph, that computes something else."


@dataclass(frozen=True)
class Comparison:
    """One program at one batch.

    Attributes:
        trial: the differentiated graph beside the model.
        flat: the flat inputs of the program.
    """

    program: Program
    trial: Trial
    flat: list[Any]
    training: Training

    def results(self, theirs: Results) -> Sequence[Tensor]:
        """What the program computes; nothing is written yet, and the generators are as a step leaves them. Where it
        draws random numbers it runs once more, and draws what nobody else has drawn since; and where it calls code of
        the user's, which leaves behind what one run does.

        Raises:
            GradientMismatchError: it is not what PyTorch computes.
        """
        assert self.program.origin is not None
        computed = self._with_update(theirs) if not self.program.gradients else self._gradients(theirs)
        if computed is None or self.program.devices or calls_code(self.trial.joint):
            return self.backend.compute(self.flat)
        return computed

    def _gradients(self, theirs: Results) -> Sequence[Tensor] | None:
        if not self._comparable:
            self.trial.demand(self.trial.ours(), theirs)
            return None
        results = self._again(self.flat)
        if wrong := self.trial.wrong(self.trial.named(results), theirs):
            self.trial.demand(self.trial.ours(), theirs)
            raise mismatch(wrong, self._blamed)
        return results

    def _with_update(self, theirs: Results) -> Sequence[Tensor] | None:
        ours = self.trial.ours()
        self.trial.demand(ours, theirs)
        if not self._comparable:
            return None
        if not self._compiled:
            results = self._again(self.flat)
            if wrong := self._wrong(self.flat, results, ours, theirs, {}, {}):
                raise mismatch(wrong, self._blamed)
            return results
        if self._looks_wrong(self.trial, self.flat, theirs):
            trial, flat = self._nearby()
            if self._looks_wrong(trial, flat, theirs) and (
                wrong := self._looks_wrong(trial, flat, theirs, self.trial.noise(theirs))  # nothing but rounding?
            ):
                raise mismatch(wrong, self._blamed)
        return None

    def _again(self, flat: Sequence[Any]) -> Sequence[Tensor]:
        """What the program computes with the random numbers of the trial."""
        drawing = self.trial.drawn.again() if self.program.devices else nullcontext()
        with called_in_vain(self.trial.joint), drawing:
            return self.backend.compute(flat)

    def _looks_wrong(
        self, trial: Trial, flat: list[Any], theirs: Results, noise: Mapping[str, float] | None = None
    ) -> list[Difference]:
        """What compiled kernels make of these inputs, with learning rates at which gradients show; ``noise``: how much
        of a gradient or a new value may be rounding."""
        ours = trial.ours()
        rates = self._rates(ours, theirs)
        steep = list(flat)
        for at, entry in enumerate(self.program.graph.inputs):
            if entry.name in rates:
                steep[at] = torch.full_like(flat[at], rates[entry.name])
        results = self._again(steep)
        by_group = {k: rates[f"learning rate {k}"] for k in range(len(rates))}
        return self._wrong(flat, results, ours, theirs, by_group, noise or {})

    def _wrong(
        self,
        flat: Sequence[Any],
        results: Sequence[Tensor],
        ours: Results,
        theirs: Results,
        rates: Mapping[int, float],
        noise: Mapping[str, float],
    ) -> list[Difference]:
        """Where the results of the program are not what ours, operator by operator, and PyTorch's optimizer give."""
        graph, precision = self.program.graph, self.trial.precision
        contents = {i.name: t for i, t in zip(graph.inputs, flat, strict=True)}
        mine = contents | {graph.outputs[i].name: results[i] for i in graph.positions("mutation")}
        buffers = {n: t for n, t in ours.written.items() if n not in theirs.gradients}
        apart = differences(Results(results[0], {}, mine), Results(ours.loss, {}, buffers), precision.loose)
        wrong = [d for d in apart if d.error > noise.get(d.what, 0.0)]
        if self.program.gathers:
            wrong += _others_have_gradients(ours, theirs)
            return wrong + unexpected(mine, sums(self.training, contents, ours, theirs, precision, noise))
        return wrong + unexpected(mine, updates(self.training, graph, contents, ours, theirs, precision, rates, noise))

    def _rates(self, ours: Results, theirs: Results) -> dict[str, float]:
        """For each group the learning rate at which one step is as large as the parameters."""
        names = {id(i.tensor): i.name for i in self.trial.joint.inputs if i.tensor is not None}
        every = [n for n in names.values() if n in theirs.gradients]
        gradients, _ = clipped(self.training.refinements.clip, ours, theirs, every)
        rates: dict[str, float] = {}
        if self.program.gathers:  # sums show gradients as they are
            return rates
        optimizer = self.training.optimizer
        for k, group in enumerate(optimizer.param_groups):
            stepped = [n for p in group["params"] if (n := names.get(id(p), "")) in ours.gradients]
            size = max((largest(ours.written[n]) for n in stepped), default=0.0) or 1.0
            slope = max((largest(g) for n in stepped if (g := gradients.get(n)) is not None), default=0.0) or 1.0
            rates[f"learning rate {k}"] = size / slope if isinstance(optimizer, optim.SGD) else size
        return rates

    def _nearby(self) -> tuple[Trial, list[Any]]:
        """The same with other parameters."""
        generator = torch.Generator().manual_seed(0)
        moved: dict[int, Tensor] = {}
        for entry in self.trial.joint.inputs:
            if entry.kind == "parameter" and entry.tensor is not None:
                way = 2 * torch.rand(entry.tensor.shape, generator=generator) - 1
                moved[id(entry.tensor)] = entry.tensor.detach() * (1 + _NEARBY * way).to(entry.tensor)
        graphs = ((self.trial.joint, self.trial.flat), (self.program.graph, self.flat))
        joint, step = (
            [moved.get(id(i.tensor), t) for i, t in zip(graph.inputs, flat, strict=True)] for graph, flat in graphs
        )
        return replace(self.trial, flat=joint), step

    @property
    def backend(self) -> Backend:
        return self.program.choice.backend

    @property
    def _compiled(self) -> bool:
        return self.backend.name != "eager"

    @property
    def _comparable(self) -> bool:
        """Inductor's random numbers are its own."""
        one_function = self.backend.name == "inductor" and self.backend.plan is None
        return not (one_function and any(map(is_random, self.program.graph.nodes)))

    @property
    def _blamed(self) -> str:
        return _BLAMED.format("Operator by operator the gradients are right: it", self.backend.name)


def compared_update(graph: Graph, choice: Choice, flat: Sequence[Any], training: Training) -> Sequence[torch.Tensor]:
    """What an update by itself computes from the sums of gradients; nothing is written yet.

    Raises:
        GradientMismatchError: it is not what PyTorch computes.
    """
    contents = {i.name: t for i, t in zip(graph.inputs, flat, strict=True)}
    gathered = Results(torch.zeros(()), {name: contents[sum_name(name)] for name in graph.wrt}, contents)
    results = choice.backend.compute(flat)
    mine = contents | {graph.outputs[i].name: results[i] for i in graph.positions("mutation")}
    if wrong := unexpected(mine, updates(training, graph, contents, gathered, gathered, precision_of(graph), {}, {})):
        blamed = _BLAMED.format("The update of several batches: it", choice.backend.name)
        raise mismatch(wrong, blamed, "No parameter was overwritten. Please report it")
    return results


def unexpected(mine: Mapping[str, Tensor], awaited: Iterable[Expected]) -> list[Difference]:
    """Where what is in ``mine`` is not what is expected."""
    wrong: list[Difference] = []
    for expected in awaited:
        new = {n: mine.get(n, before) for n, before in expected.before.items()}  # what it leaves out stays
        others = [n for n, value in expected.values.items() if _beyond(n, new[n], value, 0.0)]
        reach = expected.reach() if others else {}
        wrong += [d for n in others if (d := _beyond(n, new[n], expected.values[n], reach[n]))]
    return wrong


def _others_have_gradients(ours: Results, theirs: Results) -> list[Difference]:
    """Zero and no gradient are not the same: weights without one are left alone by the update."""
    wrong: list[Difference] = []
    for name, gradient in theirs.gradients.items():
        mine = ours.gradients.get(name)
        if (mine is None) != (gradient is None):
            here, there = (nan if g is None else 0.0 for g in (mine, gradient))
            wrong.append(Difference(f"whether {name!r} has a gradient", name, 0.0, 0.0, (), here, there))
    return wrong


def _beyond(name: str, ours: Tensor, theirs: Tensor, reach: float | Tensor) -> Difference | None:
    share = _ULPS * torch.finfo(theirs.dtype).eps
    return difference(f"the new value of {name!r}", name, ours, theirs, share, reach)
