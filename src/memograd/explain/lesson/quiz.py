"""Questions with several answers, of which the numbers on the page say which one is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Data = Mapping[str, Any]


def questions(data: Data) -> dict[str, dict[str, Any]]:
    """By name: {values, options, right}. An option is a number, a word of the question's own texts, or a name."""
    return {name: ask(data) for name, ask in _QUESTIONS.items()}


def _why(data: Data) -> dict[str, Any]:
    weight = data["why"]["weights"][1]
    slope = weight["slope"][len(weight["slope"]) // 2]
    name = f"{weight['name']}[{','.join(map(str, weight['index']))}]"
    right = "down" if slope > 0 else "up" if slope < 0 else "either"
    return _of(["up", "down", "either"], right, name=name, start=weight["start"], slope=slope, kind="word")


def _chain(data: Data) -> dict[str, Any]:
    chain = data["chain"]
    at = round((1 + chain["reach"]) / (2 * chain["reach"]) * (chain["points"] - 1))
    inner, pair = chain["inner"]["square"]["slope"][at], chain["pairs"]["square-sin"]
    outer, whole = pair["outer"][at], pair["whole"][at]
    return _of([whole, inner + outer, outer, inner], whole, inner=inner, outer=outer)


def _steps(data: Data) -> dict[str, Any]:
    half = data["steps"]["half"]
    return _of([half, 0.25, 0.5, 1.0], half, half=half)


def _asking(data: Data) -> dict[str, Any]:
    summary = data["asking"]["summary"]
    naive, memoized = int(summary["naive"]), summary["memoized"]
    return _of([naive, memoized, summary["numbers"], naive * memoized], naive, naive=naive, memoized=memoized)


def _program(data: Data) -> dict[str, Any]:
    """Of the gradients that are 0 the first with one path and one factor of 0 on it."""
    for witness in data["program"]["witnesses"]:
        factors = [(f"∂{u} / ∂{v}", number) for u, v, number in witness["products"][0]]
        zero = [name for name, number in factors if number == 0]
        if len(witness["products"]) == len(zero) == 1:
            names = [name for name, _ in factors]
            return _of(names, zero[0], name=witness["name"], factor=zero[0], kind="name")
    raise AssertionError("no gradient of this sample is 0 because of one factor")


def _rungs(data: Data) -> dict[str, Any]:
    naive, memoized = int(data["rungs"]["naive"][9]), data["rungs"]["memoized"][9]
    return _of([memoized, 10 * memoized, naive, naive**2], naive, naive=naive, memoized=memoized)


def _keeping(data: Data) -> dict[str, Any]:
    plans = data["keeping"]["plans"]
    base, full = plans[0]["runs"], plans[1]["budget"]
    half = next(p for p in plans if p["budget"] == full // 2)
    runs = half["runs"]
    values = {"all": full, "base": base, "budget": half["budget"], "extra": runs - base}
    return _of([runs, base, 2 * base, base + base // 2], runs, **values)


def _pooling(data: Data) -> dict[str, Any]:
    passed = data["digits"]["pooling"]["passed"]
    shares = {f"{25 * k}%": abs(passed - k / 4) for k in (1, 2, 3, 4)}
    return _of(list(shares), min(shares, key=shares.__getitem__), passed=f"{100 * passed:.2f}%", kind="name")


def _time(data: Data) -> dict[str, Any]:
    linear = data["times"]["linear"]
    at = linear["settings"].index(0.9)
    w, left = linear["settings"][at], linear["sizes"][at][0]
    return _of([left, 1 - w, w / 27, w], left, w=w, left=left)


def _fates(data: Data) -> dict[str, Any]:
    fates = data["fates"]
    failed = dict(zip(fates["names"][1:], fates["counts"][1:], strict=True))
    most = max(failed, key=failed.__getitem__)
    return _of([f"fates.{n.replace(' ', '_')}" for n in failed], f"fates.{most.replace(' ', '_')}", count=failed[most])


def _of(options: Sequence[Any], right: Any, kind: str = "", **values: Any) -> dict[str, Any]:
    """Numbers in order of size; what is no number stays in the order in which it is given."""
    ordered = sorted(options) if all(isinstance(o, int | float) for o in options) else list(options)
    assert len(set(ordered)) == len(ordered), ordered
    kind = kind or ("number" if isinstance(right, int | float) else "word of another")
    return {"kind": kind, "values": {**values, "right": right}, "options": ordered, "right": ordered.index(right)}


_QUESTIONS: dict[str, Callable[[Data], dict[str, Any]]] = {
    "why": _why,
    "chain": _chain,
    "steps": _steps,
    "asking": _asking,
    "program": _program,
    "rungs": _rungs,
    "keeping": _keeping,
    "pooling": _pooling,
    "time": _time,
    "fates": _fates,
}
