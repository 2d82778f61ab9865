"""Plans as JSON: a versioned format, and every way in which a text is not one of our plans."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from math import inf
from typing import Any

from memograd.errors import PlanViolationError
from memograd.memory.problem import Problem, simulate
from memograd.memory.scheduled import Scheduled

VERSION = 3
_LISTS = {"schedule": int, "unplanned": int, "operators": str, "modules": str, "phases": str}
_SINGLE = {"budget": int, "bound": float, "fingerprint": str, "device": str, "measured": bool, "code": str}


def as_data(plan: Scheduled) -> dict[str, Any]:
    """The plan as lists, numbers and strings."""
    problem = {k: sorted(v) if isinstance(v, frozenset) else v for k, v in asdict(plan.problem).items()}
    fields = {k: getattr(plan, k) for k in (*_SINGLE, *_LISTS)} | {"bound": plan.proven}
    return {"memograd_plan": VERSION} | fields | {"problem": problem}


def fields_of(text: str | bytes) -> dict[str, Any]:
    """The fields of the plan that ``text`` holds.

    Raises:
        PlanViolationError: it holds none.
    """
    try:
        data = json.loads(text)
        version = data["memograd_plan"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PlanViolationError("this is no plan: it is not JSON that plan.to_json() wrote") from error
    if version != VERSION:
        raise PlanViolationError(f"the plan has format version {version}; this version reads {VERSION}: plan again")
    try:
        return _checked(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanViolationError(f"the plan is damaged: {type(error).__name__}: {error}") from error


def _checked(data: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: _one(data[name], kind) for name, kind in _SINGLE.items()}
    fields |= {name: tuple(_one(x, kind) for x in data[name]) for name, kind in _LISTS.items()}
    problem = _problem(data["problem"])
    count = len(problem.cost)
    if any(len(fields[name]) != count for name in ("operators", "modules", "phases", "unplanned")):
        raise ValueError("its lists have different lengths")
    _within(count, fields["schedule"])
    _within(count, fields["unplanned"])
    simulate(problem, fields["unplanned"])
    return fields | {"problem": problem}


def _problem(data: dict[str, Any]) -> Problem:
    problem = Problem(
        cost=tuple(_one(c, float) for c in data["cost"]),
        outputs=tuple(map(_ints, data["outputs"])),
        reads=tuple(map(_ints, data["reads"])),
        size=_ints(data["size"]),
        workspace=_ints(data["workspace"]),
        keep=frozenset(_ints(data["keep"])),
        once=frozenset(_ints(data["once"])),
        before=tuple((u, v) for u, v in map(_ints, data["before"])),
        resident=_one(data["resident"], int),
        replays=tuple((k, v, w) for k, v, w in map(_ints, data["replays"])),
    )
    count, values = len(problem.cost), len(problem.size)
    if any(len(x) != count for x in (problem.outputs, problem.reads, problem.workspace)):
        raise ValueError("its lists have different lengths")
    if not all(0 <= x < inf for x in (problem.resident, *problem.size, *problem.workspace, *problem.cost)):
        raise ValueError("it has sizes or costs that are negative or not finite")
    _within(count, problem.once, *problem.before)
    _within(values, problem.keep, *problem.outputs, *problem.reads)
    for k, v, w in problem.replays:
        _within(count, [k])
        if v not in problem.reads[k] or not 0 <= w <= problem.workspace[k]:
            raise ValueError("it runs an operator again from what this does not read")
    if sorted(v for values_of in problem.outputs for v in values_of) != list(range(values)):
        raise ValueError("a value has no producer, or two")
    return problem


def _ints(numbers: Iterable[Any]) -> tuple[int, ...]:
    return tuple(_one(n, int) for n in numbers)


def _one(value: Any, kind: type) -> Any:
    """``value`` if it is of the kind; whole numbers may stand for floats, truth values for no number."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _within(stop: int, *lists: Iterable[int]) -> None:
    if any(not 0 <= k < stop for numbers in lists for k in numbers):
        raise ValueError("it names operators or values that it does not have")
