"""The backward pass in segments. Witness: the same model in plain PyTorch."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

import memograd as mg
from memograd.frontend.segments import groups, paused

F64 = torch.float64


@pytest.fixture
def many(monkeypatch):
    """Every gradient ends a segment, as far as there are segments."""
    monkeypatch.setattr("memograd.frontend.segments.LEAST_BYTES", 0)


def net():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6)]
    return nn.Sequential(*layers).double()


def hooked(model, hook=lambda p: None):
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    return model


def x(seed=0, **options):
    return torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(seed), **options)


def events_of(model, events=("gradient",)):
    """The names of operators and hooks in the order in which a second backward pass comes to them."""

    def mark(p):
        with record_function("gradient"):
            pass

    hooked(model, mark)
    model(x()).square().sum().backward()
    loss = model(x()).square().sum()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        loss.backward()
    ordered = sorted(trace.events(), key=lambda e: e.time_range.start)
    return [e.name for e in ordered if e.name in events or e.name == "aten::mm"]


class TestOrder:
    @pytest.mark.parametrize("budget", [None, "1MiB"])
    def test_gradients_arrive_while_the_backward_pass_runs(self, many, budget):
        names = events_of(mg.wrap(net(), memory_budget=budget))
        assert names.index("gradient") < names.index("aten::mm", names.index("gradient"))
        assert names.count("aten::mm") == 5 and names.count("gradient") == 8
        assert "aten::mm" in names[-4:], "the first layer's gradients come last, and only they"

    def test_without_hooks_there_is_one_node(self, many):
        model = mg.wrap(net())
        model(x()).sum().backward()
        output = model(x())  # before 2.12 its node is gone with it
        leads_to = [node.name() for node, _ in output.grad_fn.next_functions if node is not None]
        assert len(leads_to) == 8 and all(name.endswith("AccumulateGrad") for name in leads_to)

    def test_gradients_of_inputs_come_last(self, many):
        seen = []
        model = hooked(mg.wrap(net()), lambda p: seen.append("parameter"))
        inputs = x(requires_grad=True)
        inputs.register_hook(lambda g: seen.append("input"))
        model(inputs).sum().backward()
        assert seen[-1] == "input" or seen.index("input") >= 7


class TestSameGradients:
    @pytest.mark.parametrize("budget", [None, "1MiB"])
    def test_as_pytorch(self, many, budget):
        theirs = net()
        ours = hooked(mg.wrap(copy.deepcopy(theirs), memory_budget=budget))
        for model in (ours, theirs):
            for seed in range(3):
                model(x(seed)).square().mean().backward()
            inputs = x(requires_grad=True)
            loss = model(inputs).square().sum()
            loss.backward(retain_graph=True)
            loss.backward()
            model.of_input = inputs.grad
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
        torch.testing.assert_close(ours.of_input, theirs.of_input)

    def test_some_gradients_only(self, many):
        theirs = net()
        ours = hooked(mg.wrap(copy.deepcopy(theirs)))
        for k in (0, 3, 7):
            mine, reference = ([*m.parameters()][k] for m in (ours, theirs))
            (a,), (b,) = (torch.autograd.grad(m(x()).sum(), p) for m, p in ((ours, mine), (theirs, reference)))
            torch.testing.assert_close(a, b)

    def test_second_derivatives(self, many):
        theirs = net()
        ours = hooked(mg.wrap(copy.deepcopy(theirs)))
        for model in (ours, theirs):
            inputs = x(requires_grad=True)
            (force,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
            force.square().sum().backward()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            if p.grad is not None:
                torch.testing.assert_close(p.grad, q.grad)


class Sentinel:
    """There as long as the node that has it."""


def test_what_is_left_of_a_pass_goes_with_it(many):
    """Gradients with a history that nobody comes for must not hold the graph that they are a part of."""
    model = hooked(mg.wrap(net()))
    model(x()).sum().backward()
    gc.collect()
    gc.disable()
    try:
        loss = model(x()).square().sum()
        loss.grad_fn.metadata["there"] = there = Sentinel()
        there = weakref.ref(there)
        torch.autograd.grad(loss, [model[5].weight], create_graph=True)
        del loss
        assert there() is None
    finally:
        gc.enable()


def test_a_gradient_that_is_taken_is_held_by_nobody_else(many):
    """Autograd would copy it otherwise."""
    addresses = {}
    model = hooked(mg.wrap(net(), check="never"), lambda p: addresses.update({p: p.grad.data_ptr()}))
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        model(x()).square().sum().backward()
    nodes = [e for e in trace.events() if "AccumulateGrad" in e.name]
    assert nodes and not [e for e in trace.events() if e.name == "aten::clone"]


def test_groups_are_of_some_size(monkeypatch):
    monkeypatch.setattr("memograd.frontend.segments.LEAST_BYTES", 10)
    assert groups([2, 0, 1], [4, 4, 10]) == [[2], [0, 1]]
    assert groups([], []) == [[]]


def test_a_step_pauses_behind_the_cotangents(monkeypatch):
    monkeypatch.setattr("memograd.frontend.segments.LEAST_BYTES", 0)
    monkeypatch.setattr("memograd.frontend.segments.MOST", 1 << 30)
    lines = ["early = a + 1", "c = yield [a]", "first = c * 2", "last = first * a", "return (last, early, first)"]
    source, together = paused("\n    ".join(["def step(a):", *lines]), [8, 8, 8])
    assert together == [[1], [2], [0]]
    order = ["yield [a]", "{1: early}", "first = c * 2", "{2: first}", "last = first * a", "{0: last}"]
    assert sorted(order, key=source.index) == order
    assert "del early" in source and "del last" in source
    assert "del first" not in source, "what is read further down stays"
