"""What every schedule holds, or must compute again, at the instant at which an operator runs first."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, inf

import numpy as np

from memograd.memory.problem import Problem

# Sums of fewer than a million numbers of one sign are this exact, relatively, with much to spare.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Cuts:
    """Facts about the first run of each operator w, as matrices of bools with a row for each w.

    Attributes:
        problem: what they are facts about.
        precedes: [a, b]: a runs first before b runs first, in every schedule considered.
        wanted: [w, v]: v was computed by the end of w's first run, w does not touch it, and it is read later (or kept).
        over: [w, a]: a cannot run after w's first run.
    """

    problem: Problem
    precedes: np.ndarray
    wanted: np.ndarray
    over: np.ndarray


def necessary_order(problem: Problem) -> np.ndarray:
    """[a, b]: b needs a (through reads and ``before``), so a runs first before b does, whatever the order."""
    count = len(problem.cost)
    precedes = np.zeros((count, count), dtype=bool, order="F")  # columns are what is worked on
    pairs = {(problem.producer[v], b) for b in range(count) for v in problem.reads[b]} | set(problem.before)
    for a, b in sorted(pairs, key=lambda pair: pair[1]):  # all that precedes a is known when b's turn comes
        precedes[:, b] |= precedes[:, a]
        precedes[a, b] = True
    return precedes


def base_order(problem: Problem) -> np.ndarray:
    """[a, b]: a is numbered before b."""
    count = len(problem.cost)
    return np.triu(np.ones((count, count), dtype=bool), k=1)


def cuts_of(problem: Problem, precedes: np.ndarray) -> Cuts:
    """The facts that follow from which operators run first before which."""
    count, values = len(problem.cost), len(problem.size)
    done = (precedes | np.eye(count, dtype=bool)).T  # [w, a]: a has run by the end of w's first run
    later = np.zeros((count, values), dtype=bool, order="F")
    for reader, read in enumerate(problem.reads):
        for v in read:
            later[:, v] |= precedes[:, reader]
    later[:, list(problem.keep)] = True
    wanted = np.ascontiguousarray(done[:, list(problem.producer)] & later)
    for w in range(count):
        wanted[w, [*problem.reads[w], *problem.outputs[w]]] = False
    done = np.asfortranarray(done)
    over = np.zeros((count, count), dtype=bool, order="F")
    once = list(problem.once)
    over[:, once] = done[:, once]
    for a, b in problem.before:
        over[:, a] |= done[:, b]
    return Cuts(problem, precedes, wanted, over)


def least_bytes(cuts: Cuts) -> int:
    """No schedule in any order needs less: what an operator touches, with the values that must be there beside it
    because their operators cannot run again; and at the end, everything that is kept."""
    problem = cuts.problem
    size = np.array(problem.size, dtype=np.int64)
    beside = (cuts.wanted & cuts.over[:, list(problem.producer)]) @ size
    during = max((problem.needs(w) + int(beside[w]) for w in range(len(problem.cost))), default=0)
    return problem.resident + max(during, sum(problem.size[v] for v in problem.keep))


def knapsack(cuts: Cuts, w: int, budget: int) -> float:
    """What must be paid again after w's first run, at least: of the values wanted later, those that do not fit
    beside w are dropped, the cheapest to compute again first; the last operator counts by its fraction."""
    problem = cuts.problem
    values = np.flatnonzero(cuts.wanted[w])
    size, producer = np.array(problem.size, dtype=np.int64)[values], np.array(problem.producer)[values]
    excess = int(size.sum()) + problem.needs(w) + problem.resident - budget
    if excess <= 0:
        return 0.0
    freed = np.bincount(producer, weights=size, minlength=len(problem.cost))
    freed[cuts.over[w]] = 0
    operators = np.flatnonzero(freed)
    cost = np.array(problem.cost)[operators]
    paid: list[float] = []
    for at in np.argsort(cost / freed[operators], kind="stable"):
        bytes_freed = int(freed[operators[at]])
        if bytes_freed >= excess:
            return fsum([*paid, cost[at] * excess / bytes_freed]) * (1 - ROUNDING)
        excess -= bytes_freed
        paid.append(float(cost[at]))
    return inf
