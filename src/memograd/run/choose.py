"""Pick a backend by measuring, once, and say which and why."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memograd import clock
from memograd.draws import same_draws
from memograd.errors import BackendError
from memograd.graph.graph import Graph
from memograd.looks import look
from memograd.memory.plan import Plan
from memograd.run.eager import Eager
from memograd.run.inductor import Inductor
from memograd.run.planned import Planned

_TRIALS = 5


@dataclass(frozen=True)
class Choice:
    """A backend and the reason for it."""

    backend: Eager
    reason: str


def choose(graph: Graph, flat: Sequence[Any], name: str = "auto") -> Choice:
    """The backend called ``name``, or with ``auto`` the fastest of those that build at once (eager, native).

    Inductor is used when asked for by name: its compile time (10 s and more) is the user's to spend.

    Raises:
        BackendError: unknown name, or the backend cannot run this graph.
    """
    if name not in ("auto", *BACKENDS):
        raise BackendError(f"unknown backend {name!r}; choose auto, {', '.join(BACKENDS)}")
    if name in ("inductor", "native") and any(n.target is look for n in graph.nodes):
        reason = f"the model decides by values, which {name} cannot compare before it goes on"
        warnings.warn(f"running on the eager backend: {reason}", stacklevel=2)
        return Choice(Eager(graph), reason)
    if name != "auto":
        return Choice(BACKENDS[name](graph), "asked for")
    eager = Eager(graph)
    reason = _why_not_native(graph)
    if reason is not None:
        return Choice(eager, f"native cannot run this step: {reason}")
    compiled = BACKENDS["native"](graph)
    slow, fast = _seconds(eager, flat), _seconds(compiled, flat)
    best = compiled if fast < slow else eager
    return Choice(best, f"measured: native {fast * 1e6:.1f} µs, eager {slow * 1e6:.1f} µs a step")


def choose_planned(graph: Graph, plan: Plan, name: str = "auto") -> Choice:
    """The backend that holds a plan's byte budget: eager, in the plan's order.

    Raises:
        BackendError: unknown name.
    """
    if name not in ("auto", *BACKENDS):
        raise BackendError(f"unknown backend {name!r}; choose auto, {', '.join(BACKENDS)}")
    reason = f"a memory budget of {plan.budget} bytes: its allocations are all known"
    if name == "inductor" and "@fused" in plan.code:
        return Choice(Planned(graph, plan, name), "asked for; each kernel is compiled and measured on its own")
    if name == "inductor":
        reason = f"no kernel is worth compiling, or can be; {reason}"
    if name == "native":
        reason = f"{name} decides itself what it allocates and cannot promise {reason}"
        warnings.warn(f"running on the eager backend: {reason}", stacklevel=2)
    return Choice(Planned(graph, plan), reason)


def _native(graph: Graph) -> Eager:
    from memograd.run.native.backend import Native

    return Native(graph)


def _why_not_native(graph: Graph) -> str | None:
    from memograd.run.native.backend import supports

    return supports(graph)


BACKENDS: dict[str, Callable[[Graph], Eager]] = {"eager": Eager, "inductor": Inductor, "native": _native}


def _seconds(backend: Eager, flat: Sequence[Any]) -> float:
    """Best time of a few pure runs; the generators' states are put back."""
    with same_draws():
        return clock.seconds(lambda: backend.compute(flat), _TRIALS)
