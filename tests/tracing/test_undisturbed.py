"""What a program may change when it runs is put back: what objects hold, what tensors hold, where generators stand.
Objects are taken back as after a capture, see tests/tracing/test_effects.py."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from memograd.tracing.undisturbed import Contents, Generators, taken_back


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.seen, self.last = 0, [], None

    def forward(self, x):
        self.calls += 1
        self.seen.append(x)
        self.last = x * 2
        return x


def test_objects_are_put_back_and_what_changed_is_told():
    module, x = Counts(), torch.ones(2)
    with taken_back(module) as changes:
        module(x)
        assert module.calls == 1
    assert (module.calls, module.seen, module.last) == (0, [], None)
    told = {name: value for _, _, value, name in changes}
    assert told[".calls"] == 1 and torch.equal(told[".last"], x * 2)


def test_objects_are_put_back_after_an_error():
    module = Counts()
    with pytest.raises(ZeroDivisionError), taken_back(module):
        module(torch.ones(2))
        raise ZeroDivisionError
    assert module.calls == 0


def test_generators_draw_again_what_they_drew():
    generators = Generators()

    def draw():
        return [torch.rand(1).item(), random.random(), np.random.rand()]

    first = draw()
    assert draw() != first
    generators.put_back()
    assert draw() == first


def written(t):
    t.add_(1)


def hidden(t):
    t.data.add_(1)


def given_other_memory(t):
    t.data = torch.full_like(t, 7.0)


def given_another_dtype(t):
    t.data = t.detach().double()


@pytest.mark.parametrize("change", [written, hidden, given_other_memory, given_another_dtype])
def test_contents_are_put_back_where_they_were(change):
    tensor = nn.Parameter(torch.arange(6.0).view(2, 3).t())
    view, before, address = tensor.detach(), tensor.detach().clone(), tensor.data_ptr()
    contents = Contents([tensor])
    with torch.no_grad():
        change(tensor)
    assert contents.changed({"it": tensor}) == {"it"}
    contents.put_back()
    assert torch.equal(tensor, before) and torch.equal(view, before)
    assert tensor.data_ptr() == address and tensor.stride() == before.stride() and tensor.dtype == torch.float32


def test_what_did_not_change_is_not_written_to():
    tensor = torch.tensor([1.0, float("nan")])
    contents = Contents([tensor])
    version = tensor._version
    assert contents.changed({"it": tensor}) == set()
    contents.put_back()
    assert tensor._version == version
