"""A plan counted by hand: its numbers, its text, its picture, and JSON from which only whole plans come back."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import memograd as mg
from memograd.memory.plan import Plan
from memograd.memory.problem import Problem

# forward a, b, c; backward d reads c and b, e reads d and a; then w writes e into an input
PROBLEM = Problem(
    cost=(1.0, 2.0, 4.0, 8.0, 16.0, 1.0),
    outputs=((0,), (1,), (2,), (3,), (4,), ()),
    reads=((), (0,), (1,), (1, 2), (0, 3), (4,)),
    size=(10, 20, 30, 40, 50),
    workspace=(0, 0, 0, 5, 0, 0),
    once=frozenset({5}),
    resident=100,
)


def small(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "budget": 205,
        "schedule": (0, 1, 2, 3, 0, 4, 5),
        "operators": ("a", "b", "c", "d", "e", "write p"),
        "modules": ("net.one", "net.two", "net.three", "net.three", "net.one", ""),
        "phases": ("forward", "forward", "forward", "backward", "backward", "write"),
        "unplanned": (0, 1, 2, 3, 4, 5),
        "problem": PROBLEM,
        "bound": 0.25,
        "fingerprint": "f",
        "device": "cpu",
        "measured": True,
        "code": "def step(): ...\n",
    }
    return Plan(**fields | changes)


def deep(blocks: int) -> Plan:
    """A network of equal blocks, all computed again, each block by two operators in modules of their own."""
    count = 2 * blocks
    forward = tuple(range(count))
    problem = Problem(
        cost=(1.0,) * (count + 1),
        outputs=tuple((k,) for k in range(count + 1)),
        reads=((), *((k,) for k in range(count))),
        size=(8,) * (count + 1),
        workspace=(0,) * (count + 1),
    )
    return small(
        budget=10**6,
        schedule=(*forward, *forward, count),
        operators=(*(f"{'mul' if k % 2 else 'add'}_{k}" for k in forward), "back"),
        modules=(*(f"h.{k // 2}.{'act' if k % 2 else 'norm'}" for k in forward), ""),
        phases=(*("forward" for _ in forward), "backward"),
        unplanned=(*forward, count),
        problem=problem,
    )


def test_numbers() -> None:
    plan = small()
    assert plan.usage.profile == [110, 130, 150, 195, 150, 200, 150]
    assert plan.unplanned_usage.profile == [110, 130, 160, 205, 200, 150]
    assert (plan.peak_bytes, plan.unplanned_bytes, plan.floor_bytes) == (200, 205, 200)
    assert plan.extra_seconds == 1.0 and plan.overhead == 1 / 32
    assert plan.lower_bound == 0.25 and plan.gap == 0.75 / 32
    assert plan.again == {"a": 1}
    assert plan.kept == {"b": 20, "c": 30}, "d reads them; what e reads was computed again"
    assert small(schedule=(0, 1, 2, 3, 4, 5)).kept == {"a": 10, "b": 20, "c": 30}


def test_a_bound_never_says_more_than_the_plan_costs() -> None:
    plan = small(bound=5.0)
    assert plan.lower_bound == 1.0 and plan.gap == 0.0


def test_the_text() -> None:
    lines = str(small()).splitlines()
    assert lines[:3] == [
        "budget        205 B (205 bytes)",
        "unplanned     205 B; no plan gets below 200 B",
        "peak          200 B, at e in net.one (backward; run 6 of 7)",
    ]
    assert lines[4] == "kept          50 B from forward to backward, of 2 operators:"
    assert [line.split() for line in lines[5:7]] == [["30", "B", "net.three"], ["20", "B", "net.two"]]
    assert lines[7] == "recomputed    1 of 6 operators, 1 extra runs:"
    assert lines[8].split() == ["1000.000", "ms", "net.one:", "a", "x1"]
    assert "1000.000 ms" in lines[9] and "3.1%" in lines[9] and "measured on cpu" in lines[9]
    assert "250.000 ms" in lines[10] and "2.3 points" in lines[11]
    assert "modelled" in str(small(measured=False))


def test_a_plan_without_recomputation_and_one_of_nothing() -> None:
    text = str(small(schedule=(0, 1, 2, 3, 4, 5)))
    assert "0 of 6 operators, 0 extra runs\n" in text
    nothing = Problem((), (), (), (), (), resident=7)
    empty = small(schedule=(), operators=(), modules=(), phases=(), unplanned=(), problem=nothing)
    assert "nothing runs" in str(empty) and empty.overhead == 0.0 and empty.gap == 0.0
    assert empty.numbers()["peak_operator"] is None


def test_repeated_blocks_are_one_line() -> None:
    text = str(deep(48))
    assert "h.{0-47}.act: mul x48" in text and "h.{0-47}.norm: add x48" in text
    assert len(text.splitlines()) < 20
    odd = deep(6)
    again = [k for k in range(12) if k // 2 in (0, 1, 2, 4)]
    odd = replace(odd, schedule=(*range(12), *again, 12))
    assert "h.{0-2,4}.act: mul x4" in str(odd)


def test_parts_of_a_block_stay_apart() -> None:
    plan = deep(6)
    numbers = tuple(f"net.{k // 2}.{k % 2}" for k in range(12))
    text = str(replace(plan, modules=(*numbers, "")))
    assert "net.{0-5}.0: add x6" in text and "net.{0-5}.1: mul x6" in text


def test_of_many_places_the_largest_are_shown() -> None:
    plan = deep(30)
    named = replace(plan, modules=tuple(f"part{chr(97 + k % 26)}{'x' * (k // 26)}" for k in range(61)))
    text = str(named)
    assert "... and 50 more" in text and len(text.splitlines()) < 32
    assert str(named).count("part") <= 22


def test_the_same_numbers_for_programs() -> None:
    numbers = json.loads(json.dumps(small().numbers()))
    assert numbers["peak_bytes"] == 200 and numbers["peak_operator"] == "e" and numbers["peak_module"] == "net.one"
    assert numbers["recomputed"] == {"a": 1} and numbers["kept"] == {"b": 20, "c": 30}
    assert numbers["gap"] == 0.75 / 32 and numbers["budget"] == 205


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_picture(ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    small().plot(tmp_path / f"plan.{ending}")
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert (tmp_path / f"plan.{ending}").read_bytes().startswith(starts[ending])


def test_what_the_picture_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves have the bytes and times that were counted by hand."""
    figure = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path, **_: drawn.append(self))
    small().plot(tmp_path / "plan.png")
    axes = drawn[0].axes[0]
    unplanned, planned = (patch.get_data() for patch in axes.patches[:2])
    assert list(unplanned.values) == [110, 130, 160, 205, 200, 150] and unplanned.edges[-1] == 32_000
    assert list(planned.edges) == [0, 1000, 3000, 7000, 15000, 16000, 32000, 33000], "milliseconds"
    lines = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    assert lines["budget"] == 205 and lines["there all the time"] == 100


def test_pictures_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(mg.MemogradError, match="nonsense"):
        small().plot(tmp_path / "plan.nonsense")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(mg.MemogradError, match="pip install"):
        small().plot(tmp_path / "plan.png")


def test_json_and_back() -> None:
    plan = small()
    again = Plan.from_json(plan.to_json())
    assert again == plan and str(again) == str(plan) and Plan.from_json(plan.to_json().encode()) == plan


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"plan"', '{"budget": 3}', "[" * 100_000, b"\xff\xfe\x00"]
)
def test_what_is_no_plan(text: str | bytes) -> None:
    with pytest.raises(mg.PlanViolationError, match="no plan"):
        Plan.from_json(text)


def test_another_version() -> None:
    data = json.loads(small().to_json()) | {"memograd_plan": 999}
    with pytest.raises(mg.PlanViolationError, match="version 999"):
        Plan.from_json(json.dumps(data))


DAMAGES: dict[str, Any] = {
    "budget": [None, "5", True, 1.5, 150],  # 150: less than its peak
    "schedule": [
        *(None, 7, [], ["a"], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 5], [4, 0, 1, 2, 3, 5]),
        *([0, 1, 2, 3, -1, 4, 5], [0, 1, 2, 3, 4, 99, 5], [0, 1, 2, 3, 4, 5.0]),
    ],
    "operators": [["a"], None, [1] * 6],
    "modules": [[], [None] * 6],
    "phases": [[]],
    "unplanned": [[5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0], None],
    "bound": ["0", None],
    "fingerprint": [None],
    "measured": [1],
    "code": [None],
    "problem": [None, [], {}, 3],
}
PROBLEM_DAMAGES: dict[str, Any] = {
    "cost": [[1.0], [-1.0] * 6, [float("nan")] * 6, [float("inf")] * 6, ["1"] * 6],
    "outputs": [[[0]] * 6, [[0], [1], [2], [3], [3], []], [[0], [1], [2], [3], [17], []]],
    "reads": [[[]] * 5, [[-1]] * 6, [[9]] * 6, None],
    "size": [[1], [-10, 20, 30, 40, 50], [10.5, 20, 30, 40, 50]],
    "workspace": [[], [-1] * 6, [10**9] * 6],
    "keep": [[99], [-1], None],
    "once": [[99], [0]],
    "before": [[[0]], [[0, 99]], [[5, 0]]],
    "resident": [-1, None, 10**9],
    "replays": [None, [[0]], [[0, 99, 0]], [[99, 0, 0]], [[0, 0, -1]], [[1, 0, 10**9]]],
}


def damaged() -> list[Any]:
    whole = [((name,), value) for name, values in DAMAGES.items() for value in values]
    inside = [(("problem", name), value) for name, values in PROBLEM_DAMAGES.items() for value in values]
    return [pytest.param(path, value, id=f"{'.'.join(path)}={str(value)[:20]}") for path, value in whole + inside]


@pytest.mark.parametrize(("path", "value"), damaged())
def test_damaged_plans(path: tuple[str, ...], value: Any) -> None:
    data = json.loads(small().to_json())
    part = data
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(mg.PlanViolationError):
        Plan.from_json(json.dumps(data))
    del part[path[-1]]
    with pytest.raises(mg.PlanViolationError, match=r"damaged|no plan"):
        Plan.from_json(json.dumps(data))


def test_a_schedule_over_the_budget_is_no_plan() -> None:
    with pytest.raises(mg.PlanViolationError, match="over its budget"):
        small(budget=199).checked()
    with pytest.raises(mg.PlanViolationError, match="cannot run"):
        small(schedule=(3, 0, 1, 2, 4, 5)).checked()
    assert small(budget=200).checked().peak_bytes == 200
