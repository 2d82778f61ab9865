"""Arguments that lie in the same memory, one of which is written to. Witness: marks in a shared buffer."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn, optim

import memograd as mg
from memograd.graph.overlap import overlapping

slices = st.tuples(st.integers(0, 11), st.integers(1, 4), st.integers(1, 3))


@given(st.lists(slices, min_size=2, max_size=4))
@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_whose_elements_are_in_common(places):
    memory = torch.zeros(24)
    views = [memory.as_strided((n,), (step,), at) for at, n, step in places]
    marks = [set(range(at, at + n * step, step)) for at, n, step in places]
    pairs = [(k, j) for j in range(len(marks)) for k in range(j) if marks[k] & marks[j]]
    assert sorted(overlapping(views)) == sorted(pairs)


def writes(a, b):
    a.add_(1)
    return (a * b).sum()


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("seen", torch.zeros(4, 3))

    def forward(self, a, b):
        self.seen.add_(1)  # pyright: ignore
        return writes(a, b) * self.w + self.seen.sum() * self.w  # pyright: ignore


@pytest.mark.parametrize("shared", ["the same", "a view", "overlapping rows"])
def test_programs_that_write_to_shared_memory_are_refused(shared):
    memory = torch.ones(5, 3)
    a, b = {
        "the same": (memory[:4], memory[:4]),
        "a view": (memory[:4], memory[:4].view(4, 3)),
        "overlapping rows": (memory[:4], memory[1:]),
    }[shared]
    apart = (torch.ones(4, 3), torch.ones(4, 3))
    gradient = mg.grad(writes, argnums=1)
    assert torch.equal(gradient(*apart), torch.full((4, 3), 2.0))
    model = Writes()
    step = mg.TrainStep(model, None, optim.SGD(model.parameters(), lr=0.1))
    wrapped = mg.wrap(Writes())
    step(*map(torch.clone, apart))
    wrapped(*map(torch.clone, apart))
    for call in (gradient, step, wrapped):
        with pytest.raises(mg.CaptureError, match="lies in the same memory as"):
            call(a, b)
    with pytest.raises(mg.CaptureError, match="lies in the same memory as"):
        wrapped(torch.ones(4, 3), wrapped.seen)
