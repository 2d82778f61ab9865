"""Planted faults are caught before anything is written, healthy steps pass without a trace."""

from __future__ import annotations

import copy
import random
import warnings
from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from torch import nn, optim

import memograd as mg
from memograd.train import build
from memograd.train.check import Check

aten = torch.ops.aten
SEEDED = torch.Generator().manual_seed(0)
X, Y = torch.rand(16, 8, generator=SEEDED), torch.rand(16, 1, generator=SEEDED)
IMAGES = torch.rand(4, 3, 8, 8, generator=SEEDED), torch.randint(0, 5, (4,), generator=SEEDED)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 1), nn.Sigmoid())


def cnn():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 5))


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd at rate 0": lambda p: optim.SGD(p, lr=0.0),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, weight_decay=0.1, maximize=True),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
}


def caught(model, criterion, batch, kind="adamw", **options):
    """The error of the first step; everything must be as it was."""
    optimizer = OPTIMIZERS[kind](model.parameters())
    step = mg.TrainStep(model, criterion, optimizer, **options)
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(mg.GradientMismatchError) as error:
        step(*batch)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    assert not optimizer.state and all(p.grad is None for p in model.parameters())
    return error.value


# -- planted faults ----------------------------------------------------------------------------------------------


@pytest.mark.one_in(3)
@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_scaled_rule_is_caught(kind, backend, monkeypatch):
    planted.rule(monkeypatch, aten.tanh.default, planted.scaled)
    error = caught(mlp(), nn.MSELoss(), (X, Y), kind, backend=backend)
    assert error.name in ("model.0.weight", "model.0.bias")
    assert "0.05 times its largest element" in str(error), "the size of the difference"
    assert "part first at aten.tanh.default" in str(error)
    assert "in module 'model.1' at tests/train/test_check.py" in str(error)


@pytest.mark.parametrize(
    "operator",
    [aten.convolution, aten._native_batch_norm_legit_functional, aten.max_pool2d_with_indices, aten._log_softmax],
)
@pytest.mark.parametrize("low", [False, True])
def test_every_scaled_rule_of_a_network_is_caught(operator, low, monkeypatch):
    planted.rule(monkeypatch, operator.default, planted.scaled)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        error = caught(cnn(), nn.CrossEntropyLoss(), IMAGES)
    assert f"part first at {operator.default}" in str(error)


def test_a_missing_term_is_caught(monkeypatch):
    planted.rule(monkeypatch, aten.addmm.default, planted.without(0))
    error = caught(mlp(), nn.MSELoss(), (X, Y))
    assert error.name in ("model.0.bias", "model.2.bias") and "aten.addmm" in str(error)


def capture_then(monkeypatch, change):
    capture = build.capture_for
    monkeypatch.setattr(build, "capture_for", lambda *args, **kwargs: change(capture(*args, **kwargs)))


def test_a_stop_too_many_is_caught(monkeypatch):
    capture_then(monkeypatch, lambda graph: planted.stop_behind(graph, aten.tanh.default))
    error = caught(mlp(), nn.MSELoss(), (X, Y))
    assert error.name.startswith("model.0") and "ours is 0" in str(error)
    assert "stops the gradient at memograd.stop.default" in str(error) and "'model.1'" in str(error)


def test_a_wrong_value_is_caught(monkeypatch):
    capture_then(monkeypatch, lambda graph: planted.wrong_operator(graph, aten.tanh.default, aten.sin.default))
    error = caught(mlp(), nn.MSELoss(), (X, Y))
    assert error.name == "" and str(error).startswith("the loss differs")
    assert "part first at aten.addmm.default" in str(error) and "'model.2'" in str(error), "the first that is in both"


def test_a_buffer_that_is_not_updated_is_caught(monkeypatch):
    capture_then(monkeypatch, lambda graph: planted.never_written(graph, "model.1.running_mean"))
    error = caught(cnn(), nn.CrossEntropyLoss(), IMAGES)
    assert error.name == "model.1.running_mean"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("where", ["tanh", "addmm"])
def test_a_wrong_kernel_of_a_backend_is_caught(kind, where, monkeypatch):
    """The graph is right, what was compiled from it is not: in the forward pass, or in the backward pass alone."""
    from memograd.run.native import backend

    def compiled(graph):
        targets = [n.target for n in graph.nodes]
        right, wrong = (aten.tanh.default, aten.sin.default) if where == "tanh" else (aten.mm.default, None)
        assert right in targets
        return compile_(planted.wrong_operator(graph, right, wrong) if wrong else planted.doubled(graph, right))

    compile_ = backend.native.compile
    monkeypatch.setattr(backend.native, "compile", compiled)
    error = caught(mlp(), nn.MSELoss(), (X, Y), kind, backend="native")
    assert "native backend" in str(error)


def test_a_wrong_update_is_caught(monkeypatch):
    from memograd.train import formulas, update

    def coupled(p, g, lr, state, group):  # no decay of its own
        return formulas.adam(p, g, lr, state, {**group, "decoupled_weight_decay": False})

    monkeypatch.setitem(update.RULES, optim.AdamW, replace(update.RULES[optim.AdamW], formula=coupled))
    error = caught(mlp(), nn.MSELoss(), (X, Y), "adamw")
    assert "the optimizer's update" in str(error)


def test_a_wrong_rule_is_caught_within_a_memory_budget(monkeypatch):
    planted.rule(monkeypatch, aten.tanh.default, planted.scaled)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)])
    error = caught(model, nn.MSELoss(), (torch.rand(256, 8), torch.rand(256, 8)), "sgd", memory_budget="100%")
    assert "aten.tanh" in str(error)


def test_after_a_fault_the_next_step_is_compared_again(monkeypatch):
    model = mlp()
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    with monkeypatch.context() as patch:
        planted.rule(patch, aten.tanh.default, planted.scaled)
        for _ in range(2):
            with pytest.raises(mg.GradientMismatchError):
                step(X, Y)
    step(X, Y)
    assert step.check_reason == "agrees with torch.autograd: the loss and 4 gradients"


def test_run_and_train_model_are_compared_too(monkeypatch):
    planted.rule(monkeypatch, aten.tanh.default, planted.scaled)
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(mg.GradientMismatchError):
        mg.TrainStep(model, nn.MSELoss(), optimizer).run(X, Y, steps=3)
    with pytest.raises(mg.GradientMismatchError):
        mg.train_model(model, nn.MSELoss(), optimizer, [(X, Y)], epochs=1)
    mg.train_model(model, nn.MSELoss(), optimizer, [(X, Y)], epochs=1, check="never")


# -- healthy steps -------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 6, 2, batch_first=True, dropout=0.2), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(torch.complex64) @ self.weight).abs()


class Tied(nn.Module):
    """Tied weights, a frozen layer, a parameter that is not used, and the loss as its result."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
        self.frozen, self.unused = nn.Linear(6, 6).requires_grad_(False), nn.Linear(2, 2)
        self.head.weight = self.embedding.weight

    def forward(self, tokens, labels=None, scale=1.0):
        logits = self.head(torch.tanh(self.frozen(self.embedding(tokens)))) * scale
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}["loss"]


def transformer():
    layers = [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True) for _ in range(2)]
    return nn.Sequential(*layers, nn.Linear(8, 1))


TOKENS = torch.randint(0, 11, (4, 7), generator=SEEDED)
HEALTHY = {
    "mlp": (mlp, nn.MSELoss(), (X, Y)),
    "cnn": (cnn, nn.CrossEntropyLoss(), IMAGES),
    "lstm": (Recurrent, nn.CrossEntropyLoss(), (torch.rand(4, 7, 5), torch.randint(0, 2, (4,)))),
    "transformer": (transformer, nn.MSELoss(), (torch.rand(4, 7, 8), torch.rand(4, 7, 1))),
    "complex": (Complex, nn.MSELoss(), (X, torch.rand(16, 3))),
    "tied": (Tied, None, (TOKENS, TOKENS)),
    "relu and its ties": (
        lambda: nn.Sequential(nn.ReLU(), nn.MaxPool1d(2), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1)),
        nn.L1Loss(),
        (X.round() - X.round(), Y.round()),
    ),
    "a gradient that is zero": (  # layer norm takes out what the bias adds
        lambda: nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 1)),
        nn.MSELoss(),
        (X, Y),
    ),
    "a loss around zero": (lambda: nn.Linear(8, 1), lambda out, y: out[:8].mean() - out[8:].mean(), (X, Y)),
    "softmax of one": (lambda: nn.Linear(8, 1), nn.CrossEntropyLoss(), (X, torch.zeros(16, dtype=torch.long))),
    "nothing but one number": (lambda: nn.Linear(8, 1), lambda out, y: (out / out.norm()).norm(), (X, Y)),
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("mode", ["plain", "double", "bfloat16", "float16", "native", "budget"])
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_steps_pass(name, mode):
    make, criterion, batch = HEALTHY[name]
    torch.manual_seed(0)
    model, backend = make(), "eager"
    if name == "lstm" and "float16" in mode:
        try:
            with torch.autocast("cpu", dtype=getattr(torch, mode)):
                model(*batch[:-1])
        except RuntimeError as error:
            pytest.skip(f"PyTorch has no such kernel for this processor: {error}")
    if mode == "double" and name != "complex":
        model.double()
        batch = tuple(b.double() if b.is_floating_point() else b for b in batch)
    if mode == "native":
        backend = "auto"
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    step = mg.TrainStep(model, criterion, optimizer, "300%" if mode == "budget" else None, backend, check="always")
    for _ in range(2):
        with torch.autocast("cpu", dtype=getattr(torch, mode, None), enabled="float16" in mode):
            step(*batch)
        assert step.check_reason.startswith("agrees"), step.check_reason


@pytest.mark.parametrize("seed", [8, 42, 46, 55])
def test_gradients_that_are_nothing_but_rounding_are_none_of_a_compiled_kernel_s_faults(seed):
    """Its sums run in another order, so that its rounding is another one, and Adam makes a whole step of it."""
    torch.manual_seed(seed)
    x, y = torch.rand(16, 8), torch.rand(16, 1)
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    step = mg.TrainStep(model, lambda out, y: (out / out.norm()).norm(), optimizer, backend="native", check="always")
    for _ in range(2):
        step(x, y)
    assert step.check_reason.startswith("agrees")


# -- no trace -----------------------------------------------------------------------------------------------------


class Leaves(nn.Module):
    """Whatever a forward can leave behind."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.calls, self.losses, self.table, self.config = 0, [], {}, Config()

    def forward(self, x):
        self.calls += 1
        self.table[self.calls] = "called"
        self.config.seen += 1
        self.losses.append(self.calls)
        x.mul_(1.0)
        random.random()
        return self.norm(torch.dropout(self.inner(x), 0.5, self.training))


class Config:
    seen = 0


@pytest.mark.parametrize("check", ["first", "always"])
def test_a_comparison_leaves_no_trace(check):
    """After a step with a comparison everything is what it is after a step without."""

    def stepped(check):
        torch.manual_seed(0)
        random.seed(0)
        model, calls, hooked = Leaves(), [], []

        def criterion(out, y):
            calls.append(1)
            return nn.functional.mse_loss(out, y)

        model.inner.register_forward_hook(lambda *_: hooked.append(1))
        model.inner.bias.grad = torch.ones(8)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = mg.TrainStep(model, criterion, optimizer, backend="eager", check=check)
        batch = X.clone(), X.flip(0)
        losses = [step(*batch) for _ in range(2)]
        attributes = (model.calls, model.losses, model.table, model.config.seen, len(calls), len(hooked))
        tensors = [*losses, *batch, *model.state_dict().values(), model.inner.bias.grad, torch.get_rng_state()]
        state = [s["momentum_buffer"] for s in optimizer.state.values()]
        versions = [p._version for p in model.parameters()]
        grads = [p.grad is None for p in model.parameters()]
        return attributes, [*tensors, *state], versions, grads, random.random()

    plain, watched = stepped("never"), stepped(check)
    assert watched[0] == plain[0] and watched[2:] == plain[2:]
    assert all(torch.equal(a, b) for a, b in zip(watched[1], plain[1], strict=True))


def test_hooks_on_parameters_run_once():
    model, seen = mlp(), []
    model[0].weight.register_hook(lambda g: seen.append(1))
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    step(X, Y)
    assert len(seen) == 1 and step.check_reason.startswith("agrees")


# -- when, and what is said otherwise -----------------------------------------------------------------------------


def test_a_program_is_compared_once_for_each_signature(monkeypatch):
    model, compared = mlp(), []
    whole = Check._whole
    monkeypatch.setattr(Check, "_whole", lambda self, *args: compared.append(1) or whole(self, *args))
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def steps(check):
        step = mg.TrainStep(model, nn.MSELoss(), optimizer, check=check)
        compared.clear()
        for rows in (16, 16, 8, 16, 8):
            step(X[:rows], Y[:rows])
        optimizer.param_groups[0]["weight_decay"] += 0.1
        step(X, Y)
        step.run(X, Y, steps=3)
        return len(compared)

    assert steps("first") == 2
    assert steps("always") == 9
    assert steps("never") == 0


def test_never_says_so():
    model = mlp()
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), check="never")
    step(X, Y)
    assert step.check_reason == "not compared: check='never'"
    with pytest.raises(mg.GraphError, match="'first', 'never', 'always'"):
        mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), check="sometimes")


class Overwrites(nn.Module):
    """Autograd refuses: what exp saved is written over. A graph is functional and has no such trouble."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 1)

    def forward(self, x):
        y = self.inner(x).exp()
        z = y * 1.0
        y.add_(1)
        return z + y


def test_where_autograd_cannot_it_is_said_once():
    model = Overwrites()
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), check="always")
    with pytest.warns(UserWarning, match="not compared with torch.autograd: PyTorch cannot run it: RuntimeError"):
        step(X, Y)
    assert step.check_reason.startswith("not compared: PyTorch cannot run it")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(X, Y)


def test_a_budget_has_a_slice_compared_or_says_that_there_is_no_room():
    def stepped(budget, model, batch):
        step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), memory_budget=budget)
        step(*batch)
        return step.check_reason

    layers = [nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)]
    reason = stepped("100%", nn.Sequential(*layers), (torch.rand(256, 8), torch.rand(256, 8)))
    assert "agrees" in reason and "of 256 samples, for which there is room" in reason
    with pytest.warns(UserWarning, match="leaves no room"):
        reason = stepped("100%", nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), (torch.rand(2, 64),) * 2)
    assert "not compared: the memory budget of" in reason


class Baked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)])

    def forward(self, x):
        return self.layers(x).view(256, 8)


def test_a_batch_size_that_is_baked_in_is_said_to_be():
    model = Baked()
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), memory_budget="100%")
    with pytest.warns(UserWarning, match="a part cannot be captured.*view"):
        step(torch.rand(256, 8), torch.rand(256, 8))


def test_without_memory_for_the_whole_batch_a_part_is_compared(monkeypatch):
    whole = Check._whole

    def hungry(self, program, origin, flat, batch, options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Check, "_whole", hungry)
    model = mlp()
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    step(X, Y)
    assert step.check_reason.startswith("agrees with torch.autograd: the loss and 4 gradients of 4 of 16 samples")
    monkeypatch.setattr(Check, "_whole", whole)


OWN = np.random.default_rng(3)


def test_a_generator_that_stands_elsewhere_draws_the_same_for_both():
    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * float(OWN.random())

    model = Scaled(8, 1)
    step = mg.TrainStep(model, nn.MSELoss(), OPTIMIZERS["sgd"](model.parameters()))
    expected = np.random.default_rng(3)
    for _ in range(2):
        with torch.no_grad():
            loss = nn.functional.mse_loss(nn.functional.linear(X, model.weight, model.bias) * expected.random(), Y)
        torch.testing.assert_close(step(X, Y), loss)
    assert step.check_reason.startswith("agrees") and OWN.random() == expected.random()


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.factors = nn.Linear(3, 1), np.ones(3, dtype=np.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.factors[1] += 1
        return self.linear(x * torch.from_numpy(self.factors))


def test_an_array_that_a_forward_writes_to_is_no_write_to_the_tensor_that_looks_at_it() -> None:
    """It ended in a KeyError."""
    theirs = Counting()
    ours = copy.deepcopy(theirs)
    step = mg.TrainStep(ours, nn.MSELoss(), torch.optim.SGD(ours.parameters(), 0.1))
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    for _ in range(3):
        x, target = torch.randn(4, 3), torch.randn(4, 1)
        loss = nn.functional.mse_loss(theirs(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(x, target), loss.detach())
        assert (ours.factors == theirs.factors).all()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)
