"""A plan: a schedule of one graph within a byte budget, what it costs, and how far from optimal it can be."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from memograd.errors import PlanViolationError
from memograd.plan.budget import human
from memograd.plan.emit import source
from memograd.plan.problem import Problem, Usage, simulate
from memograd.plan.storages import Storages

VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What to keep and what to compute again.

    Attributes:
        budget: bytes allowed: parameters, buffers, inputs, activations, gradients, optimizer state and workspace.
        schedule: the operators in order of computation, as numbers into ``operators``.
        operators: their names.
        unplanned: the schedule without a budget.
        bound: seconds that every schedule within the budget, in any order, must spend on recomputation (proven).
        fingerprint: identifies the graph that the plan is for.
        measured: whether costs were measured on ``device`` (else modelled for some operators).
    """

    budget: int
    schedule: tuple[int, ...]
    operators: tuple[str, ...]
    modules: tuple[str, ...]
    unplanned: tuple[int, ...]
    problem: Problem
    bound: float
    fingerprint: str
    device: str
    measured: bool
    code: str = field(repr=False)

    @cached_property
    def usage(self) -> Usage:
        return simulate(self.problem, self.schedule)

    @cached_property
    def unplanned_usage(self) -> Usage:
        return simulate(self.problem, self.unplanned)

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at any moment of the planned step."""
        return self.usage.peak

    @property
    def unplanned_bytes(self) -> int:
        """The same for the step without a plan."""
        return self.unplanned_usage.peak

    @property
    def floor_bytes(self) -> int:
        """No schedule needs less than this."""
        return self.problem.floor

    @property
    def extra_seconds(self) -> float:
        """Seconds a step that the plan spends on computing things again."""
        return max(0.0, self.usage.cost - self.problem.total_cost)

    @property
    def overhead(self) -> float:
        """``extra_seconds`` as a share of what the unplanned step's operators take."""
        return self.extra_seconds / self.problem.total_cost if self.problem.total_cost else 0.0

    @property
    def lower_bound(self) -> float:
        """Seconds: no plan within this budget spends less on recomputation, in whatever order."""
        return min(self.bound, self.extra_seconds)

    @property
    def gap(self) -> float:
        """How much of ``overhead`` a perfect plan could save at most: 0.03 is three points."""
        return self.overhead - (self.lower_bound / self.problem.total_cost if self.problem.total_cost else 0.0)

    @cached_property
    def again(self) -> dict[str, int]:
        """Operators that run more than once: name -> how many extra runs."""
        return {self.operators[k]: n - 1 for k, n in sorted(Counter(self.schedule).items()) if n > 1}

    def __str__(self) -> str:
        usage, at = self.usage, self.schedule[self.usage.at] if self.schedule else 0
        where = self.operators[at] + (f" ({self.modules[at]})" if self.modules[at] else "")
        lines = [
            f"budget        {human(self.budget)}; without a plan the step peaks at {human(self.unplanned_bytes)}",
            f"peak          {human(usage.peak)}, at {where}; resident throughout: {human(self.problem.resident)}",
            f"floor         {human(self.floor_bytes)}: no schedule needs less",
            f"kept          {len(self.operators) - len(self.again)} of {len(self.operators)} operators run once",
            f"recomputed    {len(self.again)} operators, {sum(self.again.values())} extra runs",
            *self._by_module(),
            f"extra time    {self.extra_seconds * 1e3:.3f} ms a step, {self.overhead:.1%} of its operators' time "
            f"(costs {'measured' if self.measured else 'measured or modelled'} on {self.device})",
            f"lower bound   {self.lower_bound * 1e3:.3f} ms, proven for schedules in any order",
            f"gap           at most {self.gap * 100:.1f} points from optimal",
        ]
        return "\n".join(lines)

    def _by_module(self) -> list[str]:
        """What is computed again, summed by module path."""
        rows: dict[str, Counter[str]] = {}
        index = {name: k for k, name in enumerate(self.operators)}
        for name, extra in self.again.items():
            kind = name.rstrip("0123456789").rstrip("_")
            rows.setdefault(self.modules[index[name]] or "(no module)", Counter())[kind] += extra
        return [f"  {m}: {', '.join(f'{n} x{c}' for n, c in kinds.items())}" for m, kinds in rows.items()]

    def plot(self, path: str | Path) -> None:
        """Draw the bytes alive over the step, unplanned and planned, and the budget. Needs matplotlib
        (``memograd[data]``)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.add_subplot()
        for label, usage in (("unplanned", self.unplanned_usage), ("planned", self.usage)):
            axes.step(range(len(usage.profile)), [b / 2**20 for b in usage.profile], where="mid", label=label)
        axes.axhline(self.budget / 2**20, color="black", linestyle="--", linewidth=1, label="budget")
        axes.axhline(self.problem.resident / 2**20, color="gray", linestyle=":", linewidth=1, label="resident")
        axes.set(xlabel="operator", ylabel="MiB alive", ylim=(0, None))
        axes.legend()
        figure.savefig(path)

    def to_json(self) -> str:
        """The plan as one JSON object; ``from_json`` reads it."""
        p = self.problem
        problem = {
            "cost": p.cost,
            "outputs": p.outputs,
            "reads": p.reads,
            "size": p.size,
            "workspace": p.workspace,
            "keep": sorted(p.keep),
            "once": sorted(p.once),
            "before": p.before,
            "resident": p.resident,
        }
        mine = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps({"memograd_plan": VERSION, **mine, "problem": problem})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back.

        Raises:
            PlanViolationError: not a plan, one of another version, or one that breaks its own budget.
        """
        try:
            data = json.loads(text)
            version = data["memograd_plan"]
        except (ValueError, KeyError, TypeError) as error:
            raise PlanViolationError("this is no plan: it is not JSON that plan.to_json() wrote") from error
        if version != VERSION:
            raise PlanViolationError(f"the plan has format version {version}; this version reads {VERSION}: plan again")
        try:
            return _from_data(cls, data).checked()
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise PlanViolationError(f"the plan is damaged: {error}") from error

    def checked(self) -> Plan:
        """This plan, if its schedule is valid and within its budget.

        Raises:
            PlanViolationError: it is not.
        """
        try:
            usage = simulate(self.problem, self.schedule)
        except ValueError as error:
            raise PlanViolationError(f"the plan's schedule cannot run: {error}") from error
        if usage.peak > self.budget:
            raise PlanViolationError(f"the plan peaks at {usage.peak} bytes, over its budget of {self.budget}")
        return self

    def check_graph(self, storages: Storages) -> None:
        """Raise PlanViolationError unless the plan was made for this graph."""
        if fingerprint(storages) != self.fingerprint:
            raise PlanViolationError(
                "the plan was made for another graph (other model, shapes, dtypes, mode or version of memograd): plan "
                "again with mg.plan or memory_budget=..."
            )


_FIELDS = (
    "budget",
    "schedule",
    "operators",
    "modules",
    "unplanned",
    "bound",
    "fingerprint",
    "device",
    "measured",
    "code",
)


def _from_data(cls: type[Plan], data: dict[str, Any]) -> Plan:
    p = data["problem"]
    problem = Problem(
        cost=tuple(p["cost"]),
        outputs=tuple(map(tuple, p["outputs"])),
        reads=tuple(map(tuple, p["reads"])),
        size=tuple(p["size"]),
        workspace=tuple(p["workspace"]),
        keep=frozenset(p["keep"]),
        once=frozenset(p["once"]),
        before=tuple((u, v) for u, v in p["before"]),
        resident=p["resident"],
    )
    mine: dict[str, Any] = {name: tuple(v) if isinstance(v := data[name], list) else v for name in _FIELDS}
    return cls(problem=problem, **mine)


def fingerprint(storages: Storages) -> str:
    """Identifies a graph: a hash of its operators as text and of the geometry of its inputs."""
    text = source(storages, storages.unplanned)
    inputs = [
        (i.kind, i.name, str(n.meta["val"].dtype), tuple(n.meta["val"].shape), tuple(n.meta["val"].stride()))
        for i, n in zip(storages.graph.inputs, storages.graph.placeholders, strict=True)
    ]
    return hashlib.sha256(f"{text}{inputs}".encode()).hexdigest()
