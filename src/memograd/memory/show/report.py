"""A plan as text and as numbers: what it keeps, what it computes again and where, and how good it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, TypeVar

from memograd.memory.budget import human
from memograd.memory.scheduled import Scheduled

Amount = TypeVar("Amount", int, float)
_ROWS = 10  # lines for what is kept, and for what is computed again
_KINDS = 5  # names of operators on one of them


def text(plan: Scheduled) -> str:
    """The plan as ``print(plan)`` shows it."""
    problem, peak = plan.problem, plan.peak_bytes
    extra = sum(plan.again.values())
    most = max(plan.again.values(), default=0)
    often = f", the same one up to {most} times" if most > 1 else ""
    costs = f"costs {'measured' if plan.measured else 'measured or, for some operators, modelled'} on {plan.device}"
    lines = [
        f"budget        {human(plan.budget)} ({plan.budget:,} bytes)",
        f"unplanned     {human(plan.unplanned_bytes)}; no plan gets below {human(plan.floor_bytes)}",
        f"peak          {human(peak)}, {_peak_place(plan)}",
        f"              {human(problem.resident)} of it are there all the time: parameters, buffers, optimizer state, "
        "inputs",
        f"kept          {human(sum(plan.kept.values()))} from forward to backward, of {len(plan.kept)} operators"
        + (":" if plan.kept else ""),
        *_kept_rows(plan),
        f"recomputed    {len(plan.again)} of {len(plan.operators)} operators, {extra} extra runs{often}"
        + (":" if extra else ""),
        *_again_rows(plan),
        f"extra time    {plan.extra_seconds * 1e3:.3f} ms a step, {plan.overhead:.1%} of its operators' time ({costs})",
        f"lower bound   {plan.lower_bound * 1e3:.3f} ms: proven for every plan within the budget, in any order",
        f"gap           at most {plan.gap * 100:.1f} points of overhead from optimal",
    ]
    return "\n".join(lines)


def numbers(plan: Scheduled) -> dict[str, Any]:
    """What ``text`` says, for programs."""
    at = plan.schedule[plan.usage.at] if plan.schedule else None
    return {
        "budget": plan.budget,
        "peak_bytes": plan.peak_bytes,
        "peak_operator": None if at is None else plan.operators[at],
        "peak_module": None if at is None else plan.modules[at],
        "unplanned_bytes": plan.unplanned_bytes,
        "floor_bytes": plan.floor_bytes,
        "resident_bytes": plan.problem.resident,
        "kept": plan.kept,
        "operators": len(plan.operators),
        "recomputed": plan.again,
        "extra_seconds": plan.extra_seconds,
        "overhead": plan.overhead,
        "lower_bound": plan.lower_bound,
        "gap": plan.gap,
        "measured": plan.measured,
        "device": plan.device,
    }


def _peak_place(plan: Scheduled) -> str:
    if not plan.schedule:
        return "nothing runs"
    at = plan.schedule[plan.usage.at]
    repeated = ", computed again" if at in plan.schedule[: plan.usage.at] else ""
    where = f" in {plan.modules[at]}" if plan.modules[at] else ""
    return (
        f"at {plan.operators[at]}{where} ({plan.phases[at]}{repeated}; run {plan.usage.at + 1} of {len(plan.schedule)})"
    )


def _kept_rows(plan: Scheduled) -> list[str]:
    sizes = {place: sum(n.values()) for place, n in _by_place(plan, plan.kept).items()}
    ordered = sorted(sizes.items(), key=lambda row: -row[1])
    rest = sum(size for _, size in ordered[_ROWS:])
    return _rows([f"{human(size):>10}  {place}" for place, size in ordered], f"{human(rest):>10}")


def _again_rows(plan: Scheduled) -> list[str]:
    index = {name: k for k, name in enumerate(plan.operators)}
    seconds = {name: extra * plan.problem.cost[index[name]] for name, extra in plan.again.items()}
    costs = {place: sum(s.values()) for place, s in _by_place(plan, seconds).items()}
    kinds = {place: _kinds(runs) for place, runs in _by_place(plan, plan.again).items()}
    ordered = sorted(costs.items(), key=lambda row: -row[1])
    rest = sum(cost for _, cost in ordered[_ROWS:])
    return _rows([f"{_ms(cost)}  {place}: {kinds[place]}" for place, cost in ordered], _ms(rest))


def _rows(rows: list[str], rest: str) -> list[str]:
    more = [f"{rest}  ... and {len(rows) - _ROWS} more"] if len(rows) > _ROWS else []
    return [f"  {row}" for row in [*rows[:_ROWS], *more]]


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms".rjust(10)


def _kinds(runs: Mapping[str, int]) -> str:
    """``mul x24, add x12``: kinds of operators, most runs first."""
    counts: Counter[str] = Counter()
    for name, extra in runs.items():
        counts[name.rstrip("0123456789").rstrip("_")] += extra
    named = [f"{kind} x{count}" for kind, count in counts.most_common()]
    return ", ".join([*named[:_KINDS], *(["..."] if len(named) > _KINDS else [])])


def _by_place(plan: Scheduled, amounts: Mapping[str, Amount]) -> dict[str, dict[str, Amount]]:
    """``amounts`` of operators by module; modules that differ in numbers only are one place, ``layers.{0-11}.mlp``,
    but the parts of a block stay apart: ``layers.{0-11}.0`` and ``layers.{0-11}.1``."""
    module = dict(zip(plan.operators, plan.modules, strict=True))
    places: dict[tuple[str, ...], dict[str, Amount]] = {}
    paths: dict[tuple[str, ...], list[list[str]]] = {}
    for name, amount in amounts.items():
        path = module[name].split(".")
        numbered = [k for k, part in enumerate(path) if part.isdigit()]
        if len(numbered) > 1 and numbered[-1] == len(path) - 1:
            numbered.pop()
        key = tuple("#" if k in numbered else part for k, part in enumerate(path))
        places.setdefault(key, {})[name] = amount
        paths.setdefault(key, []).append(path)
    return {_joined(paths[key]): amount_of for key, amount_of in places.items()}


def _joined(paths: list[list[str]]) -> str:
    """One name for paths that differ in their numbers."""
    parts = [dict.fromkeys(alternatives) for alternatives in zip(*paths, strict=True)]
    named = [next(iter(p)) if len(p) == 1 else f"{{{_ranges(sorted(map(int, p)))}}}" for p in parts]
    return ".".join(named) or "(outside every module)"


def _ranges(numbers: Iterable[int]) -> str:
    """``0-3,5``."""
    ordered = list(numbers)
    starts = [ordered[0], *(b for a, b in pairwise(ordered) if b > a + 1)]
    stops = [*(a for a, b in pairwise(ordered) if b > a + 1), ordered[-1]]
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in zip(starts, stops, strict=True))
