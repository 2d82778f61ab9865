"""Whether the numbers of a step are finite: one operator over all of them, which is a number and not a flag, so that it
also says how they grow from step to step.

    largest([loss, gradient, gradient, ...]) >= the largest absolute value in any of them; inf or NaN where one is

Where values lie on the CPU it can end the run there and then, before anything is written. On an accelerator that would
mean to wait for it: there the number is a result like others, writes look at it on the device, and it is read later.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.library import Library

from memograd.largest_number import largest_number

_LIBRARY = Library("memograd", "FRAGMENT")
_LIBRARY.define("largest(Tensor[] values) -> Tensor")
_THREAD = threading.local()
_PINNED = True  # memory that a device copies to while Python goes on


class TrippedError(Exception):
    """The step that runs is not finite; nothing has been written. Never reaches the user.

    Attributes:
        program, flat: whose step it was, and on which inputs, where that is known.
        done: how many steps of several at once were finite.
    """

    program: object = None
    flat: Sequence[torch.Tensor] = ()

    def __init__(self, done: int = 0) -> None:
        super().__init__("the step is not finite")
        self.done = done


@contextmanager
def tripping(yes: bool = True) -> Iterator[None]:
    """Inside, in this thread, ``largest`` raises ``TrippedError`` where what it sees is not finite."""
    before = getattr(_THREAD, "tripping", False)
    _THREAD.tripping = yes
    try:
        yield
    finally:
        _THREAD.tripping = before


@contextmanager
def guarding(guard: Guard) -> Iterator[None]:
    """Inside, in this thread, ``guard`` is told of what ``largest`` gives, and does what ``write`` is asked to do."""
    before = getattr(_THREAD, "guard", None)
    _THREAD.guard = guard
    try:
        yield
    finally:
        _THREAD.guard = before


def write(old: torch.Tensor, new: torch.Tensor) -> None:
    """``old ← new``, where somebody guards it as far as the step is finite."""
    guard: Guard | None = getattr(_THREAD, "guard", None)
    if guard is None:
        old.copy_(new)
    else:
        guard.write([old], [new])


def is_asynchronous(device: torch.device) -> bool:
    """Whether Python would have to wait to see what a device has computed."""
    return device.type != "cpu"


def is_tripping() -> bool:
    """Whether a step that is not finite is to be given up."""
    return getattr(_THREAD, "tripping", False)


def _dtype(values: Sequence[torch.Tensor]) -> torch.dtype:
    return torch.float64 if any(v.dtype in (torch.float64, torch.complex128) for v in values) else torch.float32


def lies_on_cpu(values: Sequence[torch.Tensor]) -> bool:
    """Whether Python can look at all of them without waiting for a device."""
    return all([v.is_cpu for v in values])


def _numbers(value: torch.Tensor) -> torch.Tensor:
    value = value.coalesce().values() if value.is_sparse else value
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def measured(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """What ``largest`` computes."""
    dtype, device = _dtype(values), values[0].device
    if lies_on_cpu(values):
        number = largest_number(values)
        if not math.isfinite(number) and is_tripping():
            raise TrippedError
        return torch.scalar_tensor(number, dtype=dtype)
    numbers = [n for v in values if (n := _numbers(v)).numel()]
    norms = torch._foreach_norm(numbers, math.inf)  # pyright: ignore[reportPrivateImportUsage]
    most = torch.stack([n.to(device, dtype) for n in norms]).amax()
    guard: Guard | None = getattr(_THREAD, "guard", None)
    if guard is not None:
        guard.about(most)
    elif is_tripping():  # who writes on the way must know
        refuse(most)
    return most


@torch.library.impl(_LIBRARY, "largest", "CompositeExplicitAutograd")
def _largest(values: list[torch.Tensor]) -> torch.Tensor:
    return measured(values)


@torch.library.register_fake("memograd::largest", lib=_LIBRARY)
def _largest_without_data(values: list[torch.Tensor]) -> torch.Tensor:
    return values[0].new_empty((), dtype=_dtype(values))


largest = torch.ops.memograd.largest.default


def refuse(number: torch.Tensor) -> None:
    """Raises TrippedError where ``number`` is not finite."""
    if not math.isfinite(number.item()):
        raise TrippedError


def _on_the_host(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


class Sent:
    """Numbers on their way from an accelerator to Python."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self._held = torch.empty(numbers.shape, pin_memory=_PINNED).copy_(numbers, non_blocking=True)
        self._event = torch.Event(numbers.device)
        self._event.record()

    def arrived(self, wait: bool = False) -> torch.Tensor | None:
        """The numbers; None where they are not there yet and nobody is to wait."""
        if not self._event.query():
            if not wait:
                return None
            self._event.synchronize()
        return self._held


class Guard:
    """Writes what steps on an accelerator compute, and nothing any more from the first on that is not finite: which it
    is, the device decides, and Python reads it when it is there (``tripped``).

    What lies on the CPU (counters of steps) is written at once; ``take_back`` undoes it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps = 0  # how many it has been told of
        self._carry = torch.zeros((), device=device)  # 0, or NaN
        self._fine = torch.ones((), dtype=torch.bool, device=device)
        self._sent: deque[tuple[int, Sent]] = deque()
        self._counters: deque[tuple[int, list[torch.Tensor], list[torch.Tensor]]] = deque()

    def about(self, largest: torch.Tensor) -> Guard:
        """The next writes are those of a step with this largest number."""
        self.steps += 1
        self._carry = self._carry + largest.to(self._carry.dtype) * 0
        self._fine = self._carry == 0
        self._sent.append((self.steps, Sent(self._carry)))
        while self._counters and self._counters[0][0] < self._sent[0][0]:
            self._counters.popleft()
        return self

    def write(self, old: Sequence[torch.Tensor], new: Sequence[torch.Tensor]) -> None:
        """``old ← new`` where all steps so far are finite."""
        if _on_the_host(old[0]):
            self._counters.append((self.steps, list(old), [t.clone() for t in old]))
            torch._foreach_copy_(list(old), list(new))  # pyright: ignore[reportPrivateImportUsage]
            return
        for mine, other in zip(old, new, strict=True):
            if other.dtype == mine.dtype and other.shape == mine.shape:
                torch.where(self._fine, other, mine, out=mine)
            else:
                mine.copy_(torch.where(self._fine, other, mine))

    @property
    def pending(self) -> int:
        """How many of the last steps it is not known of yet whether they were finite."""
        return len(self._sent)

    def tripped(self, late: int = 0) -> int | None:
        """The first step that was not finite, as far as is known without waiting for the last ``late`` of them; what
        was written on the CPU from there on is taken back then."""
        while self._sent:
            number, sent = self._sent[0]
            carry = sent.arrived(wait=number <= self.steps - late)
            if carry is None:
                return None
            self._sent.popleft()
            if not math.isfinite(carry.item()):
                self._take_back(number)
                return number
        return None

    def _take_back(self, number: int) -> None:
        for step, tensors, values in reversed(self._counters):
            if step >= number:
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)
        self._counters.clear()
        self._sent.clear()
        self._carry = torch.zeros((), device=self.device)
