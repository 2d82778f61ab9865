"""The relaxation behind the stronger certificates: a schedule cut into stages by the first runs of a few operators.

The cuts w1, …, wk come one after the other in every schedule considered. Stage i lies between the first runs of wi
and wi+1, the later one included. Every schedule gives a point of these 0/1 variables:

    runs[a, i] = 1    operator a runs in stage i, at least once
    held[v, i] = 1    a copy of v lives at the instant of wi's first run

and this point satisfies the inequalities of `_Stages`, whatever the order within a stage. So their optimum, that of a
relaxation, and any bound on it from below are bounds on the cost of every schedule. It is Checkmate's program (Jain et
al., MLSys 2020) with few stages and without an order; with one cut it says which of the values alive to drop.
"""

from __future__ import annotations

from importlib.util import find_spec
from math import frexp, fsum, inf

import numpy as np

from memograd.memory.bounds.cuts import Cuts

# Integer programs with more open variables than this cost more than they tell.
OPEN_VARIABLES = 2500
NODES = 100
GAP = 1e-4  # of the whole cost: a hundredth of a percent of overhead
# HiGHS counts within tolerances of 1e-6 to 1e-7, relatively to the total cost; its dual bound is taken with a margin.
TRUST = 1e-6


def available() -> bool:
    """Whether SciPy, which carries HiGHS, is there."""
    return find_spec("scipy") is not None


def linear_bound(cuts: Cuts, budget: int, chain: list[int]) -> float:
    """The extra cost that the linear relaxation proves: from its multipliers, recomputed here; 0 if it fails."""
    from scipy.optimize import linprog

    stages = _Stages(cuts, budget, chain)
    box = np.stack([stages.low, stages.high], axis=1)
    solved = linprog(stages.cost, A_ub=-stages.matrix, b_ub=-stages.right, bounds=box, method="highs-ds")
    if solved.status != 0:
        return 0.0
    return stages.extra(_dual_value(stages, np.maximum(0.0, -solved.ineqlin.marginals)))


def integer_bound(cuts: Cuts, budget: int, chain: list[int], effort: int) -> float:
    """The extra cost that HiGHS's branch and bound proves within a limit of nodes: its dual bound, with a margin."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    stages = _Stages(cuts, budget, chain)
    if np.count_nonzero(stages.low < stages.high) > OPEN_VARIABLES * effort:
        return 0.0
    solved = milp(
        stages.cost,
        integrality=np.ones(len(stages.cost)),
        bounds=Bounds(stages.low, stages.high),  # pyright: ignore[reportArgumentType]  (SciPy takes arrays)
        constraints=LinearConstraint(stages.matrix, stages.right, np.inf),  # pyright: ignore[reportArgumentType]
        options={"node_limit": NODES * effort, "mip_rel_gap": GAP},
    )
    if solved.status == 2:
        return inf
    if solved.mip_dual_bound is None:
        return 0.0
    return stages.extra(solved.mip_dual_bound - TRUST)


def _dual_value(stages: _Stages, multipliers: np.ndarray) -> float:
    """min over the box of cost·x + λ·(right - matrix x): for every λ ≥ 0 a bound, less what rounding may have added."""
    reduced = stages.cost - stages.matrix.T @ multipliers
    best = np.where(reduced > 0, reduced * stages.low, reduced * stages.high)
    value = fsum(multipliers * stages.right) + fsum(best)
    moved = abs(stages.cost) + abs(stages.matrix).T @ multipliers
    longest = np.diff(stages.matrix.tocsc().indptr).max() + 4
    rounding = np.finfo(float).eps * longest * (fsum(moved) + fsum(multipliers * abs(stages.right)))
    return value - rounding


class _Stages:
    """minimise cost·x with matrix x ≥ right, low ≤ x ≤ high; bytes and costs are scaled by powers of two, exactly."""

    def __init__(self, cuts: Cuts, budget: int, chain: list[int]) -> None:
        self.cuts, self.chain, problem = cuts, chain, cuts.problem
        self.operators, self.values, self.last = len(problem.cost), len(problem.size), len(chain)
        self.total = problem.total_cost
        self.unit = 2.0 ** frexp(self.total)[1]
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []
        self._right: list[float] = []
        runs = self.operators * (self.last + 1)
        count = runs + self.values * self.last
        self.cost = np.zeros(count)
        self.cost[:runs] = np.tile(np.array(problem.cost) / self.unit, self.last + 1)
        self.low, self.high = np.zeros(count), np.ones(count)
        self._each_operator_runs()
        for stage in range(self.last + 1):
            self._inputs_are_there(stage)
        for cut, w in enumerate(chain, 1):
            self._copies_come_from_somewhere(cut)
            self._bytes_fit(cut, w, budget)
        self._finish()

    def _runs(self, operator, stage):
        """The place of runs[operator, stage] among the variables; the places, for an array of either."""
        return stage * self.operators + operator

    def _held(self, value, cut: int):
        """The place of held[value, cut]."""
        return self.operators * (self.last + 1) + (cut - 1) * self.values + value

    def _each_operator_runs(self) -> None:
        """At least once, between the cuts that it must follow and those that it must precede; perhaps at most once."""
        problem, precedes = self.cuts.problem, self.cuts.precedes
        first, final = np.zeros(self.operators, dtype=int), np.full(self.operators, self.last)
        for cut, w in reversed(list(enumerate(self.chain, 1))):
            final[precedes[:, w]] = cut - 1
            final[w] = cut - 1
        for cut, w in enumerate(self.chain, 1):
            first[precedes[w]] = cut
            self.high[self._runs(np.flatnonzero(self.cuts.over[w]), cut)] = 0.0
        first[self.chain] = final[self.chain]  # w's first run ends its stage
        for a in range(self.operators):
            self.high[self._runs(a, np.arange(first[a]))] = 0.0
            window = self._runs(a, np.arange(first[a], final[a] + 1))
            self._require(window[None, :], np.ones(len(window)), 1.0)
            if len(window) == 1:
                self.low[window] = 1.0
            for cut in range(1, first[a] + 1):
                self.high[self._held(np.array(problem.outputs[a], dtype=int), cut)] = 0.0
            if a in problem.once:
                everywhere = self._runs(a, np.arange(self.last + 1))
                self._require(everywhere[None, :], -np.ones(len(everywhere)), -1.0)

    def _inputs_are_there(self, stage: int) -> None:
        """What an operator reads in a stage was held at the cut before, or is computed in the stage."""
        problem = self.cuts.problem
        pairs = np.array([(a, v) for a, read in enumerate(problem.reads) for v in read], dtype=int).reshape(-1, 2)
        readers, values = pairs.T
        columns = [self._runs(readers, stage), self._runs(np.array(problem.producer)[values], stage)]
        if stage:
            columns.append(self._held(values, stage))
        self._require(np.stack(columns, axis=1), np.array([-1.0, 1.0, 1.0])[: len(columns)], 0.0)

    def _copies_come_from_somewhere(self, cut: int) -> None:
        """A copy held at a cut was held at the cut before, or computed in between; what is kept survives the last."""
        problem = self.cuts.problem
        producers, values = np.array(problem.producer), np.arange(self.values)
        columns = [self._held(values, cut), self._runs(producers, cut - 1)]
        if cut > 1:
            columns.append(self._held(values, cut - 1))
        self._require(np.stack(columns, axis=1), np.array([-1.0, 1.0, 1.0])[: len(columns)], 0.0)
        if cut == self.last:
            results = np.array(sorted(problem.keep), dtype=int)
            columns = [self._held(results, cut), self._runs(producers[results], cut)]
            self._require(np.stack(columns, axis=1), np.ones(2), 1.0)

    def _bytes_fit(self, cut: int, w: int, budget: int) -> None:
        """What w touches, its workspace and the other copies held fit the budget together."""
        problem, unit = self.cuts.problem, 2.0 ** frexp(budget)[1]
        touched = {*problem.reads[w], *problem.outputs[w]}
        beside = np.array([v for v in range(self.values) if v not in touched], dtype=int)
        room = budget - problem.resident - problem.needs(w)
        self._require(self._held(beside, cut)[None, :], -np.array(problem.size)[beside] / unit, -room / unit)

    def _require(self, columns: np.ndarray, factors: np.ndarray, right: float) -> None:
        """Add a row ``factors · x[columns] ≥ right`` for each row of ``columns``."""
        self._rows.append((columns, factors))
        self._right += [right] * len(columns)

    def _finish(self) -> None:
        from scipy.sparse import csr_matrix

        columns = np.concatenate([c.ravel() for c, _ in self._rows])
        factors = np.concatenate([np.tile(f, len(c)) for c, f in self._rows])
        lengths = np.concatenate([np.full(len(c), c.shape[1]) for c, _ in self._rows])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        self.matrix = csr_matrix((factors, columns, starts), shape=(len(lengths), len(self.cost)))
        self.right = np.array(self._right)

    def extra(self, value: float) -> float:
        """The extra cost that a bound on the scaled cost of the whole schedule amounts to."""
        return max(0.0, float(value * self.unit - self.total * (1 + 1e-12)))
