"""A graph in two parts: everything but the updates, and a compiled pass over each parameter behind it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.autograd.graph import increment_version

from memograd import finite
from memograd.errors import BackendError
from memograd.finite import measured
from memograd.graph.graph import Graph
from memograd.graph.printing import flat_function, load
from memograd.graph.reach import ancestors
from memograd.ops import has_effect
from memograd.run import threads
from memograd.run.updates.kernels import Task, compiled
from memograd.run.updates.regions import Region, numbers, regions

Tensor = torch.Tensor
_SHARE = 1 << 18  # elements, from which another thread is worth waking


class Updates:
    """What runs behind ``function``, the rest of the graph.

    ``function(*flat)`` returns the graph's other results and what the updates read; ``write`` does the updates in
    place, ``compute`` elsewhere.
    """

    def __init__(self, graph: Graph, of_parameters: Sequence[Region]) -> None:
        first = numbers(graph, of_parameters)
        self.count = len(of_parameters)
        self.ahead = int(first is not None)  # regions that others wait for
        every = of_parameters if first is None else [first, *of_parameters]
        exports = {n: k for k, n in enumerate(first.exports if first is not None else ())}
        self.regions = every
        self.places = [k for r in every for k in r.places]
        self.positions = [k for r in every for k in r.results]
        # What says whether the step is finite is no operator here: its operands are looked at before anything is
        # written (``eager.py``).
        flags = graph.positions("flag")
        looked_at: list[fx.Node] = [*graph.results[flags[0]].args[0]] if flags else []  # pyright: ignore
        self._flag = next(iter(flags), None)
        apart = {*self.positions, *flags}
        self.others = [k for k in range(len(graph.results)) if k not in apart]
        read = dict.fromkeys(
            n for r in every for n in (*r.wholes, *r.numbers) if n.op != "placeholder" and n not in exports
        )
        read.update(dict.fromkeys(n for n in looked_at if n.op != "placeholder"))
        flagged = {graph.results[k] for k in flags}
        self.function = _rest(graph, [*(graph.results[k] for k in self.others), *read], flagged)
        flat = {n: k for k, n in enumerate(graph.placeholders)}
        computed = {n: len(flat) + len(self.others) + k for k, n in enumerate(read)}
        among = {n: -1 - k for n, k in exports.items()}  # from the end
        self._looked_at = [flat[n] if n in flat else computed[n] for n in looked_at]
        self._where = flat | computed | among  # among the inputs, what ``function`` returns, and what is exported
        self._exported = [n.meta["val"].dtype for n in exports]
        self._reads = [([self._where[n] for n in r.wholes], [self._where[n] for n in r.numbers]) for r in every]
        self._geometry = [[_geometry(n.meta["val"].dtype, r.like) for n in r.wholes] for r in every]
        self._written = [[_geometry(graph.results[k].meta["val"].dtype, r.like) for k in r.results] for r in every]
        self._call, kinds = compiled(every, graph)
        self._starts = [0]
        for r in every:
            self._starts.append(self._starts[-1] + len(r.wholes) + len(r.numbers) + len(r.results) + len(r.exports))
        self._pieces = [(kind, at, r.like.numel()) for kind, at, r in zip(kinds, self._starts, every, strict=False)]
        if self.ahead:
            self._first = (Task * 1)(Task(*self._pieces.pop(0)[:2], 0, 1))
        self._shares: dict[int, list[Any]] = {}

    def write(self, flat: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """The updates, where the old values lie."""
        targets = [[flat[k] for k in r.places] for r in self.regions]
        if all(
            _fits(t, *g) for ts, gs in zip(targets, self._written, strict=True) for t, g in zip(ts, gs, strict=True)
        ):
            self._run(flat, values, targets)
            increment_version([t for ts in targets for t in ts])  # autograd must know that they were written to
            return
        new = self._fresh(flat, values)
        torch._foreach_copy_([t for ts in targets for t in ts], [t for ts in new for t in ts])  # pyright: ignore

    def looked_at(self, flat: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
        """What must be finite, or nothing may be written; nothing where that is not asked."""
        return [flat[k] if k < len(flat) else values[k - len(flat)] for k in self._looked_at]

    def compute(self, flat: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """All results of the graph; nothing is written."""
        results: dict[int, Tensor] = dict(zip(self.others, values, strict=False))
        for region, new in zip(self.regions, self._fresh(flat, values), strict=True):
            results.update(zip(region.results, new, strict=True))
        if self._flag is not None:
            results[self._flag] = measured(self.looked_at(flat, values))
        return tuple(results[k] for k in range(len(results)))

    def _fresh(self, flat: Sequence[Tensor], values: Sequence[Tensor]) -> list[list[Tensor]]:
        targets = [[torch.empty_strided(s, t, dtype=d) for d, s, t in gs] for gs in self._written]
        self._run(flat, values, targets)
        return targets

    def _run(self, flat: Sequence[Tensor], values: Sequence[Tensor], targets: list[list[Tensor]]) -> None:
        exported = [torch.empty((), dtype=dtype) for dtype in self._exported]
        every = [*flat, *values, *reversed(exported)]
        laid_out: list[Tensor] = []  # alive until the kernels are done
        pointers: list[int] = []
        for (wholes, single), geometry, written in zip(self._reads, self._geometry, targets, strict=True):
            for k, (dtype, shape, strides) in zip(wholes, geometry, strict=True):
                tensor = every[k]
                if not _fits(tensor, dtype, shape, strides):
                    tensor = torch.empty_strided(shape, strides, dtype=dtype).copy_(tensor)
                    laid_out.append(tensor)
                pointers.append(tensor.data_ptr())
            pointers += [every[k].data_ptr() for k in single]
            pointers += [t.data_ptr() for t in written]
            if len(pointers) == self._starts[1] - len(exported) and self.ahead:
                pointers += [t.data_ptr() for t in exported]
        array = (ctypes.c_void_p * len(pointers))(*pointers)
        if self.ahead:
            self._call(array, self._first, 1)
        threads.at_once(self._call, [(array, tasks, len(tasks)) for tasks in self._tasks(torch.get_num_threads())])

    def _tasks(self, most: int) -> list[Any]:
        """Ranges of elements for each of the threads that are worth it."""
        if most not in self._shares:
            total = sum(numel for *_, numel in self._pieces)
            count = max(1, min(most, total // _SHARE))
            self._shares[most] = [(Task * len(part))(*part) for part in _split(self._pieces, total, count)]
        return self._shares[most]


def separate(graph: Graph) -> tuple[Updates | None, str]:
    """The updates of a lowered graph, and in words how they run."""
    labels = {graph.results[k].meta.get("update_of") for k in graph.positions("mutation")}
    total = len(labels & {graph.outputs[k].name for k in graph.positions("mutation")})  # and not gradients' sums alone
    if not total:
        return None, ""
    if any(finite.is_asynchronous(graph.results[k].meta["val"].device) for k in graph.positions("flag")):
        return None, "updates run operator by operator: an accelerator says whether they are made"
    try:
        of_parameters = regions(graph)
        updates = Updates(graph, of_parameters) if of_parameters else None
    except BackendError as error:
        return None, f"updates run operator by operator: {error}"
    if updates is None:
        return None, "updates run operator by operator: they are on another device, or of a dtype C has not"
    rest = f", {total - len(of_parameters)} operator by operator" if total > len(of_parameters) else ""
    return updates, f"one pass over each of {len(of_parameters)} parameters updates it{rest}"


def _rest(graph: Graph, results: list[fx.Node], but: set[fx.Node]) -> Callable[..., Any]:
    """The function of the graph's inputs that computes ``results``, and runs what has effects ``but`` for some."""
    needed = ancestors([*results, *(n for n in graph.nodes if has_effect(n) and n not in but)])
    source = flat_function("step", list(graph.placeholders), [n for n in graph.nodes if n in needed], results)
    return load(source, "step")


def _geometry(dtype: torch.dtype, like: Tensor) -> tuple[torch.dtype, torch.Size, tuple[int, ...]]:
    return dtype, like.shape, like.stride()


def _fits(tensor: Tensor, dtype: torch.dtype, shape: torch.Size, strides: tuple[int, ...]) -> bool:
    return tensor.dtype == dtype and tensor.shape == shape and tensor.stride() == strides and not tensor.is_neg()


def _split(pieces: Sequence[tuple[int, int, int]], total: int, count: int) -> list[list[Task]]:
    """The elements of all pieces in ``count`` equal parts."""
    parts: list[list[Task]] = [[] for _ in range(count)]
    done = 0
    for kind, at, numel in pieces:
        first = 0
        while first < numel:
            part = min(count - 1, done * count // total)
            end = total if part == count - 1 else -(-total * (part + 1) // count)
            last = min(numel, first + end - done)
            parts[part].append(Task(kind, at, first, last))
            done += last - first
            first = last
    return [p for p in parts if p]
