"""Who runs a program to look at it draws from a generator of its own: what other threads draw meanwhile from the one
that all share, they draw once."""

import threading

import pytest
import torch
from torch import nn

import memograd as mg
from memograd.draws import same_draws, timed

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Interrupted(nn.Module):
    """Another thread draws while this runs. ``looks``: it goes by values."""

    def __init__(self, looks, error=None):
        super().__init__()
        self.linear, self.looks, self.error = nn.Linear(3, 50), looks, error
        self.elsewhere = _Elsewhere()

    def forward(self, x):
        other = threading.Thread(target=self.elsewhere.draw)
        other.start()
        other.join()
        h = nn.functional.dropout(self.linear(x))
        if self.looks and h.sum() > -1e9:
            h = 2 * h
        if self.error is not None:
            raise self.error
        return nn.functional.dropout(h).square().mean()


class _Elsewhere:
    def __init__(self):
        self.drawn = []

    def draw(self):
        self.drawn.append(int(torch.randint(2**62, (1,))))


def _fails(model):
    with pytest.raises(KeyError):
        mg.grad(model)(X)


def _own_loop(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def step(x):
        optimizer.zero_grad()
        torch.manual_seed(0)
        model(x).backward()
        optimizer.step()

    mg.diagnose(model, X, optimizer=optimizer, step=step)


LOOKS = {
    "preflight": lambda model: mg.preflight(model, X),
    "diagnose": lambda model: mg.diagnose(model, X),
    "diagnose a run": lambda model: mg.diagnose(model, X, steps=2),
    "diagnose a loop that seeds": _own_loop,
    "explain": lambda model: mg.explain(model, X),
}


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_what_other_threads_draw_meanwhile_stays_drawn(look, looks):
    torch.manual_seed(1)
    model = Interrupted(looks)
    torch.manual_seed(2)
    look(model)
    after, drawn = torch.get_rng_state(), model.elsewhere.drawn
    torch.manual_seed(2)
    assert drawn and drawn == [int(torch.randint(2**62, (1,))) for _ in drawn]
    assert torch.equal(torch.get_rng_state(), after), "and nobody else has drawn"


def test_a_program_that_raises_takes_back_its_own_draws_alone():
    model = Interrupted(True, KeyError("the program's own"))
    torch.manual_seed(2)
    _fails(model)
    after, drawn = torch.get_rng_state(), model.elsewhere.drawn
    torch.manual_seed(2)
    assert drawn and drawn == [int(torch.randint(2**62, (1,))) for _ in drawn]
    assert torch.equal(torch.get_rng_state(), after)


def test_the_gradient_of_a_function_that_looks_has_pytorchs_draws():
    torch.manual_seed(1)
    model = Interrupted(True)
    torch.manual_seed(2)
    gradient = mg.grad(lambda x: model(x))(X)
    after, drawn = torch.get_rng_state(), model.elsewhere.drawn.copy()
    x = X.clone().requires_grad_()
    torch.manual_seed(2)
    assert drawn and drawn == [int(torch.randint(2**62, (1,))) for _ in drawn]
    model.elsewhere.draw = lambda: None
    model(x).backward()
    torch.testing.assert_close(gradient, x.grad)
    assert torch.equal(torch.get_rng_state(), after)


def test_seeds_of_several_threads_are_their_own():
    """What stands in front of the generator may be taken away in any order."""
    before = torch.random.default_generator
    first, second = same_draws(), same_draws()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with second:
            torch.manual_seed(5)
            inside.set()
            leave.wait(10)

    torch.manual_seed(3)
    state = torch.get_rng_state()
    thread = threading.Thread(target=other)
    with first:
        thread.start()
        assert inside.wait(10)
        torch.manual_seed(7)
        number = torch.rand(1)
    leave.set()
    thread.join()
    assert torch.random.default_generator is before and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(number, torch.rand(1, generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_steps_that_are_compared_go_on_from_where_others_have_come_to(backend):
    torch.manual_seed(1)
    model = Interrupted(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = mg.TrainStep(model, lambda loss, _: loss, optimizer, backend=backend)
    torch.manual_seed(2)
    losses = step.run(X, X, steps=2)
    after, drawn = torch.get_rng_state(), model.elsewhere.drawn.copy()
    torch.manual_seed(2)
    assert drawn and drawn == [int(torch.randint(2**62, (1,))) for _ in drawn]
    model.elsewhere.draw = lambda: None
    torch.testing.assert_close(losses, torch.stack([model(X).detach() for _ in range(2)]))
    assert torch.equal(torch.get_rng_state(), after)


def test_what_is_measured_beside_other_threads_leaves_their_draws():
    begin, end = threading.Event(), threading.Event()
    drawn = []

    def other():
        assert begin.wait(10)
        drawn.append(torch.rand(3))
        end.set()

    thread = threading.Thread(target=other)
    thread.start()
    torch.manual_seed(2)
    with timed(draws=True, by_mode=True):
        own = torch.rand(5)
        begin.set()
        assert end.wait(10)
        own = torch.cat([own, torch.rand(2)])
    thread.join()
    after = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(drawn[0], torch.rand(3)) and torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(2)
    torch.testing.assert_close(own, torch.cat([torch.rand(5), torch.rand(2)]))


def test_what_is_measured_alone_leaves_the_generators():
    torch.manual_seed(2)
    before = torch.get_rng_state()
    with timed(draws=True, by_mode=True):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
