"""Arguments that a program looks for among what it holds weakly: by identity, as in PyTorch, none of it kept."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

import memograd as mg

F64 = torch.float64


class Program(nn.Module):
    def __init__(self, holds, finds, tensor):
        super().__init__()
        self.weight, self.finds, self.held = nn.Parameter(torch.ones(2, dtype=F64)), finds, holds(tensor)

    def forward(self, n):
        return self.weight * n * (5.0 if self.finds(self.held, n) else 3.0)


def _among(make):
    def holds(tensor):
        held = make()
        held[tensor] = 1
        return held

    return holds


PROGRAMS = {
    "by id": (_among(WeakIdKeyDictionary), lambda held, n: held.get(n)),
    "by a weak key": (_among(weakref.WeakKeyDictionary), lambda held, n: n in held),
    "in a weak set": (lambda t: weakref.WeakSet([t]), lambda held, n: n in held),
    "a weak value": (lambda t: weakref.WeakValueDictionary({"a": t}), lambda held, n: held.get("a") is n),
    "a reference": (weakref.ref, lambda held, n: held() is n),
    "by a reference": (lambda t: {weakref.ref(t): 1}, lambda held, n: held.get(weakref.ref(n))),
    "in a tuple": (lambda t: {(weakref.ref(t), 1)}, lambda held, n: (weakref.ref(n), 1) in held),
}


@pytest.mark.parametrize("way", ["first", "never", "step"])
@pytest.mark.parametrize("holds, finds", PROGRAMS.values(), ids=PROGRAMS)
def test_what_is_held_weakly_is_found(holds, finds, way):
    arguments = [torch.full((), 2.0, dtype=F64) for _ in range(3)]
    model = Program(holds, finds, arguments[1])
    step = None
    if way == "step":
        step = mg.TrainStep(model, lambda y, _: y.sum(), torch.optim.SGD(model.parameters(), 1.0))
    else:
        mg.wrap(model, check=way)
    for n, factor in zip([*arguments, arguments[1]], (6.0, 10.0, 6.0, 10.0), strict=True):
        before = model.weight.detach().clone()
        if step is not None:
            step(n, n[None])
            gradient = before - model.weight.detach()
        else:
            (gradient,) = torch.autograd.grad(model(n).sum(), [model.weight])
        torch.testing.assert_close(gradient, torch.full((2,), factor, dtype=F64))


@pytest.mark.parametrize("holds, finds", PROGRAMS.values(), ids=PROGRAMS)
def test_what_is_held_weakly_is_not_kept(holds, finds):
    found, other = torch.full((), 2.0, dtype=F64), torch.full((), 2.0, dtype=F64)
    model = mg.wrap(Program(holds, finds, found))
    model(other).sum().backward()
    gone = weakref.ref(found)
    del found
    gc.collect()
    assert gone() is None
    torch.testing.assert_close(model(other), model.weight * 6.0)
