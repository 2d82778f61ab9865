import functools
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from memograd.tracing.reachable import reachable

GLOBAL = torch.ones(1)


@dataclass
class Box:
    content: object


def uses_a_global():
    return GLOBAL


class Callable:
    def __init__(self, tensor):
        self.tensor = tensor

    def method(self):
        return self.tensor


def test_everywhere_a_program_may_hold_a_tensor():
    t = [torch.ones(1) for _ in range(9)]
    layer = nn.Linear(1, 1)

    def enclosed(x=t[0], *, y=t[1]):
        return x, y, t[2:4]

    def outer():
        return lambda: enclosed

    roots = [{"a": [(Box(t[4]),)]}, functools.partial(max, t[5], key=t[6]), Callable(t[7]).method, outer(), Box(layer)]
    found = {id(x) for x in reachable(*roots, uses_a_global)}
    assert found == {id(x) for x in [*t, layer.weight, layer.bias, GLOBAL]} - {id(t[8])} | {id(t[8])}


def test_a_circle_ends():
    box = Box(None)
    box.content = [box, GLOBAL]
    assert reachable(box) == [GLOBAL]


def test_pytorchs_own_objects_are_not_entered():
    assert reachable(torch.nn.functional.dropout, torch.utils.checkpoint.checkpoint) == []


def test_what_is_not_looked_at_is_said(monkeypatch):
    monkeypatch.setattr(sys.modules[reachable.__module__], "_MOST", 10)
    with pytest.warns(UserWarning, match="more than 10 objects can be reached from an object of type list"):
        reachable([[k] for k in range(20)])
