"""What a program remembers for later calls, in a ``functools.cache`` or by the id of a tensor, is as in PyTorch, or
refused by name."""

import functools

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64


class Program(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.linear, self.run = nn.Linear(3, 3, dtype=F64), run
        self.register_buffer("table", torch.full((3,), 2.0, dtype=F64))

    def forward(self, x):
        return self.run(self, x)


@functools.cache
def noise(n):
    return torch.rand(n, dtype=F64)


@functools.lru_cache(maxsize=2)
def noise_of_few(n):
    return torch.rand(n, dtype=F64) * 2


@functools.cache
def scale_of(model):
    return model.linear.weight.detach().sum()


@functools.cache
def scale(weight):
    return weight.detach().sum()


@functools.cache
def in_a_list(model):
    return [model.linear.weight.detach().sum()]


@functools.cache
def mask(n):
    return torch.arange(n, dtype=F64)


@functools.cache
def table_of(model):
    return model.table * 2


@functools.cache
def twice(x):
    return x * 2


@functools.cache
def number(n):
    return float(n)


REFUSED = {
    "drawn": (lambda m, x: m.linear(x) * noise(3), "random numbers"),
    "drawn, of few": (lambda m, x: m.linear(x) * noise_of_few(3), "random numbers"),
    "of a parameter": (lambda m, x: m.linear(x) * scale_of(m), "linear.weight"),
    "by a parameter": (lambda m, x: m.linear(x) * scale(m.linear.weight), "linear.weight"),
    "in a list": (lambda m, x: m.linear(x) * in_a_list(m)[0], "linear.weight"),
}
RIGHT = {
    "a mask": lambda m, x: m.linear(x) * mask(3),
    "of a buffer": lambda m, x: m.linear(x) * table_of(m),
    "by the argument": lambda m, x: m.linear(x) * twice(x),
    "a number": lambda m, x: m.linear(x) * number(3),
}
CACHES = [noise, noise_of_few, scale_of, scale, in_a_list, mask, table_of, twice, number]


@pytest.fixture(autouse=True)
def _forget():
    yield
    for cached in CACHES:
        cached.cache_clear()


@pytest.mark.parametrize("run, why", REFUSED.values(), ids=list(REFUSED))
def test_what_depends_on_what_changes_is_refused_by_name(run, why):
    with pytest.raises(mg.CaptureError, match=f"functools.cache.* depends on .*{why}"):
        mg.wrap(Program(run))(torch.ones(2, 3, dtype=F64))


def _losses(run, wrapped):
    torch.manual_seed(0)
    model = Program(run)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if wrapped:
        mg.wrap(model)
    losses = []
    for k in (1.0, 2.0, 3.0):
        optimizer.zero_grad()
        loss = model(torch.full((2, 3), k, dtype=F64)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("run", RIGHT.values(), ids=list(RIGHT))
def test_what_does_not_is_right(run):
    expected = _losses(run, wrapped=False)
    for cached in CACHES:
        cached.cache_clear()
    assert _losses(run, wrapped=True) == pytest.approx(expected)


BY_ID = {}


def in_a_dict(m, x):
    if id(x) not in BY_ID:
        BY_ID[id(x)] = x.detach().mean()
    return m.linear(x) * BY_ID[id(x)]


def in_a_list_of_ids(m, x):
    m.seen = [*getattr(m, "seen", []), id(x)]
    return m.linear(x)


def in_an_attribute(m, x):
    h = m.linear(x)
    m.last = id(h)
    return h


@pytest.mark.parametrize("run", [in_a_dict, in_a_list_of_ids, in_an_attribute], ids=lambda f: f.__name__)
def test_ids_of_tensors_that_are_left_are_refused_by_name(run):
    with pytest.raises(mg.CaptureError, match="leaves the id of a tensor in"):
        mg.wrap(Program(run))(torch.ones(2, 3, dtype=F64))
    assert not BY_ID


def test_ids_of_parameters_are_the_users():
    table = {}

    def run(m, x):
        return m.linear(x) * table.setdefault(id(m.linear.weight), 2.0)

    model = mg.wrap(Program(run))
    for _ in range(2):
        model(torch.ones(2, 3, dtype=F64)).sum().backward()
    assert table == {id(model.linear.weight): 2.0}


def _beside_a_number(cache):
    drawn = []

    @cache
    def table(n):
        drawn.append(0.5 + len(drawn))
        return torch.ones(n, dtype=F64), drawn[-1]

    @cache
    def steady(n):
        return torch.ones(n, dtype=F64), n * 2.0

    return table, steady


@pytest.mark.parametrize("cache", [functools.cache, functools.lru_cache(4)])
def test_a_number_beside_a_tensor_is_the_first_one_or_refused(cache):
    table, steady = _beside_a_number(cache)
    before = steady(3)[1]
    model = mg.wrap(Program(lambda m, x: m.linear(x) * table(x.shape[1])[1] * steady(x.shape[1])[1]), check="never")
    x = torch.ones(2, 3, dtype=F64)
    first = model(x)
    torch.testing.assert_close(first, model.linear(x) * 0.5 * before)
    with pytest.raises(mg.CaptureError, match="another number each time"):
        model(x[:1])


@pytest.mark.parametrize("cache", [functools.cache, functools.lru_cache(4)])
def test_a_number_that_is_the_same_each_time_is_not_refused(cache):
    _, steady = _beside_a_number(cache)
    model = mg.wrap(Program(lambda m, x: m.linear(x) * steady(3)[0] * steady(3)[1]))
    for rows in (1, 2, 3):
        x = torch.ones(rows, 3, dtype=F64)
        torch.testing.assert_close(model(x), model.linear(x) * 6.0)


def test_what_was_remembered_before_stays():
    made = []

    @functools.cache
    def noted(n):
        made.append(n)
        return float(len(made)) if n < 3 else torch.ones(n, dtype=F64)

    noted(1)
    model = mg.wrap(Program(lambda m, x: m.linear(x) * noted(3) * noted(1)))
    for rows in (1, 2):
        x = torch.ones(rows, 3, dtype=F64)
        torch.testing.assert_close(model(x), model.linear(x))
