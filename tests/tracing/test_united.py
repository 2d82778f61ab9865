"""A tensor that a model is given in two places is one tensor to its program, as in plain PyTorch."""

import copy

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64


class Asks(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.linear, self.run = nn.Linear(3, 3, dtype=F64), run

    def forward(self, *tensors):
        return self.run(self, *tensors)


def whether_it_is_the_same(m, q, k, *_):
    return (m.linear(q) * (2.0 if q is k else 3.0) + k).square().sum()


def by_id(m, *tensors):
    return sum(m.linear(t).square().sum() for t in {id(t): t for t in tensors}.values())


def in_a_set(m, *tensors):
    return sum(m.linear(t).square().sum() for t in set(tensors))


def in_a_list(m, *tensors):
    return by_id(m, *[t for t in ([*tensors], tensors) for t in t])


def by_its_mark(m, q, k, *_):
    return (m.linear(q) * (2.0 if k.requires_grad else 3.0)).square().sum()


RUNS = [whether_it_is_the_same, by_id, in_a_set, in_a_list, by_its_mark]


def _batches():
    x, y = torch.arange(6.0, dtype=F64).reshape(2, 3), torch.ones(2, 3, dtype=F64)
    marked = torch.ones(2, 3, dtype=F64, requires_grad=True)
    three = [(x, y, x + 1), (x, y, x), (x, x, x), (x, y, x + 1)]
    return [(x, x), (x, y), (y, y), (y, x), (x, x.clone()), (marked, marked), (x, marked), (x, y), *three]


def _trained(run, check=None):
    """The losses, and the gradients of the batches."""
    torch.manual_seed(0)
    model = Asks(run)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    if check:
        mg.wrap(model, check=check)
    values, gradients = [], []
    for batch in _batches():
        optimizer.zero_grad()
        loss = model(*batch)
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
        gradients += [float(t.grad.sum()) for t in batch if t.grad is not None]
    return values, gradients


@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("run", RUNS, ids=lambda f: f.__name__)
def test_a_wrapped_model_asks_about_it(run, check):
    for values, expected in zip(_trained(run, check), _trained(run), strict=True):
        assert values == pytest.approx(expected)


@pytest.mark.parametrize("run", RUNS, ids=lambda f: f.__name__)
def test_a_step_asks_about_it(run):
    torch.manual_seed(0)
    model = Asks(run)
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.001))
    assert [float(step(*batch)) for batch in _batches()] == pytest.approx(_trained(run)[0])


def test_who_is_in_two_places_has_one_gradient():
    x = torch.ones(2, 3, dtype=F64, requires_grad=True)
    model = Asks(whether_it_is_the_same)
    (expected,) = torch.autograd.grad(model(x, x), x)
    (gradient,) = torch.autograd.grad(mg.wrap(model)(x, x), x)
    torch.testing.assert_close(gradient, expected)


class Holds(nn.Module):
    """Holds tensors, and is given them now and then."""

    def __init__(self, run):
        super().__init__()
        self.linear, self.run = nn.Linear(3, 3, dtype=F64), run
        self.held, self.table = torch.ones(2, 3, dtype=F64), {"a": torch.zeros(2, 3, dtype=F64)}
        self.register_buffer("seen", torch.full((2, 3), 0.5, dtype=F64))
        self.weight = nn.Parameter(torch.full((2, 3), 2.0, dtype=F64))

    def forward(self, x, more=()):
        return self.run(self, x, *more)


def _at(m, x):
    held = [m.held, m.table["a"], m.seen, m.weight, HELD]
    return next((k for k, t in enumerate(held) if t is x), len(held))


HELD = torch.full((2, 3), -1.0, dtype=F64)


def where_it_is_held(m, x, *more):
    total = (m.linear(x) * (1.0 + _at(m, x))).square().sum() + (m.weight * x).sum()
    return total + sum(m.linear(y).sum() * _at(m, y) for y in more)


def what_was_last(m, x, *more):
    """An argument that is another one each time, and held each time."""
    factor = 2.0 if x is m.held else 3.0
    m.held = (x + 1).detach()
    return m.linear(x).square().sum() * factor


def _given_what_it_holds(run, way):
    torch.manual_seed(0)
    model = Holds(run)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    if way:
        mg.wrap(model, check=way)
    calls = [lambda: (model.held,), lambda: (model.held.clone(),), lambda: (model.held,), lambda: (model.table["a"],)]
    calls += [lambda: (model.seen,), lambda: (HELD,), lambda: (HELD.clone(),), lambda: (HELD.clone(), [HELD])]
    calls += [lambda: (HELD, (model.held, model.seen)), lambda: (HELD, (model.seen, model.held))]
    calls += [lambda: (model.weight,), lambda: (model.weight.detach(), [model.weight])]
    losses = []
    for call in calls:
        optimizer.zero_grad()
        loss = model(*call())
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses


@pytest.mark.parametrize("check", ["first", "never", "always"])
@pytest.mark.parametrize("run", [where_it_is_held, what_was_last], ids=lambda f: f.__name__)
def test_what_a_wrapped_model_holds_is_the_same_as_an_argument(run, check):
    assert _given_what_it_holds(run, check) == pytest.approx(_given_what_it_holds(run, None))


def test_what_is_held_anew_each_time_is_not_captured_each_time():
    model = mg.wrap(Holds(what_was_last))
    for _ in range(6):
        model(model.held).backward()
    assert len(model.forward.captures) == 1


def test_what_a_step_holds_is_the_same_as_an_argument():
    torch.manual_seed(0)
    model = Holds(where_it_is_held)
    optimizer = torch.optim.SGD(model.linear.parameters(), lr=0.001)
    step = mg.TrainStep(model, None, optimizer)
    ours, plain = [], copy.deepcopy(model)
    theirs = torch.optim.SGD(plain.linear.parameters(), lr=0.001)
    for of in (lambda m: m.held, lambda m: HELD, lambda m: m.held.clone(), lambda m: m.seen, lambda m: m.held):
        ours.append(float(step(of(model))))
        theirs.zero_grad()
        loss = plain(of(plain))
        loss.backward()
        theirs.step()
        assert ours[-1] == pytest.approx(float(loss.detach()))


class HoldsOneWithAHistory(nn.Module):
    """``place`` puts tensors where ``asks`` looks for the argument."""

    def __init__(self, asks):
        super().__init__()
        self.linear, self.asks = nn.Linear(3, 3, dtype=F64), asks
        self.last, self.several, self.table, self.members = None, [], {}, set()

    def place(self, *tensors):
        self.last, self.several = tensors[-1], [*tensors]
        self.table, self.members = {t: 2.0 + k for k, t in enumerate(tensors)}, {*tensors}

    def forward(self, x):
        return self.linear(x) * self.asks(self, x)


ASKS = {
    "an attribute": lambda m, x: 3.0 if x is m.last else m.last,
    "a list": lambda m, x: 3.0 if any(x is t for t in m.several) else 1.0,
    "a key": lambda m, x: m.table.get(x, 1.0),
    "a member": lambda m, x: 3.0 if x in m.members else 1.0,
    "its values too": lambda m, x: m.last * (3.0 if x is m.last else 1.0),
}


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("check", ["first", "never"])
@pytest.mark.parametrize("asks", ASKS.values(), ids=ASKS)
def test_an_argument_that_is_held_is_found_there(asks, check, history):
    found = []
    for wrapped in (lambda m: mg.wrap(m, check=check), lambda m: m):
        torch.manual_seed(0)
        model, w = wrapped(HoldsOneWithAHistory(asks)), torch.ones(2, 3, dtype=F64, requires_grad=True)
        for k in range(6):
            x, other = (2 * w, w.exp()) if history else (torch.ones(2, 3, dtype=F64), torch.ones(2, 3, dtype=F64))
            model.place(other, x if k % 2 else other + 1)
            loss = (model(x) * x).sum()
            loss.backward()
            found.append([loss.detach(), None if w.grad is None else w.grad.clone(), model.linear.weight.grad.clone()])
    torch.testing.assert_close(found[:6], found[6:], rtol=1e-9, atol=1e-11)


class FindsById(nn.Module):
    """What it does with an argument is filed outside, by its id."""

    def __init__(self, find):
        super().__init__()
        self.linear, self.find, self.scales, self.known, self.one = nn.Linear(3, 3, dtype=F64), find, {}, set(), 0

    def file(self, tensor, scale):
        self.scales, self.known, self.one = {id(tensor): scale, (id(tensor), "a"): scale}, {id(tensor)}, id(tensor)
        self.scales[str(id(tensor))] = scale

    def forward(self, x):
        return (self.linear(x) * self.find(self, x)).square().sum()


FINDS = {
    "a key": lambda m, x: m.scales.get(id(x), 1.0),
    "a part of a key": lambda m, x: m.scales.get((id(x), "a"), 1.0),
    "a key that is written": lambda m, x: m.scales.get(f"{id(x)}", 1.0),
    "a member": lambda m, x: 2.0 if id(x) in m.known else 1.0,
    "a number": lambda m, x: 2.0 if id(x) == m.one else 1.0,
    "its hash": lambda m, x: 2.0 if hash(x) == m.one else 1.0,
    "by value too": lambda m, x: m.scales.get(id(x), 1.0) * (2.0 if x.sum() > 0 else 3.0),
}


@pytest.mark.parametrize("way", ["wrap", "step", "grad"])
@pytest.mark.parametrize("find", FINDS.values(), ids=FINDS)
def test_an_argument_is_found_by_its_id(find, way):
    torch.manual_seed(0)
    tensors = [torch.randn(2, 3, dtype=F64) for _ in range(3)]
    ours, theirs = FindsById(find), FindsById(find)
    theirs.load_state_dict(ours.state_dict())
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.0)
    calls = {"wrap": mg.wrap(ours), "step": mg.TrainStep(ours, None, optimizer), "grad": mg.grad(lambda x: ours(x))}
    for k in range(8):
        for model in (ours, theirs):
            model.file(tensors[k // 3], 2.0 + k // 3)
        x = tensors[k % 3].requires_grad_(way == "grad")
        found, expected = calls[way](x), theirs(x)
        if way == "grad":
            (expected,) = torch.autograd.grad(expected, x)
        torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-9, atol=1e-11)
    if way == "wrap":
        assert len(ours.forward.captures) <= 12
    assert not {"id", "hash"} & globals().keys()


def test_ids_among_arguments_alone_are_no_reason_for_another_capture():
    model = mg.wrap(Asks(by_id))
    for k in range(4):
        model(torch.full((2, 3), float(k), dtype=F64), torch.ones(2, 3, dtype=F64)).backward()
    assert len(model.forward.captures) == 1
