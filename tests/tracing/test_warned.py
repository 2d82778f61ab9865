"""What a program warns of, each call warns of: as in plain PyTorch, from the same line, by the filters of then."""

# ruff: noqa: B028 -- the line that is named is what is compared

import copy
import threading
import warnings
from contextlib import contextmanager
from warnings import warn

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

import memograd as mg

X = torch.linspace(-1, 1, 6).reshape(2, 3)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.says(self.layer(x)).tanh()

    def says(self, h):
        warnings.warn("from here")
        return h


class Imported(Model):
    def says(self, h):
        warn("imported by name", FutureWarning)
        return h


class Higher(Model):
    def says(self, h):
        def inside():
            warnings.warn(DeprecationWarning("of the caller"), stacklevel=2)

        inside()
        return h


class OfPyTorch(Model):
    def says(self, h):
        return F.softmax(h) + F.mse_loss(h, h[:1])  # a dimension that is guessed, shapes that do not fit


class Explicit(Model):
    def says(self, h):
        warnings.warn_explicit("explicit", UserWarning, "a_file.py", 7)
        return h


class Twice(Model):
    def says(self, h):
        for k in range(2):
            warnings.warn(f"number {k}", stacklevel=1)
        return h


class Quiet(Model):
    def says(self, h):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.warn("nobody hears")
        return h


class Always(Model):
    def says(self, h):
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.warn("as the others want", FutureWarning)
            warnings.warn("each time", UserWarning)
        return h


class Reset(Model):
    def says(self, h):
        with warnings.catch_warnings():
            warnings.resetwarnings()
            warnings.warn("by no filter of others")
        return h


class Listening(Model):
    def says(self, h):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            warnings.warn("to itself")
        return h * len(said)


class Catching(Model):
    def says(self, h):
        try:
            warnings.warn("an error, for some")
        except UserWarning:
            return 3 * h
        return h


KINDS = [Model, Imported, Higher, OfPyTorch, Explicit, Twice, Quiet, Always, Reset, Listening, Catching]


@contextmanager
def filtered(action):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter(action)
        yield said


def told(said):
    return [(str(w.message), w.category, w.filename, w.lineno) for w in said]


def of_calls(call, actions, calls=3):
    """What each group of calls under one filter returned, raised and warned of."""
    globals().pop("__warningregistry__", None)
    seen = []
    for action in actions:
        with filtered(action) as said:
            for _ in range(calls):
                try:
                    seen.append(call().detach())
                except Warning as error:
                    seen.append(repr(error))
        seen.append(told(said))
    return seen


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b)
        else:
            assert a == b


@pytest.mark.parametrize("kind", KINDS)
def test_calls_of_a_wrapped_model_warn_as_those_of_the_model(kind):
    theirs, ours = kind(), mg.wrap(kind())

    def called(model):
        return lambda: model(X)

    actions = ["always", "error", "default", "once", "ignore"]
    same(of_calls(called(ours), actions), of_calls(called(theirs), actions))


@pytest.mark.parametrize("kind", [Model, OfPyTorch, Catching])
def test_one_that_is_first_called_where_it_is_an_error_goes_on_when_it_is_none(kind):
    theirs, ours = kind(), mg.wrap(kind())
    actions = ["error", "always"]
    same(of_calls(lambda: ours(X), actions), of_calls(lambda: theirs(X), actions))


@pytest.mark.parametrize("kind", [Model, Imported, OfPyTorch, Always, Catching])
def test_steps_warn_as_the_loop_does(kind):
    def loss(model):
        return (model(X) - X).square().sum()

    model = kind()
    twin = copy.deepcopy(model)
    step = mg.TrainStep(model, lambda out, target: (out - target).square().sum(), optim.SGD(model.parameters(), 0.1))
    optimizer = optim.SGD(twin.parameters(), 0.1)

    def plainly():
        optimizer.zero_grad()
        value = loss(twin)
        value.backward()
        optimizer.step()
        return value.detach()

    actions = ["always", "error", "default"]
    ours, theirs = of_calls(lambda: step(X, X), actions), of_calls(plainly, actions)
    same(ours, theirs)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_transforms_and_graphs_warn_at_each_call():
    def f(x):
        warnings.warn("inside")
        return (x**2).sum()

    gradient, graph = mg.grad(f), mg.capture(f, X)
    for call in (lambda: gradient(X), lambda: graph(X)):
        with filtered("always") as said:
            for _ in range(3):
                call()
        assert [str(w.message) for w in said] == ["inside"] * 3


def test_a_transform_inside_of_a_wrapped_model_warns_at_each_call_of_that():
    def f(x):
        warnings.warn("innermost")
        return (x**3).sum()

    class Outer(Model):
        def says(self, h):
            return h + mg.grad(f)(X)

    model = mg.wrap(Outer())
    with filtered("always") as said:
        for _ in range(3):
            model(X)
    assert [str(w.message) for w in said] == ["innermost"] * 3


def test_calls_that_warn_take_no_other_program():
    model = mg.wrap(Model())
    for action in ("always", "ignore", "always"):
        with filtered(action):
            for _ in range(3):
                model(X)
    assert len(model.forward.captures) == 1


def test_another_thread_warns_from_its_own_line_while_a_program_is_captured():
    said = []

    class Starting(Model):
        def says(self, h):
            def other():
                with filtered("always") as caught:
                    warnings.warn("elsewhere", stacklevel=1)
                said.extend(told(caught))

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return h

    mg.wrap(Starting(), check="never")(X)
    assert said and {s[:3] for s in said} == {("elsewhere", UserWarning, __file__)}


def test_the_functions_of_python_are_back_afterwards():
    before = warnings.warn, warnings.warn_explicit, warn
    with filtered("always"):
        mg.wrap(Imported())(X)
    assert (warnings.warn, warnings.warn_explicit, warn) == before
