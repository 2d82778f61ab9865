from __future__ import annotations

import torch

from memograd.explain.lesson import budget
from memograd.explain.lesson.budget import long_chain, plans
from memograd.explain.lesson.ladder import counts
from memograd.lower.lower import lower
from memograd.memory.costs.storages import storages
from memograd.pipeline import capture, differentiate


def walked(rungs):
    """Products of the naive recursion, by walking all of it: x_k has the consumers sin and cos, which have the product
    x_{k+1}."""
    if rungs == 0:
        return 0
    return sum(1 + 1 + walked(rungs - 1) for _ in ("sin", "cos"))


def test_products_are_counted_exactly():
    data = counts(rungs=9, drawn=2)
    assert data["naive"] == [str(walked(n)) for n in range(1, 10)]
    assert data["memoized"] == [4 * n for n in range(1, 10)]
    for n, tree in enumerate(data["trees"], 1):
        assert sum(kind == 5 for kind, _ in tree["naive"]) == walked(n)  # each product is passed back once
        assert sum(kind == 5 for kind, _ in tree["events"]) == 3 * n  # by each operator, for all its operands at once


def test_every_plan_runs_within_its_peak_and_gives_the_gradient_of_autograd():
    data = plans()
    x = torch.linspace(-1, 1, budget.SIZE)
    joint = differentiate(capture(long_chain, x))
    graph = lower(joint)
    operators = [operator.node for operator in storages(graph).operators]
    leaf = x.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(long_chain(leaf), [leaf])
    assert data["plans"][0]["runs"] == len(operators)
    peaks = []
    for plan in data["plans"]:
        values = dict(zip(graph.placeholders, joint.bind((x,), {}), strict=True))
        resident, peak = x.nbytes, 0
        alive = {(value, start): end for value, start, end in plan["lives"]}
        for at, k in enumerate(plan["schedule"]):
            node = operators[k]
            args = torch.fx.map_arg(node.args, values.__getitem__)
            values[node] = node.target(*args, **node.kwargs)
            here = [v for (v, start), end in alive.items() if start <= at <= end]
            peak = max(peak, resident + sum(data["sizes"][v] for v in here))
            held = {v for (v, start), end in alive.items() if start <= at < end}
            for done in set(plan["schedule"][: at + 1]):  # what the plan says is dead is gone
                if operators[done] not in graph.results and not held & set(data["outputs"][done]):
                    values.pop(operators[done], None)
        assert peak == plan["peak"] <= plan["budget"] * data["bytes"] + data["bytes"] // 2
        torch.testing.assert_close(values[graph.results[1]], theirs)
        peaks.append((plan["peak"], plan["runs"]))
    assert peaks == sorted(peaks, key=lambda p: (-p[0], p[1])) and peaks[-1][0] < peaks[0][0] / 3
