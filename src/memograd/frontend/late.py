"""Backward passes of watched models on an accelerator, of which it is not known yet whether their gradients are finite.

Nobody waits for that in the pass. It is asked for where weights are about to be overwritten: in front of the ``step()``
of any optimizer of PyTorch's, which is the first moment at which it must be known; weights can still be read as they
were then. A later pass that finds the answer there raises, and does not wait either.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from memograd.finite import Sent

_MOST = 16  # passes under way; whoever trains with an optimizer that we do not see waits for the oldest then


@dataclass(frozen=True)
class Pass:
    """``judge`` raises where the numbers that were ``sent`` are not finite; ``owner`` is who watches."""

    owner: object
    sent: Sent
    judge: Callable[[torch.Tensor], None]


class UnderWay:
    """The passes of all watched models of this process, in order."""

    def __init__(self) -> None:
        self._passes: list[Pass] = []
        self._turn = threading.RLock()
        self._hooked = False

    def add(self, one: Pass) -> None:
        """Raises NonFiniteError where an earlier pass is known to be bad by now."""
        self.settle(wait=False)
        with self._turn:
            if not self._hooked:
                register_optimizer_step_pre_hook(self._before_a_step)
                self._hooked = True
            self._passes.append(one)

    def settle(self, wait: bool) -> None:
        """Judge what has arrived, or all of it."""
        while True:
            with self._turn:
                if not self._passes:
                    return
                first = self._passes[0]
                numbers = first.sent.arrived(wait or len(self._passes) > _MOST)
                if numbers is None:
                    return
                del self._passes[0]
            try:
                first.judge(numbers)
            except BaseException:
                with self._turn:  # the later ones come from the same weights and say the same
                    self._passes = [p for p in self._passes if p.owner is not first.owner]
                raise

    def _before_a_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.settle(wait=True)


UNDER_WAY = UnderWay()
