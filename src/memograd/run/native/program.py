"""The compiled graph as something to call: pointers in, pointers out, and as little Python as possible around it."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import torch

from memograd import c_compiler
from memograd.errors import BackendError
from memograd.finite import TrippedError
from memograd.graph.graph import Graph
from memograd.run.native.source import Source

CHUNK_SECONDS = 0.2  # between two chances to interrupt a loop
QUICK = 20_000  # element operations: below, the step is over before another thread could make use of the GIL

_data_ptr, _numel = torch.Tensor.data_ptr, torch.Tensor.numel
_is_contiguous, _is_neg = torch.Tensor.is_contiguous, torch.Tensor.is_neg


class Call(ctypes.Structure):
    """``struct memograd_plan`` of the C source."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("inputs", "outputs", "arena")),
        *((name, ctypes.c_long) for name in ("first", "count", "every", "fed")),
        *((name, ctypes.c_void_p) for name in ("origin", "target", "bytes", "losses")),
        *((name, ctypes.c_long) for name in ("width", "flag", "out_of_range")),
    ]


class Plan:
    """What one ``feedback`` needs: which outputs are returned, and where the others live and go."""

    def __init__(
        self,
        feedback: Mapping[int, int],
        prototypes: Sequence[torch.Tensor],
        inputs: Any,
        arena: int,
        flag: int | None = None,
    ) -> None:
        self.feedback = dict(feedback)
        self.returned = [(o, p) for o, p in enumerate(prototypes) if o not in feedback and o != flag]
        self.own = {o: torch.empty_like(prototypes[o]) for o in (*feedback, *([] if flag is None else [flag]))}
        self.changed: list[torch.Tensor] | None = None  # the bound inputs it writes
        self.out = (ctypes.c_void_p * max(1, len(prototypes)))()
        for o, tensor in self.own.items():
            self.out[o] = tensor.data_ptr()
        numbers = ctypes.c_long * max(1, len(feedback))
        sizes = [prototypes[o].numel() * prototypes[o].element_size() for o in feedback]
        self.fed = (numbers(*feedback), numbers(*feedback.values()), numbers(*sizes))
        self.arena = ctypes.c_void_p(arena)
        where = [ctypes.addressof(a) for a in (inputs, self.out)]
        lists = [ctypes.addressof(a) for a in self.fed]
        self.call = Call(*where, arena, 0, 1, 1, len(feedback), *lists, None, 0, -1 if flag is None else flag)
        self.once = ctypes.byref(self.call)

    def many(self, losses: torch.Tensor, every: int) -> Call:
        """The call that records losses, its range of steps still to be filled in."""
        call = Call.from_buffer_copy(self.call)
        call.every, call.losses, call.width = every, losses.data_ptr(), losses.element_size()
        return call


class Program:
    """A graph as one compiled function of its flat inputs.

    Inputs that were seen in the last call are recognized and not checked again. Tensors whose memory is not contiguous
    are copied at every call; contiguous ones are read, and for fed-back inputs written, where they lie. An index out of
    range raises ``IndexError`` as PyTorch does, and its step writes nothing.
    """

    def __init__(self, graph: Graph, source: Source) -> None:
        library = c_compiler.load(source.text)
        quick = ctypes.PyDLL(library._name) if source.work < QUICK else library  # PyDLL keeps the GIL
        self._step, self._once, self._many = quick.memograd_step, quick.memograd_loop, library.memograd_loop
        self._step.restype = self._once.restype = self._many.restype = ctypes.c_long
        self._indexed = source.indexed
        self._flag = next(iter(graph.positions("flag")), None)
        self.names = [i.name for i in graph.inputs]
        self.specs = [(n.meta["val"].shape, n.meta["val"].dtype) for n in graph.placeholders]
        self._dtypes = [dtype for _, dtype in self.specs]
        self._numels = [shape.numel() for shape, _ in self.specs]
        self.prototypes = [torch.empty(n.meta["val"].shape, dtype=n.meta["val"].dtype) for n in graph.results]
        self._arena = torch.empty(source.arena_bytes + 64, dtype=torch.uint8)
        self._aligned = -(-self._arena.data_ptr() // 64) * 64
        self._in = (ctypes.c_void_p * max(1, len(self.specs)))()
        self._lock = threading.Lock()  # one arena, one array of pointers
        self._seen: list[torch.Tensor] = []
        self._pointers: list[int] | None = None
        self._held: list[torch.Tensor] = []  # keeps the memory behind the pointers alive, even if `.data` is replaced
        self._copies: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self._plain = Plan({}, self.prototypes, self._in, self._aligned)
        self._plan = self._plain

    def __call__(self, *flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run once; fresh outputs."""
        with self._lock:
            self._bind(flat)
            plan = self._plain
            outputs = [torch.empty_like(p) for p in self.prototypes]
            plan.out[: len(outputs)] = [*map(_data_ptr, outputs)]
            self._stop(self._step(self._in, plan.out, plan.arena))
        return tuple(outputs)

    def fresh(self, flat: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The same for inputs that come this once: nothing here keeps them alive."""
        with self._lock:
            if self._lie_as_compiled(flat):
                self._pointers = None
                self._in[: len(flat)] = [*map(_data_ptr, flat)]
            else:
                self._bind(flat)
            plan = self._plain
            outputs = [*map(torch.empty_like, self.prototypes)]
            plan.out[: len(outputs)] = [*map(_data_ptr, outputs)]
            out_of_range = self._step(self._in, plan.out, plan.arena)
            if self._pointers is not None:
                self._pointers, self._seen, self._held, self._copies = None, [], [], []
            self._stop(out_of_range)
        return tuple(outputs)

    def step(self, flat: Sequence[torch.Tensor], feedback: Mapping[int, int]) -> list[torch.Tensor]:
        """Run once and write output ``o`` into input ``feedback[o]`` in place; returns the other outputs, without the
        flag.

        Raises:
            TrippedError: the step is not finite; nothing was written.
        """
        with self._lock:
            plan = self._planned(feedback)
            self._bind(flat)
            outputs = self._fresh(plan)
            if not self._once(plan.once):
                self._stop(plan.call.out_of_range)
                raise TrippedError
            if plan.feedback:
                self._written(plan)
        return outputs

    def loop(
        self, flat: Sequence[torch.Tensor], feedback: Mapping[int, int], steps: int, every: int = 1
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """``steps`` times ``step``, without Python in between, up to the first that is not finite where that is asked.

        Args:
            every: record the loss (output 0, one number) of steps 0, every, 2·every and so on.

        Returns:
            The outputs of the last step that are not fed back, and the recorded losses. Ctrl-C ends the loop between
            two steps, with every fed-back input in the state of the last finished one.
        """
        if steps < 1 or every < 1:
            raise BackendError(f"loop needs steps and every of at least 1, got {steps} and {every}")
        if not self.prototypes or self.prototypes[0].numel() != 1:
            raise BackendError("loop records output 0 as the loss; it must be one number")
        with self._lock:
            plan = self._planned(feedback)
            self._bind(flat)
            outputs = self._fresh(plan)
            losses = torch.empty(-(-steps // every), dtype=self.prototypes[0].dtype)
            try:
                self._chunks(plan, steps, every, losses)
            finally:
                self._written(plan)
        return outputs, losses

    def _chunks(self, plan: Plan, steps: int, every: int, losses: torch.Tensor) -> None:
        call = plan.many(losses, every)
        at = ctypes.byref(call)
        done, count = 0, 1
        while done < steps:
            count = min(count, steps - done)
            start = time.perf_counter()
            call.first, call.count = done, count
            if (finite := self._many(at)) < count:
                self._stop(call.out_of_range)
                raise TrippedError(done + finite)
            done += count
            seconds = max(time.perf_counter() - start, 1e-9)
            count = max(1, min(32 * count, int(count * CHUNK_SECONDS / seconds)))

    def _stop(self, out_of_range: int) -> None:
        if out_of_range:
            raise IndexError(self._indexed[out_of_range - 1])

    # ---- inputs and outputs

    def _fresh(self, plan: Plan) -> list[torch.Tensor]:
        outputs = []
        for o, prototype in plan.returned:
            tensor = torch.empty_like(prototype)
            plan.out[o] = tensor.data_ptr()
            outputs.append(tensor)
        return outputs

    def _planned(self, feedback: Mapping[int, int]) -> Plan:
        if self._plan.feedback != feedback:
            if len(set(feedback.values())) != len(feedback):
                raise BackendError(f"feedback sends two outputs into one input: {dict(feedback)}")
            for o, i in feedback.items():
                produced, expected = (self.prototypes[o].shape, self.prototypes[o].dtype), self.specs[i]
                if produced != expected:
                    raise BackendError(
                        f"output {o} {produced} cannot be fed back into input {self.names[i]!r} {expected}"
                    )
            self._plan = Plan(feedback, self.prototypes, self._in, self._aligned, self._flag)
        return self._plan

    def _lie_as_compiled(self, flat: Sequence[torch.Tensor]) -> bool:
        """Whether the program can read them where they are; if not, ``_bind`` copies them, or says what is wrong."""
        same = [x.dtype for x in flat] == self._dtypes and [*map(_numel, flat)] == self._numels
        return same and all(map(_is_contiguous, flat)) and all([x.is_cpu for x in flat]) and not any(map(_is_neg, flat))

    def _bind(self, flat: Sequence[torch.Tensor]) -> None:
        """Point the program at these tensors."""
        if [*map(_data_ptr, flat)] != self._pointers or not all(map(is_, flat, self._seen)):
            self._bind_new(flat)
        for _, copy, original in self._copies:
            copy.copy_(original)

    def _bind_new(self, flat: Sequence[torch.Tensor]) -> None:
        if len(flat) != len(self.specs):
            raise BackendError(f"the program takes {len(self.specs)} tensors, got {len(flat)}")
        self._pointers, tensors, copies = None, [], []
        for number, (tensor, (shape, dtype)) in enumerate(zip(flat, self.specs, strict=True)):
            if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
                raise BackendError(
                    f"input {self.names[number]!r} is {tensor.dtype}{list(tensor.shape)} on {tensor.device}; the "
                    f"program was compiled for {dtype}{list(shape)} on the CPU"
                )
            memory = tensor.detach()
            if not memory.is_contiguous() or memory.is_neg():
                copies.append((number, torch.empty(shape, dtype=dtype), memory))
                memory = copies[-1][1]
            tensors.append(memory)
            self._in[number] = memory.data_ptr()
        self._seen, self._held, self._copies = list(flat), tensors, copies
        self._plan.changed = None
        self._pointers = [t.data_ptr() for t in flat]

    def _written(self, plan: Plan) -> None:
        """Tell autograd which inputs changed, and carry copies of them back."""
        if plan.changed is None:
            plan.changed = [t for i in plan.feedback.values() if not (t := self._seen[i]).is_inference()]
        for number, copy, original in self._copies:
            if number in plan.feedback.values():
                original.copy_(copy)
        torch.autograd.graph.increment_version(plan.changed)
