"""A plan: a schedule within a byte budget that can be printed, drawn, saved and read back, and that runs on one graph
only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memograd.errors import PlanViolationError
from memograd.memory.costs.storages import Storages
from memograd.memory.emit import fingerprint
from memograd.memory.scheduled import Scheduled
from memograd.memory.show import picture, report, saved


@dataclass(frozen=True)
class Plan(Scheduled):
    """What to keep and what to compute again."""

    def numbers(self) -> dict[str, Any]:
        """What ``print(plan)`` shows, for programs."""
        return report.numbers(self)

    def __str__(self) -> str:
        return report.text(self)

    def plot(self, path: str | Path) -> None:
        """Draw the bytes alive over the step, unplanned and planned, and the budget; the ending of ``path`` is the
        format. Needs matplotlib (``memograd[data]``)."""
        picture.draw(self, path)

    def to_json(self) -> str:
        """The plan as one JSON object; ``from_json`` reads it."""
        return json.dumps(saved.as_data(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """Read a plan back. ``mg.plan`` and ``TrainStep`` take it as ``memory_budget``, for the same graph; what they
        run is written anew from the schedule, the text's ``code`` is only to be read.

        Raises:
            PlanViolationError: not a plan, one of another version, a damaged one, or one that breaks its own budget.
        """
        return cls(**saved.fields_of(text)).checked()

    def checked(self) -> Plan:
        """This plan, if its schedule is valid and within its budget.

        Raises:
            PlanViolationError: it is not.
        """
        try:
            usage = self.usage
        except ValueError as error:
            raise PlanViolationError(f"the plan's schedule cannot run: {error}") from error
        if usage.peak > self.budget:
            raise PlanViolationError(f"the plan peaks at {usage.peak} bytes, over its budget of {self.budget}")
        return self

    def check_graph(self, storages: Storages) -> None:
        """Raise PlanViolationError unless the plan was made for this graph."""
        if fingerprint(storages) != self.fingerprint:
            raise PlanViolationError(
                "the plan was made for another graph (other model, shapes, dtypes, mode, backend, or version of "
                "memograd): plan again with mg.plan or memory_budget=..."
            )
        if len(self.operators) != len(storages.operators):
            raise PlanViolationError("the plan is damaged: it has another number of operators than its graph")
