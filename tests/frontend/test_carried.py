"""State that calls carry on with its history. Witness: the same model, not wrapped, in the same loop."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memograd as mg

F64 = torch.float64


class Cell(nn.Module):
    """``h = tanh(W x + h * h)``, with h kept in some place."""

    def __init__(self, get: Callable[[Any], Tensor], put: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.get, self.put = get, put
        self.linear = nn.Linear(3, 3, dtype=F64)
        self.register_buffer("buffer", torch.zeros(3, dtype=F64))
        self.h = self.twin = torch.zeros(3, dtype=F64)
        self.named, self.listed, self.queue, self.pair = {"h": self.h}, [self.h], deque([self.h], 1), (self.h, 0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.get(self)
        h = torch.tanh(self.linear(x) + h * h)
        self.put(self, h)
        return h


def both(m: Any, h: Tensor) -> None:
    m.h = m.twin = h


PLACES: dict[str, tuple[Callable[[Any], Tensor], Callable[[Any, Tensor], Any]]] = {
    "an attribute": (lambda m: m.h, lambda m, h: setattr(m, "h", h)),
    "two": (lambda m: m.h + m.twin, both),
    "a buffer": (lambda m: m.buffer, lambda m, h: setattr(m, "buffer", h)),
    "a dict": (lambda m: m.named["h"], lambda m, h: m.named.update(h=h)),
    "a list": (lambda m: m.listed[-1], lambda m, h: m.listed.__setitem__(0, h)),
    "a deque": (lambda m: m.queue[0], lambda m, h: m.queue.append(h)),
    "a tuple": (lambda m: m.pair[0], lambda m, h: setattr(m, "pair", (h, 1))),
}


@pytest.mark.parametrize("place", PLACES)
def test_gradients_through_several_calls(place: str) -> None:
    """The comparison went back through the earlier calls, whose memory autograd then had freed."""
    seen: list[list[Tensor]] = []
    for change in (lambda m: m, mg.wrap):
        torch.manual_seed(0)
        model: Any = change(Cell(*PLACES[place]))
        seen.append([])
        for _ in range(3):
            model.put(model, torch.full((3,), 0.5, dtype=F64))
            model.zero_grad()
            loss = torch.stack([model(torch.randn(2, 3, dtype=F64)).sum() for _ in range(3)]).sum()
            loss.backward()
            seen[-1] += [loss.detach(), model.linear.weight.grad.clone()]
    torch.testing.assert_close(*seen, rtol=1e-12, atol=1e-12)
    assert model.forward.check_reason.startswith("not compared" if place == "a tuple" else "agrees")
