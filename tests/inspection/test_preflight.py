"""What a preflight finds: one small model for each finding, and none in healthy ones."""

import copy
import json
import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import memograd as mg
from memograd.rules import registry


def only(report, kind, severity=None):
    """The one finding of that kind."""
    (found,) = [f for f in report.findings if f.kind == kind]
    assert severity is None or found.severity == severity, found
    return found


class Function(nn.Module):
    """Two layers and what a test does between them."""

    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.between = between

    def forward(self, x):
        return self.last(self.between(self.first(x))).square().mean()


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


# -- healthy models ------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))

    def forward(self, x):
        h = self.norm(x)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(x)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.lstm(x)[0][:, -1])


def mlp():
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), (X, torch.tensor([0, 1, 1, 0, 1]))


def cnn():
    layers = (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    return nn.Sequential(*layers), (torch.randn(5, 1, 6, 6), torch.tensor([0, 1, 1, 0, 1]))


@pytest.mark.parametrize("make", [mlp, cnn], ids=["mlp", "cnn"])
def test_classifiers_pass(make):
    torch.manual_seed(0)
    model, args = make()
    report = mg.preflight(model, *args, loss=nn.CrossEntropyLoss())
    assert report.ok and not report.findings, report
    assert report.gradients.count == len(list(model.parameters()))
    assert all(d.agrees for d in report.gradients.directions) and len(report.gradients.directions) == 2


@pytest.mark.parametrize("make", [Attention, Recurrent])
def test_a_transformer_block_and_an_lstm_pass(make):
    torch.manual_seed(0)
    report = mg.preflight(make(), torch.randn(2, 4, 8 if make is Attention else 3))
    assert report.ok and all(f.kind == "random numbers" for f in report.findings), report
    assert all(d.agrees for d in report.gradients.directions) and len(report.gradients.directions) == 2


def test_slopes_are_those_of_torch_func():
    net = Function(torch.tanh).double()
    report = mg.preflight(net, X.double())
    one = report.gradients.directions[0]
    generator = torch.Generator().manual_seed(0)
    way = {
        n: torch.randn(p.shape, dtype=p.dtype, generator=generator) * p.detach().square().mean().sqrt()
        for n, p in net.named_parameters()
    }

    def loss(parameters):
        return torch.func.functional_call(net, parameters, X.double())

    primal = {n: p.detach() for n, p in net.named_parameters()}
    expected = torch.func.jvp(loss, (primal,), (way,))[1].item()
    assert one.ours == pytest.approx(expected, rel=1e-9)
    assert one.autograd == pytest.approx(expected, rel=1e-9)
    assert one.differences == pytest.approx(expected, rel=1e-6)


# -- rules -----------------------------------------------------------------------------------------------------------


def test_every_operator_without_a_rule_is_named(monkeypatch):
    aten = torch.ops.aten
    for target in (aten.tanh.default, aten.sin.default):
        monkeypatch.delitem(registry._TABLE, target)
    report = mg.preflight(Function(lambda h: h.tanh() + h.sin()), X)
    found = [f for f in report.findings if f.kind == "missing rule"]
    assert not report.ok and [f.severity for f in found] == ["error", "error"]
    assert ["aten.tanh" in found[0].what, "aten.sin" in found[1].what] == [True, True]
    assert "test_preflight.py" in found[0].source and "memograd.rule" in found[0].advice


# -- stopped gradients -----------------------------------------------------------------------------------------------


def without_gradients(h):
    with torch.no_grad():
        return h.exp()


def hidden_write(h):
    memory = torch.zeros(5, 4, requires_grad=True) * 1
    memory.data.copy_(h)
    return memory


STOPS = {
    "detach": lambda h: h.detach(),
    "data": lambda h: h.data,
    "no_grad": without_gradients,
    "whole numbers": lambda h: h.argmax(1, keepdim=True) * torch.ones(5, 4),
    "a comparison": lambda h: (h > 0).float(),
    "a cast": lambda h: (h * 10).int().float(),
    "steps": lambda h: h.round(),
    "a hidden write": hidden_write,
    "drawn": lambda h: torch.bernoulli(h.sigmoid()),
}


@pytest.mark.parametrize("between", STOPS.values(), ids=STOPS)
def test_a_parameter_that_loses_its_gradient_is_a_warning_with_the_line(between):
    net = Function(between)
    report = mg.preflight(net, X)
    found = only(report, "stopped gradient", "warning")
    assert not report.ok and set(found.names) == {"first.weight", "first.bias"}
    assert "test_preflight.py" in found.source
    loss = net(X)
    loss.backward()
    lost = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert lost == set(found.names)


def test_a_straight_through_estimator_is_a_note():
    report = mg.preflight(Function(lambda h: h + (h.round() - h).detach()), X)
    found = only(report, "stopped gradient", "note")
    assert report.ok and ".detach()" in found.line and set(found.names) == {"first.weight", "first.bias"}
    assert only(report, "differs from differences", "note")


def test_the_last_stop_on_the_way_is_to_blame():
    found = only(mg.preflight(Function(lambda h: h.round().detach()), X), "stopped gradient", "warning")
    assert "detach" in found.what and len(found.names) == 2


def test_stops_that_the_loss_does_not_depend_on_are_none():
    def between(h):
        h.detach().square().mean()
        return h + torch.zeros_like(h.detach()) + (h.detach() > 9).shape[0]

    assert mg.preflight(Function(between), X).findings == ()


def test_a_backward_that_returns_none_is_a_stopped_gradient():
    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, adjoint):
            return None

    report = mg.preflight(Function(Nothing.apply), X)
    assert "Nothing" in only(report, "stopped gradient", "warning").what


# -- parameters --------------------------------------------------------------------------------------------------------


def test_unused_frozen_and_tied_parameters():
    net = Function(torch.tanh)
    net.extra = nn.Linear(2, 2)
    net.first.bias.requires_grad_(False)
    net.again = net.last
    report = mg.preflight(net, X)
    assert only(report, "unused parameter", "warning").names == ("extra.weight", "extra.bias")
    assert only(report, "frozen parameters", "note").names == ("first.bias",)
    tied = [f.names for f in report.findings if f.kind == "tied parameters"]
    assert tied == [("last.weight", "again.weight"), ("last.bias", "again.bias")]


def test_two_parameters_in_one_memory_are_a_warning():
    net = Function(torch.tanh)
    net.first.weight = nn.Parameter(net.last.weight.data.view(-1)[:8].view(4, 2)[:, :1].expand(4, 3).clone())
    assert mg.preflight(net, X).ok
    whole = torch.randn(20)
    net.first.weight, net.last.weight = nn.Parameter(whole[:12].view(4, 3)), nn.Parameter(whole[11:19].view(2, 4))
    assert only(mg.preflight(net, X), "shared memory", "warning").names == ("first.weight", "last.weight")


def test_a_frozen_model_has_nothing_to_differentiate():
    report = mg.preflight(Function(torch.tanh).requires_grad_(False), X)
    assert only(report, "nothing to differentiate", "error") and not report.ok


# -- hooks and hand-written backwards ----------------------------------------------------------------------------------


def test_hooks_are_named_and_what_becomes_of_them_is_said():
    def looks(module, inputs, outputs):
        return None

    net = Function(torch.tanh)
    net.first.register_forward_hook(looks)
    net.last.weight.register_hook(lambda g: g)
    report = mg.preflight(net, X)
    module, parameter = [f for f in report.findings if f.kind == "hook"]
    assert report.ok and module.module == "first" and "looks" in module.what and "test_preflight.py" in module.source
    assert parameter.names == ("last.weight",)
    net.last.register_full_backward_hook(looks)
    report = mg.preflight(net, X)
    assert report.ok and report.memory is None
    assert "nobody can say what it allocates" in only(report, "no memory plan", "note").what
    assert "allocates" in only(mg.preflight(net, X, memory_budget="100%"), "no memory plan", "error").what


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, adjoint):
        return adjoint * 2


class Wrong(Doubled):
    @staticmethod
    def backward(ctx, adjoint):
        return adjoint * 3


def test_a_custom_backward_is_named_with_its_line():
    report = mg.preflight(Function(Doubled.apply), X)
    found = only(report, "custom backward", "note")
    assert report.ok and "is traced and used" in found.what and "test_preflight.py" in found.what


def test_a_custom_backward_that_a_rule_overrides_is_said_to_be(monkeypatch):
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    mg.rule(Doubled)(lambda adjoint, y, x: adjoint * 2)
    assert "is not used" in only(mg.preflight(Function(Doubled.apply), X), "custom backward", "note").what


def test_a_custom_backward_that_is_no_derivative_differs_from_differences():
    report = mg.preflight(Function(Wrong.apply), X)
    found = only(report, "differs from differences", "warning")
    assert "Wrong" in found.what and not report.ok
    assert not any(d.agrees for d in report.gradients.directions)


def test_a_wrong_rule_is_an_error(monkeypatch):
    monkeypatch.setattr(registry, "_TABLE", dict(registry._TABLE))
    mg.rule(torch.ops.aten.tanh.default)(lambda adjoint, y, x: adjoint * 2)
    report = mg.preflight(Function(torch.tanh), X)
    found = only(report, "wrong gradient", "error")
    assert "tanh" in found.what and "first.weight" in found.names and report.gradients.largest > 0.1


def test_a_kink_is_a_note():
    net = Function(torch.relu)
    with torch.no_grad():
        net.first.weight.zero_(), net.first.bias.zero_()
    report = mg.preflight(net, X)
    found = only(report, "differs from differences", "note")
    assert report.ok and "kink" in found.what


# -- values ------------------------------------------------------------------------------------------------------------


def test_control_flow_by_values_is_a_note_with_the_line():
    report = mg.preflight(Function(lambda h: h.tanh() if h.sum() > -1000 else h), X)
    found = only(report, "data-dependent control flow", "note")
    assert report.ok and "test_preflight.py" in found.source and "h.sum() > -1000" in found.line


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale, self.steps = nn.Linear(3, 3), 2.5, 0

    def forward(self, x, power=2):
        return (self.layer(x) * self.scale) ** power


def test_numbers_that_the_program_depends_on_are_named():
    found = only(mg.preflight(Scaled(), X, power=3), "values baked in", "note")
    assert set(found.names) == {"power", "scale"} and "scale=2.5" in found.what


def test_a_number_that_changes_at_each_call_is_a_warning():
    class Counting(Scaled):
        def forward(self, x):
            self.steps += 1
            return self.layer(x) * (self.steps > 0)

    net = Counting()
    report = mg.preflight(net, X)
    assert only(report, "captured at each call", "warning").names == ("steps",) and net.steps == 0


def test_a_number_that_is_only_counted_up_is_none():
    class Counting(Scaled):
        def forward(self, x):
            self.steps += 1
            return self.layer(x)

    net = Counting()
    report = mg.preflight(net, X)
    assert not [f for f in report.findings if f.kind in ("captured at each call", "values baked in")]
    wrapped = mg.wrap(net)
    for _ in range(4):
        wrapped(X)
    assert net.steps == 4 and len(wrapped.forward.captures) <= 2


def test_random_numbers_are_named():
    dropping, chancy = Function(nn.Dropout(0.5)), Function(lambda h: h * random.random())
    state = torch.get_rng_state(), random.getstate()
    found = only(mg.preflight(dropping, X), "random numbers", "note")
    assert "bernoulli" in found.what or "dropout" in found.what
    report = mg.preflight(chancy, X)
    assert only(report, "captured at each call", "warning")
    assert torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_a_plan():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)])
    args = (torch.randn(64, 8), torch.randn(64, 8))
    plan = mg.plan(model, *args, loss=nn.MSELoss(), memory_budget="100%")
    report = mg.preflight(model, *args, loss=nn.MSELoss(), memory_budget="80%")
    assert report.ok and report.memory.unplanned_bytes == plan.unplanned_bytes and report.memory.fits
    assert report.memory.floor_bytes <= report.memory.budget_bytes < report.memory.unplanned_bytes
    report = mg.preflight(model, *args, loss=nn.MSELoss(), memory_budget="1KiB")
    assert only(report, "memory budget", "error") and report.memory.fits is False
    with pytest.raises(mg.BudgetInfeasibleError) as refused:
        mg.plan(model, *args, loss=nn.MSELoss(), memory_budget="1KiB")
    assert report.memory.floor_bytes == refused.value.floor_bytes


# -- all of it ---------------------------------------------------------------------------------------------------------


def test_nothing_is_left_behind():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    net[0].weight.grad = torch.ones(4, 3)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    x = X.clone().requires_grad_()
    report = mg.preflight(net, x)
    assert report.gradients.count == 7  # one of them is the gradient of x
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(net[0].weight.grad, torch.ones(4, 3))
    assert x.grad is None and net[3].weight.grad is None


def test_functions_and_their_modules():
    layer = nn.Linear(3, 2)
    report = mg.preflight(lambda x, y: F.mse_loss(layer(x), y), X, torch.ones(5, 2))
    assert report.ok and report.gradients.count == 2
    assert mg.preflight(lambda x: x.sin().sum(), X).gradients.count == 1


def test_a_program_that_raises_is_an_error_and_the_report_goes_on():
    net = Function(lambda h: h @ h)
    net.first.bias.requires_grad_(False)
    report = mg.preflight(net, X)
    assert only(report, "the program raises", "error") and only(report, "frozen parameters", "note")
    assert report.memory is None and report.gradients is None


def test_what_cannot_be_captured_is_an_error():
    report = mg.preflight(Function(lambda h: h + torch.quasirandom.SobolEngine(4).draw(5)), X)
    assert "Sobol" in only(report, "does not capture", "error").what


def test_wrapped_models_and_results_with_a_loss():
    class Own(Function):
        def forward(self, x):
            return {"loss": super().forward(x), "out": x}

    assert mg.preflight(mg.wrap(Own(torch.tanh)), X).ok


def test_a_report_reads_as_text_and_as_data():
    report = mg.preflight(Function(lambda h: h.detach()), X, memory_budget="1GiB")
    text, data = str(report), json.loads(report.to_json())
    assert text.startswith("Preflight of Function: 1 warning")
    assert data == json.loads(json.dumps(report.to_dict())) and data["ok"] is False
    assert data["findings"][0]["severity"] == "warning" and data["memory"]["fits"] is True
    assert "detach" in text and "unplanned peak" in text and "along direction 2" in text


def test_numbers_that_are_not_finite_are_strings_in_json():
    def refused(constant):
        raise AssertionError(f"{constant} is not JSON")

    model = Function(lambda h: h * math.nan)
    data = json.loads(mg.preflight(model, X).to_json(), parse_constant=refused)
    assert "nan" in {direction["autograd"] for direction in data["gradients"]["directions"]}


def test_what_the_kernels_refuse_and_traces_take_is_an_error():
    model, x, y = nn.Linear(4, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 7, 0])
    with pytest.raises(RuntimeError, match="same dtype") as precisions:
        model(x.double())
    with pytest.raises(IndexError, match="out of bounds") as classes:
        nn.CrossEntropyLoss()(model(x), y)
    report = mg.preflight(model, x.double(), y, loss=nn.CrossEntropyLoss())
    assert not report.ok and str(precisions.value) in str(report)
    report = mg.preflight(model, x, y, loss=nn.CrossEntropyLoss())
    assert not report.ok and str(classes.value) in str(report)
