"""The numbers of an optimizer that a step's graph reads as inputs, so that a new value is no new graph: learning rates
always, others once they have been seen to change (``OneCycleLR`` moves momentum at every step)."""

from __future__ import annotations

from typing import Any

import torch
from torch import optim

from memograd.train.arguments import rate as number_of

Tensor = torch.Tensor
_NOT_BAKED = frozenset({"params", "lr", "initial_lr"})  # params by identity
_MAY_CHANGE = ("momentum", "betas", "weight_decay")


class Rates:
    """Tensors that follow the optimizer's numbers.

    Attributes:
        learning: the learning rate of each group.
        others: what else is an input, by group and option; as many tensors as the option has numbers.
    """

    def __init__(self, optimizer: optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.learning: list[Tensor] = []
        self.others: dict[tuple[int, str], tuple[Tensor, ...]] = {}
        self._last: list[dict[str, Any]] = []
        self.follow()

    def follow(self) -> None:
        """Before each step."""
        for k, group in enumerate(self.optimizer.param_groups):
            if k == len(self.learning):
                self.learning.append(_rate(group["lr"], k))
                self._last.append({})
            self._learning(k, group["lr"])
            self._others(k, group)

    def _learning(self, k: int, rate: Any) -> None:
        last = self._last[k]
        if isinstance(rate, Tensor):
            self.learning[k].copy_(rate.detach().reshape(()))  # schedulers change it in place
        elif rate is not last.get("lr"):
            self.learning[k].fill_(number_of(rate, k))
        last["lr"] = rate

    def _others(self, k: int, group: dict[str, Any]) -> None:
        last = self._last[k]
        for option in _MAY_CHANGE:
            value = group.get(option)
            if value is last.get(option):
                continue
            numbers = _numbers(value)
            tensors = self.others.get((k, option), ())
            if option in last and numbers and not tensors and numbers != _numbers(last[option]):
                device = self.learning[k].device
                tensors = tuple(torch.zeros((), dtype=torch.float64, device=device) for _ in numbers)
                self.others[k, option] = tensors
            for tensor, number in zip(tensors, numbers, strict=False):
                tensor.fill_(number)
            last[option] = value

    def inputs(self, k: int) -> dict[str, tuple[Tensor, ...]]:
        """What else is an input of this group: none that is zero, for which formulas have a form of their own."""
        group = self.optimizer.param_groups[k]
        held = ((option, self.others.get((k, option), ())) for option in _MAY_CHANGE)
        return {option: tensors for option, tensors in held if tensors and _on(group, option)}

    def baked(self) -> tuple[Any, ...]:
        """What of each group a graph has as constants."""
        return tuple([self._baked(k, group) for k, group in enumerate(self.optimizer.param_groups)])

    def _baked(self, k: int, group: dict[str, Any]) -> tuple[Any, ...]:
        inputs = {option for group_number, option in self.others if group_number == k}
        constants = [(o, v) for o, v in group.items() if o not in _NOT_BAKED and o not in inputs]
        return (*map(id, group["params"]), *constants, *[(o, _on(group, o)) for o in inputs])


def _rate(rate: float | Tensor, group: int) -> Tensor:
    """The graph's learning rate, on the device of a rate that is a tensor: reading it waits for no device then."""
    return torch.tensor(number_of(rate, group), dtype=torch.float64, device=getattr(rate, "device", None))


def _numbers(value: Any) -> tuple[float, ...]:
    """The numbers of an option; none where it has something else."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(values) if all(isinstance(v, (int, float)) for v in values) else ()


def _on(group: dict[str, Any], option: str) -> bool:
    """Whether the formulas have a term of it."""
    return option == "betas" or bool(group[option])
