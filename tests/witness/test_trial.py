"""A doubt is settled: rounding is told from wrong rules, and the operator to blame is found."""

import copy

import planted
import pytest
import torch
from torch import nn

import memograd as mg
from memograd.tracing.undisturbed import Generators
from memograd.witness.autograd import by_autograd
from memograd.witness.trial import Trial
from memograd.witness.widened import Widened

aten = torch.ops.aten


def trial_of(model, *batch, change=lambda graph: graph):
    forward = change(mg.capture(model, *batch))
    joint = mg.differentiate(forward)
    return Trial(model, batch, {}, forward, joint, [t.detach() for t in joint.bind(batch, {})])


class Loss(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x).square().mean()


X = torch.rand(16, 8, generator=torch.Generator().manual_seed(0))


def test_noise_around_a_gradient_of_zero_is_rounding():
    """What the bias adds LayerNorm takes out, so float32 leaves noise, ours and PyTorch's."""
    trial = trial_of(Loss(nn.Linear(8, 64), nn.LayerNorm(64), nn.Linear(64, 1)), X * 1e3)
    ours, theirs = trial.ours(), trial.theirs()
    noise = torch.randn(64, generator=torch.Generator().manual_seed(0)) * 1e-6
    shifted = type(ours)(ours.loss, {**ours.gradients, "layers.0.bias": theirs.gradients["layers.0.bias"] + noise}, {})
    assert not trial.wrong(shifted, type(theirs)(theirs.loss, theirs.gradients, {}))


def test_a_difference_that_float64_does_not_share_is_rounding():
    trial = trial_of(Loss(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1)), X)
    ours, theirs = trial.ours(), trial.theirs()
    near = {name: g * (1 + 1e-4) for name, g in ours.gradients.items()}
    far = {name: g * 1.1 for name, g in ours.gradients.items()}
    assert not trial.wrong(type(ours)(ours.loss, near, ours.written), theirs)
    assert trial.wrong(type(ours)(ours.loss, far, ours.written), theirs), "too much for float32, whatever the rules"


def test_in_float64_ill_conditioning_is_rounding():
    """A Hilbert matrix has a condition of 1e13: float64 leaves three digits of the solution's gradient."""
    n = 10
    rows = torch.arange(1, n + 1, dtype=torch.float64)
    hilbert = 1 / (rows[:, None] + rows - 1)

    class Solve(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(n, dtype=torch.float64))

        def forward(self, b):
            return torch.linalg.solve(hilbert * self.scale, b).sum()

    trial = trial_of(Solve(), torch.ones(n, dtype=torch.float64))
    ours, theirs = trial.ours(), trial.theirs()
    shifted = {name: g * (1 + 1e-6) for name, g in theirs.gradients.items()}
    assert not trial.wrong(type(ours)(theirs.loss, shifted, ours.written), theirs)
    shifted = {name: g * 1.5 for name, g in theirs.gradients.items()}
    assert trial.wrong(type(ours)(theirs.loss, shifted, ours.written), theirs)


def test_a_wrong_rule_is_found_behind_the_noise_of_bfloat16(monkeypatch):
    planted.rule(monkeypatch, aten.tanh.default, planted.scaled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trial = trial_of(Loss(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)), X)
        with pytest.raises(mg.GradientMismatchError, match=r"aten\.tanh\.default .*in module 'layers\.3'"):
            trial.demand(trial.ours(), trial.theirs())


def test_pytorch_in_float64_is_the_model_in_float64():
    model = Loss(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(), nn.Linear(24, 2))
    x = X.unsqueeze(1)
    trial, state = trial_of(model, x), copy.deepcopy(model.state_dict())
    wide = trial.theirs(wide=True)
    with Widened():
        ours = trial.ours()
    assert all(v.dtype == state[k].dtype and torch.equal(v, state[k]) for k, v in model.state_dict().items())
    double = copy.deepcopy(model).double()
    loss = double(x.double())
    expected = torch.autograd.grad(loss, list(double.parameters()))
    torch.testing.assert_close(wide.loss, loss.detach(), rtol=1e-12, atol=0)
    for name, e in zip(dict(double.named_parameters()), expected, strict=True):
        torch.testing.assert_close(wide.gradients[name], e, rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(ours.gradients[name], e, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(wide.written["layers.1.running_mean"], double.layers[1].running_mean)


def test_dtypes_that_a_program_names_are_widened_too():
    class Named(Loss):
        def forward(self, x):
            table = torch.zeros(8)
            table[2:4] = 0.1
            half = (self.layers(x).to(torch.bfloat16) / 3).float() + torch.full((1,), 0.1, dtype=torch.float32)
            return ((half + table) * torch.softmax(x.half(), -1, dtype=torch.float32)).sum()

    trial = trial_of(Named(nn.Linear(8, 8)), X)
    wide = trial.theirs(wide=True)
    with Widened():
        ours = trial.ours()
    assert wide.loss.dtype == torch.float64
    torch.testing.assert_close(ours.loss, wide.loss, rtol=1e-8, atol=0)  # 0.1 is a constant in float32
    for name, g in wide.gradients.items():
        assert g.dtype == torch.float64
        torch.testing.assert_close(ours.gradients[name], g, rtol=1e-12, atol=1e-15)


def test_random_numbers_are_the_same_on_both_sides():
    model = Loss(nn.Linear(8, 8), nn.Dropout(0.5), nn.RReLU(), nn.Linear(8, 1))
    trial = trial_of(model, X)
    for _ in range(2):
        torch.testing.assert_close(trial.ours().loss, trial.theirs().loss)
        torch.rand(1)


def test_a_write_that_the_graph_does_not_know_is_seen():
    class Counts(Loss):
        def __init__(self):
            super().__init__(nn.Linear(8, 1))
            self.register_buffer("total", torch.zeros(1))

        def forward(self, x):
            self.total.add_(x.sum())
            return super().forward(x)

    trial = trial_of(Counts(), X, change=lambda g: planted.never_written(g, "total"))
    assert [d.name for d in trial.wrong(trial.ours(), trial.theirs())] == ["total"]


def test_the_reference_is_torch_autograd():
    model = Loss(nn.Linear(8, 1))
    joint = mg.differentiate(mg.capture(model, X))
    found = by_autograd(model, (X,), {}, joint, Generators())
    loss = model(X)
    loss.backward()
    assert torch.equal(found.loss, loss) and torch.equal(
        found.gradients["layers.0.weight"], model.layers[0].weight.grad
    )
