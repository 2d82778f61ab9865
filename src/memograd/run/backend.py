"""What runs a graph: the interface that training sees, and what all backends do alike.

To write one, derive from ``Backend`` beside ``Eager``, ``Inductor``, ``Native`` and ``Planned`` (only ``Convolutions``
is derived from another: it runs as ``Eager`` does), and provide

- ``name``, by which users ask for it and reports speak of it;
- ``__init__(graph)``, which calls ``super().__init__(graph)`` and makes of the graph whatever runs it. The graph is
  lowered already; what cannot be run is refused here with a ``BackendError`` that says why;
- ``compute(flat)``, which is pure: all of the graph's results, from its inputs;
- ``step(flat)``, which writes mutations back and returns the other results: ``self.commit(flat, results)`` where all
  results come before the first write, or something of its own that writes sooner or with less memory. That owes what
  ``commit`` does: where the graph has a ``flag``, nothing may be written of a step that is not finite.

``run`` may be overridden by who can do many steps without Python in between; ``how`` and ``plan`` are set where there
is something to say. A line in ``choose.BACKENDS`` lets users ask for it.

    class Plain(Backend):
        name = "plain"

        def __init__(self, graph):
            super().__init__(graph)
            self.function = graph.function

        def compute(self, flat):
            return run(self.function, flat)

        def step(self, flat):
            return self.commit(flat, self.compute(flat))
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from memograd import finite
from memograd._torch import any_modes, without_function_modes
from memograd.finite import Guard, TrippedError, refuse
from memograd.graph.graph import Graph
from memograd.memory.plan import Plan

Writes = list[tuple[list[int], list[int]]]


class Backend(ABC):
    """Runs a lowered training graph on tensors that require no gradient (detached ones), so that nothing is taped.

    ``compute(flat)`` is pure: results from inputs. ``commit(flat, results)`` writes mutations back into the inputs and
    returns the results that are no mutations. ``step(flat)`` does both. Where the graph has a ``flag``, neither writes
    anything of a step that is not finite; see ``memograd.finite``.

    Attributes:
        name: what users call it.
        how: parameters are updated, in words, where that can be done in more than one way.
        plan: whose order and byte budget it keeps.
        count: of results.
        feedback: which result is written into which input.
        flag: the result that says whether the step is finite.
        returned: the results that a step returns.
        guard: who writes where an accelerator must not be waited for.
    """

    name: str
    how: str = ""
    plan: Plan | None = None

    def __init_subclass__(cls) -> None:
        """What it runs is not seen by function modes of the caller's: what they did is in the graph."""
        for name in ("compute", "step", "run"):
            if name in vars(cls):
                setattr(cls, name, _unseen(vars(cls)[name]))

    def __init__(self, graph: Graph) -> None:
        names = [i.name for i in graph.inputs]
        self.count = len(graph.outputs)
        self.feedback = {i: names.index(o.name) for i, o in enumerate(graph.outputs) if o.kind == "mutation"}
        self.flag = next(iter(graph.positions("flag")), None)
        self.returned = [i for i in range(self.count) if i not in self.feedback and i != self.flag]
        self.guard: Guard | None = None
        self._writes = self._writes_among(graph, range(self.count))

    @abstractmethod
    def compute(self, flat: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        """All results from inputs; nothing is written."""

    @abstractmethod
    def step(self, flat: Sequence[Any]) -> list[torch.Tensor]:
        """One step, written back into ``flat``; the results that are no mutations.

        Raises:
            TrippedError: the step is not finite, and that is known at once; nothing was written.
        """

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

    def commit(self, flat: Sequence[Any], results: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Write what ``compute`` returned.

        Raises:
            TrippedError: the step is not finite; nothing was written.
        """
        guard = self.guard if self.flag is None else self._guarded(results[self.flag])
        for inputs, outputs in self._writes:
            old, new = [flat[i] for i in inputs], [results[o] for o in outputs]
            if guard is not None:
                guard.write(old, new)
            else:
                torch._foreach_copy_(old, new)  # pyright: ignore[reportPrivateImportUsage]
        return [results[i] for i in self.returned]

    def _guarded(self, largest: torch.Tensor) -> Guard | None:
        """Who writes what this step computes, where it takes more than to copy it.

        Raises:
            TrippedError: the step is not finite.
        """
        if not finite.is_asynchronous(largest.device):
            refuse(largest)
            return None
        return self._guard_on(largest.device).about(largest)

    def _guard_on(self, device: torch.device) -> Guard:
        if self.guard is None or self.guard.device != device:
            self.guard = Guard(device)
        return self.guard

    def _writes_among(self, graph: Graph, results: Sequence[int]) -> Writes:
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


def _unseen(method: Any) -> Any:
    @functools.wraps(method)
    def called(self: Backend, *args: Any) -> Any:
        if not any_modes():
            return method(self, *args)
        with without_function_modes():
            return method(self, *args)

    return called
