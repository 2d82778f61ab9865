"""``mg.largest_batch``: the largest batch whose forward and backward pass fit a byte budget, by planning alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from memograd.errors import BudgetInfeasibleError, DataError
from memograd.memory.budget import parse_budget
from memograd.memory.plan import Plan
from memograd.train.planning import plan_for

_MOST = 2**20  # samples: who gets so far is not short of memory


def largest_batch(
    model: nn.Module,
    make_batch: Callable[[int], Any],
    memory_budget: int | str,
    loss: Callable[..., Any] | None = None,
) -> tuple[int, Plan]:
    """The largest batch for which a schedule within the budget is found; nothing is run at its size.

    What the leanest schedule of a batch takes is nearly linear in the number of samples: two batches tell where to
    look, and the answer is proven by planning it, and failing to plan the next one.

    Args:
        make_batch: ``make_batch(n)`` gives the arguments of the model for ``n`` samples, a tuple or a dict; with a
            ``loss`` of two arguments the last one is the target. (See ``mg.plan``.)
        memory_budget: bytes, or "8GiB".

    Returns:
        The number of samples, and the plan for so many.

    Raises:
        DataError: the budget is a share, or ``make_batch`` gives neither a tuple nor a dict.
        BudgetInfeasibleError: not even one sample fits.
        CaptureError, MissingRuleError: the step cannot be captured or differentiated.
    """
    if not callable(make_batch):
        raise DataError(f"make_batch must be a function of the number of samples, got {type(make_batch).__name__}")
    if "%" in str(memory_budget):
        raise DataError(f"memory_budget={memory_budget!r} is a share of what a batch takes: give bytes, or '8GiB'")
    budget = parse_budget(memory_budget, 0)
    search = _Search(lambda n: _planned(model, make_batch(n), loss, budget), budget)
    while search.above is None and search.size < _MOST:
        search.ask(search.size * 2 or 1)
    while search.above is not None and search.above - search.size > 1:
        search.ask(search.next())
    assert search.plan is not None
    return search.size, search.plan


class _Search:
    """The batches asked about so far.

    Attributes:
        size, plan: the largest that fits.
        above: the smallest that does not; ``least``: the bytes it would take.
    """

    def __init__(self, fits: Callable[[int], Plan | BudgetInfeasibleError], budget: int) -> None:
        self.fits = fits
        self.budget = budget
        self.size, self.plan = 0, None
        self.above: int | None = None
        self.least = 0
        self._step = 1

    def ask(self, size: int) -> None:
        answer = self.fits(size)
        if isinstance(answer, Plan):
            self.size, self.plan = size, answer
        elif size == 1:
            raise answer
        else:
            self.above, self.least = size, answer.floor_bytes

    def next(self) -> int:
        """Where the line through what stays and ``least`` meets the budget; a little further each time it is met from
        below, so that the end comes soon."""
        assert self.above is not None and self.plan is not None
        stays = self.plan.problem.resident
        each = max(1.0, (self.least - stays) / self.above)
        guess = int((self.budget - stays) / each)
        if guess <= self.size:
            guess = self.size + self._step
            self._step *= 2
        return min(max(guess, self.size + 1), self.above - 1)


def _planned(
    model: nn.Module, batch: Any, loss: Callable[..., Any] | None, budget: int
) -> Plan | BudgetInfeasibleError:
    if not isinstance(batch, (tuple, list, Mapping)):
        raise DataError(f"make_batch must return a tuple of arguments or a dict of them, got {type(batch).__name__}")
    args, kwargs = ((), dict(batch)) if isinstance(batch, Mapping) else (tuple(batch), {})
    try:
        return plan_for(model, args, kwargs, loss, budget)
    except BudgetInfeasibleError as error:
        return error
