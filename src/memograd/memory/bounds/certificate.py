"""Certificates: what every schedule within a byte budget must cost on top of running each operator once.

`lower_bound(problem, budget)` answers for schedules in any order and for schedules whose first runs follow the
numbering of the operators. Below `least_bytes(problem)` there is no schedule at all. The proofs are in
docs/certificates.md; in short, the instants at which chosen operators run first cut every schedule into stages, and
what crosses a cut must fit the budget or be computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from memograd.memory.bounds import stages
from memograd.memory.bounds.cuts import Cuts, base_order, cuts_of, knapsack, least_bytes, necessary_order
from memograd.memory.problem import Problem

# Up to this many operators are tried as cuts by the knapsack alone; more are thinned out evenly.
SCANNED = 1000
# Linear programs times operators: the time of a bound stays in proportion to the size of the problem.
WORK = 12_000


@dataclass(frozen=True)
class Bound:
    """Extra cost, in the problem's unit, that no schedule within the budget gets below; infinite: there is none.

    Attributes:
        any_order: for every schedule.
        this_order: for schedules whose first runs come in the numbering of the operators; at least ``any_order``.
        how: what was proved by what, for the reader.
    """

    any_order: float
    this_order: float
    how: str


def any_order_bound(problem: Problem, budget: int, effort: int = 0) -> float:
    """``lower_bound(...).any_order``, without a look at this order: half the work."""
    problem = problem.lightest
    cuts = cuts_of(problem, necessary_order(problem))
    return inf if budget < least_bytes(cuts) else _strongest(cuts, budget, effort)[0]


def lower_bound(problem: Problem, budget: int, effort: int = 1) -> Bound:
    """A proven lower bound on the extra cost within ``budget`` bytes (residents included).

    ``effort`` 0 trusts no solver (knapsack relaxations and linear programs checked through their multipliers),
    1 adds small integer programs, and each step beyond searches more of them. The answer does not depend on the
    clock. Without SciPy only the knapsack relaxations remain.
    """
    problem = problem.lightest
    necessary, base = necessary_order(problem), base_order(problem)
    cuts = cuts_of(problem, necessary)
    floor = least_bytes(cuts)
    if budget < floor:
        return Bound(inf, inf, f"no schedule fits: {floor} bytes are needed")
    any_order, source = _strongest(cuts, budget, effort)
    fixed, fixed_source = 0.0, ""
    if (necessary != base).any():
        fixed, fixed_source = _strongest(cuts_of(problem, base), budget, effort)
    if fixed <= any_order:
        fixed, fixed_source = any_order, "as for any order"
    return Bound(any_order, fixed, f"any order: {source}; this order: {fixed_source}")


def _strongest(cuts: Cuts, budget: int, effort: int) -> tuple[float, str]:
    """The best of ever dearer bounds; each is valid, so the greatest is."""
    scores = _scan(cuts, budget)
    if not scores:
        return 0.0, "nothing that must be dropped was found"
    best, how = scores[0][0], f"knapsack at operator {scores[0][1]}"
    if not stages.available():
        return best, how + " (install SciPy for more)"
    leading = [w for _, w in scores[: min(8 + 8 * effort, max(2, WORK // len(cuts.problem.cost)))]]
    linear = sorted(((stages.linear_bound(cuts, budget, [w]), w) for w in leading), reverse=True)
    if linear[0][0] > best:
        best, how = linear[0][0], f"linear program at operator {linear[0][1]}"
    chains = [[w] for _, w in linear[: 2 * effort]]
    chains += [_chain(cuts, [w for _, w in linear], 2 * step) for step in range(1, effort + 1)]
    for chain in chains:
        value = stages.integer_bound(cuts, budget, chain, effort)
        if value > best:
            best, how = value, f"integer program at operators {chain}"
    return best, how


def _scan(cuts: Cuts, budget: int) -> list[tuple[float, int]]:
    """(bound, operator) by the knapsack at single operators, strongest first, those of no use left out."""
    count = len(cuts.problem.cost)
    operators = np.unique(np.linspace(0, count - 1, min(count, SCANNED)).round().astype(int)) if count else []
    scores = [(knapsack(cuts, int(w), budget), int(w)) for w in operators]
    return sorted(((value, w) for value, w in scores if value > 0), reverse=True)


def _chain(cuts: Cuts, operators: list[int], length: int) -> list[int]:
    """Up to ``length`` of ``operators``, the first ones first, that come one after the other in every schedule."""
    chain: list[int] = []
    for w in operators:
        if len(chain) < length and all(cuts.precedes[a, w] or cuts.precedes[w, a] for a in chain):
            chain.append(w)
    return sorted(chain)
