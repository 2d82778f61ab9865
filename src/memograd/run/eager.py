"""The eager backend: straight-line Python of ATen calls, no autograd tape, each value freed at its last use, and behind
it one compiled pass over each parameter that updates it in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from memograd.finite import Guard, TrippedError, refuse
from memograd.graph.graph import Graph
from memograd.graph.signature import run
from memograd.run.max_pool import compiled_pooling
from memograd.run.pool.places import ANYWHERE, Places
from memograd.run.updates.update import Updates, separate

Writes = list[tuple[list[int], list[int]]]


class Eager:
    """Runs a lowered training graph on tensors that require no gradient (detached ones), so that nothing is taped.

    ``compute(flat)`` is pure: results from inputs. ``commit(flat, results)`` writes mutations back into the inputs and
    returns the results that are no mutations. ``step(flat)`` does both, in memory that it uses again. Where the graph
    has a ``flag``, neither writes anything of a step that is not finite; see ``memograd.finite``.
    """

    name = "eager"
    updates: Updates | None = None  # behind the function, if they are not part of it
    how = ""  # parameters are updated, in words

    def __init__(self, graph: Graph) -> None:
        self.function = self.build(graph)
        self.route(graph)

    def route(self, graph: Graph) -> None:
        """Which result is written into which input, and which are returned."""
        self.places = Places()
        names = [i.name for i in graph.inputs]
        self.count = len(graph.outputs)
        self.feedback = {i: names.index(o.name) for i, o in enumerate(graph.outputs) if o.kind == "mutation"}
        self.flag = next(iter(graph.positions("flag")), None)
        self.kept = [i for i in range(self.count) if i not in self.feedback and i != self.flag]
        self.guard: Guard | None = None  # who writes where an accelerator must not be waited for
        self.writes = self._writes(graph, list(range(self.count)))
        if self.updates is not None:
            others = self.updates.others
            self.kept_beside = [others.index(i) for i in self.kept]
            self.flag_beside = None if self.flag is None else others.index(self.flag)
            self.writes_beside = self._writes(graph, others)

    def build(self, graph: Graph) -> Any:
        graph = compiled_pooling(graph)
        self.updates, self.how = separate(graph)
        return graph.function if self.updates is None else self.updates.function

    def _writes(self, graph: Graph, results: Sequence[int]) -> Writes:
        """What is written back of ``results``, as (inputs, positions among them): of one device and dtype each, so that
        a kernel copies many."""
        groups: dict[Any, tuple[list[int], list[int]]] = {}
        for position, result in enumerate(results):
            if (place := self.feedback.get(result)) is not None:
                value = graph.placeholders[place].meta["val"]
                inputs, outputs = groups.setdefault((value.device, value.dtype), ([], []))
                inputs.append(place)
                outputs.append(position)
        return list(groups.values())

    def compute(self, flat: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        with ANYWHERE:
            values = run(self.function, flat)
            return values if self.updates is None else self.updates.compute(flat, values)

    def step(self, flat: Sequence[Any]) -> list[torch.Tensor]:
        with self.places:
            return self._step(flat)

    def _step(self, flat: Sequence[Any]) -> list[torch.Tensor]:
        values = run(self.function, flat)
        if self.updates is None:
            return self.commit(flat, values)
        if self.flag_beside is not None:
            refuse(values[self.flag_beside])
        for inputs, outputs in self.writes_beside:
            torch._foreach_copy_([flat[i] for i in inputs], [values[o] for o in outputs])  # pyright: ignore
        self.updates.write(flat, values)
        return [values[i] for i in self.kept_beside]

    def commit(self, flat: Sequence[Any], results: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        guard = self.guard if self.flag is None else self.guarded(results[self.flag])
        for inputs, outputs in self.writes:
            old, new = [flat[i] for i in inputs], [results[o] for o in outputs]
            if guard is not None:
                guard.write(old, new)
            else:
                torch._foreach_copy_(old, new)  # pyright: ignore[reportPrivateImportUsage]
        return [results[i] for i in self.kept]

    def guarded(self, largest: torch.Tensor) -> Guard | None:
        """Who writes what this step computes, where it takes more than to copy it.

        Raises:
            TrippedError: the step is not finite.
        """
        if largest.device.type == "cpu":
            refuse(largest)
            return None
        if self.guard is None or self.guard.device != largest.device:
            self.guard = Guard(largest.device)
        return self.guard.about(largest)

    def run(self, flat: Sequence[Any], steps: int) -> torch.Tensor:
        """Many steps on one batch; the first result (the loss) of each."""
        losses = None
        for k in range(steps):
            try:
                loss = self.step(flat)[0]
            except TrippedError:
                raise TrippedError(k) from None
            if losses is None:
                losses = loss.new_empty(steps)
            losses[k] = loss
        assert losses is not None
        return losses
