"""Arguments that a program finds by keys which hold them, or their ids: PyTorch's answer at each call."""

import dataclasses
import weakref

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64


class ByIdentity:
    def __init__(self, tensor):
        self.tensor = tensor

    def __hash__(self):
        return id(self.tensor)

    def __eq__(self, other):
        return self.tensor is other.tensor


class InSlots(ByIdentity):
    __slots__ = ("tensor",)


class Weakly:
    def __init__(self, tensor):
        self.of = weakref.ref(tensor)

    def __hash__(self):
        return hash((1, id(self.of())))

    def __eq__(self, other):
        return self.of() is other.of()


class ByNumber:
    def __init__(self, tensor):
        self.number = (id(tensor), 1)

    def __hash__(self):
        return hash(self.number)

    def __eq__(self, other):
        return self.number == other.number


class ByText(ByNumber):
    def __init__(self, tensor):
        self.number = f"n{id(tensor)}"


@dataclasses.dataclass(frozen=True)
class Frozen:
    tensor: torch.Tensor


def in_a_tuple(tensor):
    return ByIdentity(tensor), 1


KEYS = [ByIdentity, InSlots, Weakly, ByNumber, ByText, Frozen, in_a_tuple]
KEYS += [lambda t: frozenset({t}), lambda t: hash((1, t))]
HOLDS = [lambda key: {key: 1}, lambda key: {key}, lambda key: frozenset({key})]


class Program(nn.Module):
    def __init__(self, key_of, holds, tensor):
        super().__init__()
        self.weight, self.key_of, self.held = nn.Parameter(torch.ones(2, dtype=F64)), key_of, holds(key_of(tensor))

    def forward(self, n):
        return self.weight * n * (5.0 if self.key_of(n) in self.held else 3.0)


def _gradients(model, arguments, way):
    step = None
    if way == "step":
        step = mg.TrainStep(model, lambda y, _: y.sum(), torch.optim.SGD(model.parameters(), 1.0))
    elif way is not None:
        mg.wrap(model, check=way)
    gradients = []
    for n in arguments:
        before = model.weight.detach().clone()
        if step is not None:
            step(n, torch.zeros(1))
            gradients.append(before - model.weight.detach())
        else:
            gradients += torch.autograd.grad(model(n).sum(), [model.weight])
    return gradients


@pytest.mark.parametrize("way", ["never", "step"])
@pytest.mark.parametrize("holds", HOLDS, ids=["dict", "set", "frozenset"])
@pytest.mark.parametrize("key_of", KEYS, ids=lambda key: key.__name__)
def test_what_is_found_by_a_key_is_that_of_each_call(key_of, holds, way):
    first, found, third = (torch.full((), 2.0, dtype=F64) for _ in range(3))
    arguments = [first, found, third, found]
    mine, theirs = (_gradients(Program(key_of, holds, found), arguments, w) for w in (way, None))
    torch.testing.assert_close(mine, theirs)


def test_other_arguments_take_the_same_graph_where_nothing_is_found():
    one, two, three = (torch.full((), 2.0, dtype=F64) for _ in range(3))
    for key_of in (ByIdentity, Frozen, Weakly):
        model = mg.wrap(Program(key_of, HOLDS[0], one))
        model(two).sum().backward(), model(three).sum().backward()
        assert len(model.forward.captures) == 1


class Scale:
    by = 2.0


class Scaled:
    def __init__(self, n):
        self.value = n * SCALE[0]


SCALE = [2.0]
TENSOR, OTHER = (torch.full((), 2.0, dtype=F64) for _ in range(2))
HELD = [TENSOR]
NOTED = Scale()
FACTORS = {
    "what is said by a key": lambda n: sum(key.by for key in {NOTED: 1}),
    "what makes an object": lambda n: Scaled(n).value,
    "by a tensor in a place": lambda n: n * HELD[0] * {TENSOR: 5.0}.get(HELD[0], 1.0),
    "by the id of one": lambda n: n * HELD[0] * IDS.get(id(HELD[0]), 1.0),
    "by a weak reference": lambda n: n * HELD[0] * (5.0 if WEAKLY() is HELD[0] else 1.0),
}
IDS, WEAKLY = {id(TENSOR): 5.0}, weakref.ref(TENSOR)


@pytest.mark.parametrize("factor", FACTORS.values(), ids=FACTORS)
def test_what_changes_between_calls_is_seen(factor):
    class Of(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, dtype=F64))

        def forward(self, n):
            return self.weight * factor(n)

    n, gradients = torch.full((), 2.0, dtype=F64), []
    for model in (Of(), mg.wrap(Of(), check="never")):
        for k in range(3):
            NOTED.by, SCALE[0], HELD[0] = 2.0 + k, 2.0 + k, (TENSOR, OTHER, TENSOR)[k]
            gradients += torch.autograd.grad(model(n).sum(), [model.weight])
    torch.testing.assert_close(gradients[:3], gradients[3:])


def test_keys_are_not_shown():
    class Shown(ByIdentity):
        def __repr__(self):
            raise AssertionError("nobody asked for that")

    one, two = (torch.full((), 2.0, dtype=F64) for _ in range(2))
    mg.wrap(Program(Shown, HOLDS[0], one))(two).sum().backward()
