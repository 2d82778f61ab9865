"""Pick a backend by measuring, once, and say which and why."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

from memograd import clock, progress
from memograd._torch import compiler_failed, may_draw, modes_of_others
from memograd.as_written import call
from memograd.cautions import caution
from memograd.draws import same_draws, timed
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.graph.kernels import Kernel
from memograd.looks import look
from memograd.memory.plan import Plan
from memograd.run.backend import Backend
from memograd.run.convolutions.backend import Convolutions
from memograd.run.eager import Eager
from memograd.run.inductor import Inductor
from memograd.run.planned import Planned
from memograd.run.records import Record
from memograd.targets import Target

_TRIALS = 7
_BLOCK, _STEPS = 2e-3, 40  # seconds, and steps at most, of a trial: one short step may take twice as long as the next
_ENOUGH = 2.0  # seconds of measuring, from the second trial on
_MARGIN = 0.95  # a backend that does not need less than that share of eager's time may as well be slower
_SECONDS, _OPERATORS_A_SECOND = 10.0, 15.0  # what Inductor takes at first for any graph, and for each operator


@dataclass(frozen=True)
class Choice:
    """A backend and the reason for it."""

    backend: Backend
    reason: str


def choose(graph: Graph, flat: Sequence[Any], name: str = "auto", compile_seconds: float = 0.0) -> Choice:
    """The backend called ``name`` for a lowered graph, or with ``auto`` the fastest: of eager, convolutions and native,
    which build at once, and of Inductor's fused kernels where compiling them takes at most ``compile_seconds``.

    How long that takes is known from the last time, at first it is estimated. Asked for by name Inductor takes the time
    that it takes.

    Raises:
        BackendError: unknown name, or the backend cannot run this graph.
    """
    refuse_unknown(name)
    if modes_of_others():
        reason = "a TorchDispatchMode or TorchFunctionMode is on, which sees operators only where they are called"
        if name in ("inductor", "native"):
            caution(f"running on the eager backend: {reason}")
        return Choice(Eager(graph), reason)
    looks = any(n.target is look for n in graph.nodes)
    if name in ("inductor", "native") and looks:
        reason = f"the model decides by values, which {name} cannot compare before it goes on"
        caution(f"running on the eager backend: {reason}")
        return Choice(Eager(graph), reason)
    own = any(n.target is call for n in graph.nodes)
    if name == "inductor" and own:
        reason = "a backward of the model's own cannot be traced and is called as it is, which needs PyTorch's autograd"
        caution(f"running on the eager backend: {reason}")
        return Choice(Eager(graph), reason)
    if name != "auto":
        return Choice(BACKENDS[name](graph), "asked for")
    return _Trials(graph, flat, 0.0 if looks or own else compile_seconds).choice()


class _Trials:
    """The backends among which ``auto`` decides, made ready and measured as far as that was not done before."""

    def __init__(self, graph: Graph, flat: Sequence[Any], compile_seconds: float) -> None:
        self.graph = graph
        self.flat = flat
        self.ready: dict[str, Backend] = {"eager": Eager(graph)}
        self.notes: list[str] = []
        self.record: Record | None = None
        self.native()
        self.convolutions()
        if compile_seconds > 0:
            self.inductor(compile_seconds)

    def choice(self) -> Choice:
        """The fastest, if it is faster than eager by more than the clock's noise."""
        if len(self.ready) == 1:
            return Choice(self.ready["eager"], "; ".join(self.notes))
        seconds = self.measured()
        best = min(self.ready, key=seconds.__getitem__)
        if seconds[best] > _MARGIN * seconds["eager"]:
            best = "eager"
        return Choice(self.ready[best], "; ".join([self._table(seconds), *self.notes]))

    def native(self) -> None:
        try:
            self.ready["native"] = BACKENDS["native"](self.graph)
        except BackendError as error:
            self.notes.append(f"native cannot run this step: {error}")

    def convolutions(self) -> None:
        backend = Convolutions(self.graph)
        if backend.fastest.differs:
            self.ready["convolutions"] = backend

    def inductor(self, compile_seconds: float) -> None:
        """Compile, if that is worth what it costs: it may have been measured, and lost."""
        record = self.record = Record.of(self.graph)
        if "inductor" in record.failed:
            self.notes.append(f"inductor cannot run this step: {record.failed['inductor']}")
            return
        if (known := record.seconds.get("inductor")) is not None:
            best = min(self.measured().values())
            if known > _MARGIN * best:
                self.notes.append(f"inductor was measured before, {known * 1e6:.1f} µs")
                return
        costs = record.compiling.get("inductor", _SECONDS + len(self.graph.nodes) / _OPERATORS_A_SECOND)
        if costs > compile_seconds:
            about = "took" if "inductor" in record.compiling else "is estimated to take"
            self.notes.append(f"inductor is not tried: compiling {about} {costs:.0f} s, more than compile_seconds")
            return
        progress.say("Inductor compiles the step")
        start = time.perf_counter()
        try:
            compiled = BACKENDS["inductor"](self.graph)
            with same_draws():
                compiled.compute(self.flat)
        except BackendError as error:
            if not _of_the_machine(error):
                record.failed["inductor"] = str(error)
            self.notes.append(f"inductor cannot run this step: {error}")
        else:
            record.compiling["inductor"] = time.perf_counter() - start
            self.notes.append(f"inductor compiled in {record.compiling['inductor']:.1f} s")
            self.ready["inductor"] = compiled
        record.keep()

    def measured(self) -> dict[str, float]:
        """Seconds a step, by backend."""
        record = self.record = self.record or Record.of(self.graph)
        if any(name not in record.seconds for name in self.ready):
            with timed(_may_draw(self.graph), by_mode=True):
                record.seconds |= _seconds(self.ready, self.flat)
            record.keep()
            record.earlier = False
        return {name: record.seconds[name] for name in self.ready}

    def _table(self, seconds: dict[str, float]) -> str:
        assert self.record is not None
        known = "measured before" if self.record.earlier else "measured"
        rows = sorted((s, name) for name, s in seconds.items())
        return f"{known}: " + ", ".join(f"{name} {s * 1e6:.1f} µs" for s, name in rows) + " a step"


def _may_draw(graph: Graph) -> bool:
    """Whether a step draws random numbers, or code of the user's, which it calls, may."""
    targets = {n.target for n in graph.nodes if not isinstance(n.target, Kernel)}
    return any(target is call or isinstance(target, Target) or may_draw(target) for target in targets)


def _of_the_machine(error: BaseException | None) -> bool:
    """Whether compiling may go well another time: the disk was full, a compiler or a header was missing. Only what a
    compiler says of the graph itself stays so until one of the two changes."""
    while error is not None:
        if isinstance(error, (OSError, MemoryError, subprocess.SubprocessError)) or compiler_failed(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def choose_planned(graph: Graph, plan: Plan, name: str = "auto") -> Choice:
    """The backend that holds a plan's byte budget: eager, in the plan's order.

    Raises:
        BackendError: unknown name.
    """
    refuse_unknown(name)
    reason = f"a memory budget of {plan.budget} bytes: its allocations are all known"
    if name == "inductor" and "@fused" in plan.code:
        return Choice(Planned(graph, plan, name), "asked for; each kernel is compiled and measured on its own")
    if name == "inductor":
        reason = f"no kernel is worth compiling, or can be; {reason}"
    if name in ("native", "convolutions"):
        reason = f"{name} decides itself what it allocates and cannot promise {reason}"
        caution(f"running on the eager backend: {reason}")
    return Choice(Planned(graph, plan), reason)


def refuse_unknown(name: str) -> None:
    """Raises BackendError where there is no backend of that name."""
    if name not in ("auto", *BACKENDS):
        raise BackendError(f"unknown backend {name!r}; choose auto, {', '.join(BACKENDS)}")


def _native(graph: Graph) -> Backend:
    from memograd.run.native.backend import Native  # enters its operators, which who plans has no use for

    return Native(graph)


BACKENDS: dict[str, Callable[[Graph], Backend]] = {
    "eager": Eager,
    "convolutions": Convolutions,
    "inductor": Inductor,
    "native": _native,
}


def _seconds(backends: dict[str, Backend], flat: Sequence[Any]) -> dict[str, float]:
    """The best time of a step on each, in turn, so that what else the machine does is the same for all. The parameters
    are copies."""
    progress.say("measuring " + " and ".join(backends))
    runs = {name: _run(backend, flat) for name, backend in backends.items()}
    best: dict[str, float] = {}
    start = time.perf_counter()
    steps = {name: _steps_of_a_block(run) for name, run in runs.items()}
    for trial in range(_TRIALS):
        if trial > 1 and time.perf_counter() - start > _ENOUGH:
            break
        for name, run in runs.items():
            best[name] = min(best.get(name, inf), clock.seconds(partial(_often, run, steps[name]), 1) / steps[name])
    return best


def _steps_of_a_block(run: Callable[[], Any]) -> int:
    """How many steps are measured at once. The first step here is no measure of the next."""
    run()
    return max(1, min(_STEPS, int(_BLOCK / max(clock.seconds(run, 1), 1e-9))))


def _often(run: Callable[[], Any], steps: int) -> None:
    for _ in range(steps):
        run()


def _run(backend: Backend, flat: Sequence[Any]) -> Callable[[], Any]:
    """A step as it will be run, in place; one that may refuse to write is run without writing."""
    if backend.flag is not None:
        return lambda: backend.compute(flat)
    written = set(backend.feedback.values())
    own = [x.clone() if i in written else x for i, x in enumerate(flat)]
    return lambda: backend.step(own)
