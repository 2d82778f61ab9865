"""One convolution or gradient of one, with its sizes, and the algorithms that can do it; the fastest is measured once
for each machine and kept on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch

from memograd import progress
from memograd.draws import timed
from memograd.errors import BackendError
from memograd.run.convolutions import patches, positions, winograd
from memograd.run.pool.places import ANYWHERE
from memograd.run.records import Record

aten = torch.ops.aten
DIRECT = "direct"  # PyTorch's own kernel
_WORTH = 1e7  # operations: of less PyTorch's own takes no longer than a measurement is off
_ROUNDS, _ENOUGH = 4, 0.1  # of measuring one; seconds, after which there is no other round
_SHORT = 0.01  # seconds of a first run, after which there is another one before any is left out
_FAR = 3.0  # times the fastest: the first run of an algorithm may take twice as long as the next
_MARGIN = 0.9  # of the time of PyTorch's own that another must not need: alone, with all it reads in the cache


@dataclass(frozen=True)
class Case:
    """One of ``convolution``, ``input_gradient`` and ``filter_gradient``, in float32, of contiguous images.

    Attributes:
        image: [n, c, h, w], and ``filters``: [o, c, kh, kw].
        result: [n, o, rows, columns].
    """

    kind: Literal["convolution", "input_gradient", "filter_gradient"]
    image: tuple[int, ...]
    filters: tuple[int, ...]
    result: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def fastest(self) -> str:
        """The name of the algorithm: ``direct``, ``winograd``, ``patches`` or ``positions``."""
        if 2 * prod(self.result) * prod(self.filters[1:]) < _WORTH:
            return DIRECT
        record = Record.of_operator(repr(self))
        if DIRECT not in record.seconds:
            algorithms = self._algorithms()
            if len(algorithms) == 1:
                return DIRECT
            record.seconds = _seconds(algorithms)
            record.keep()
        best = min(record.seconds, key=record.seconds.__getitem__)
        return best if record.seconds[best] < _MARGIN * record.seconds[DIRECT] else DIRECT

    def _algorithms(self) -> dict[str, Callable[[], Any]]:
        """Each that can be had, on numbers of its own."""
        x, w, y = (torch.ones(shape) for shape in (self.image, self.filters, self.result))
        algorithms = {DIRECT: self._direct(x, w, y)}
        pad, s, p = self.padding[0], self.stride, self.padding
        by_tiles: dict[str, Callable[[], Any]] = {
            "convolution": lambda: winograd.convolution(x, w, pad),
            "input_gradient": lambda: winograd.input_gradient(y, w, pad),
            "filter_gradient": lambda: winograd.filter_gradient(y, x, pad),
        }
        by_patches: dict[str, Callable[[], Any]] = {
            "convolution": lambda: patches.convolution(x, w, self.result[2:], s, p),
            "input_gradient": lambda: patches.input_gradient(y, w, self.image, s, p),
            "filter_gradient": lambda: patches.filter_gradient(y, x, self.filters, s, p),
        }
        by_positions: dict[str, Callable[[], Any]] = {
            "convolution": lambda: positions.convolution(x, w, self.result[2:], s, p),
            "input_gradient": lambda: positions.input_gradient(y, w, self.image, s, p),
            "filter_gradient": lambda: positions.filter_gradient(y, x, self.filters, s, p),
        }
        with suppress(BackendError):  # no compiler
            if winograd.fits(self.filters[2:], s, p) and winograd.library():
                algorithms["winograd"] = by_tiles[self.kind]
            if patches.fits(self.filters, self.result[0] * prod(self.result[2:])) and patches.library():
                algorithms["patches"] = by_patches[self.kind]
            if positions.fits(self.image, self.filters, self.result) and positions.library():
                algorithms["positions"] = by_positions[self.kind]
        return algorithms

    def _direct(self, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Callable[[], Any]:
        rest = (list(self.stride), list(self.padding), [1, 1], False, [0, 0], 1)
        if self.kind == "convolution":
            return lambda: aten.convolution.default(x, w, None, *rest)
        mask = [self.kind == "input_gradient", self.kind == "filter_gradient", False]
        return lambda: aten.convolution_backward.default(y, x, w, None, *rest, mask)


def _seconds(algorithms: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The best time of each, in turn; of one that is much slower at first, that first time."""
    progress.say("measuring convolutions")
    with timed(draws=False), ANYWHERE:
        best = {name: _took(run) for name, run in algorithms.items()}  # which also fills caches
        for name in (name for name in algorithms if best[name] < _SHORT):  # what it makes once may have taken that
            best[name] = min(best[name], _took(algorithms[name]))
        near = [name for name in algorithms if best[name] < _FAR * min(best.values())]
        start = time.perf_counter()
        for _ in range(_ROUNDS if len(near) > 1 else 0):
            for name in near:
                best[name] = min(best[name], _took(algorithms[name]))
            if time.perf_counter() - start > _ENOUGH:
                break
    return best


def _took(run: Callable[[], Any]) -> float:
    """Seconds of this thread where it is the only one: other programs' time is not among them."""
    now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = now()
    run()
    return now() - start
