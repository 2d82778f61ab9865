"""The doctor names the true cause of every sick model of the zoo, and finds nothing wrong with the healthy ones.

The numbers it shows as evidence are PyTorch's own: norms of gradients that hooks see, updates that the optimizer makes.
"""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from own_backward import Square
from torch import nn
from zoo.healthy import HEALTHY
from zoo.sick_gradients import SICK

import memograd as mg

X, T = torch.randn(32, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


def made(name):
    torch.manual_seed(0)
    options = dict(SICK[name].make())
    return options.pop("model"), options.pop("args"), options


def diagnosed(name):
    model, args, options = made(name)
    return mg.diagnose(model, *args, **options)


def only(report, kind):
    (finding,) = [f for f in report.findings if f.kind == kind]
    return finding


# -- the zoo -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of some of them, too
@pytest.mark.parametrize("name", SICK)
def test_a_sick_model_gets_the_finding_of_its_cause(name):
    report = diagnosed(name)
    telling = [f for f in report.findings if f.kind == SICK[name].kind and f.severity != "note"]
    assert telling and any(SICK[name].blame in str(f) for f in telling), report
    assert not report.ok and all(f.fix for f in telling)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_model_gets_no_error_and_no_warning(name):
    torch.manual_seed(1)
    model, loss, args = HEALTHY[name]()
    trained = [p for p in model.parameters() if p.requires_grad]
    report = mg.diagnose(model, *args, loss=loss, optimizer=torch.optim.Adam(trained, lr=1e-3))
    assert report.ok, report


# -- nothing is left behind --------------------------------------------------------------------------------------------


def test_everything_is_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    F.cross_entropy(model(X), T).backward()
    optimizer.step()
    held = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    gradients, drawn = [p.grad.clone() for p in model.parameters()], torch.get_rng_state()

    def step(x, t):
        F.cross_entropy(model(x), t).backward()
        optimizer.step()

    mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), optimizer=optimizer, step=step, precision=True)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()["state"]), held, rtol=0, atol=0)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), drawn)


# -- evidence, beside PyTorch ------------------------------------------------------------------------------------------


def test_the_product_of_the_factors_is_the_ratio_of_norms_that_autograd_sees():
    model, args, options = made("deep_sigmoids")
    seen = {}

    def look(module, _, y):
        y.register_hook(lambda g: seen.update({module: g.norm().item()}))

    first, last = model[0], model[-1]
    for layer in (first, last):
        layer.register_forward_hook(look)
    options["loss"](model(args[0]), args[1]).backward()
    model, args, options = made("deep_sigmoids")
    finding = only(mg.diagnose(model, *args, **options), "vanishing gradient")
    assert finding.numbers["product"] == pytest.approx(seen[first] / seen[last], rel=1e-4)
    products = [f["each"] ** f["calls"] for f in finding.numbers["factors"]]
    assert math.prod(products) == pytest.approx(finding.numbers["product"], rel=1e-6)


def test_dead_units_are_those_whose_output_a_hook_sees_to_be_zero():
    model, args, options = made("many_dead")
    finding = only(mg.diagnose(model, *args, **options), "dead units")
    with torch.no_grad():
        off = (model[:2](args[0]) == 0).all(0)
    assert finding.numbers["which"] == off.nonzero().flatten().tolist()


def test_ratios_are_those_of_a_real_step():
    model, args, options = made("learning_rate_too_large")
    twin = copy.deepcopy(model)
    finding = only(mg.diagnose(model, *args, **options), "updates too large")
    optimizer = torch.optim.SGD(twin.parameters(), lr=50.0)
    options["loss"](twin(args[0]), args[1]).backward()
    before = twin[0].weight.detach().clone()
    optimizer.step()
    moved = (twin[0].weight.detach() - before).norm() / before.norm()
    assert finding.numbers["ratios"]["0.weight"] == pytest.approx(moved.item(), rel=1e-5)


def test_the_share_that_underflows_is_that_of_autograd_in_half_and_in_double():
    model, args, options = made("float16_without_scaling")
    finding = only(mg.diagnose(model, *args, **options), "underflow")
    wide = copy.deepcopy(model).double()
    options["loss"](model(args[0]), args[1]).backward()
    options["loss"](wide(args[0].double()), args[1]).backward()
    half, double = model[0].weight.grad, wide[0].weight.grad
    assert ((half == 0) & (double != 0)).sum() / (double != 0).sum() > 0.9 and "0.weight" in finding.names


def test_the_error_of_the_gradient_is_that_of_autograd_beside_float64():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    report = mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), precision=torch.bfloat16)
    wide = copy.deepcopy(model).double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(X), T)
    loss.backward()
    F.cross_entropy(wide(X.double()), T).backward()
    pairs = [(p.grad.double(), q.grad) for p, q in zip(model.parameters(), wide.parameters(), strict=True)]
    apart = sum((a - b).square().sum() for a, b in pairs).sqrt() / sum(b.square().sum() for _, b in pairs).sqrt()
    assert report.numbers["precision"]["gradient_error"] == pytest.approx(apart.item(), rel=0.05)


def test_cancellation_is_the_operator_that_loses_the_digits():
    class Differences(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(50) + 1)

        def forward(self, x):
            y = x * self.scale
            return ((y + 1e4) - 1e4).square().mean()

    report = mg.diagnose(Differences(), torch.rand(50), precision=True)
    worst = report.numbers["precision"]["operators"][0]
    assert worst["operator"] == "sub" and worst["phase"] == "forward" and worst["lost"] > 2


class Steep(nn.Module):
    """A layer whose large sums go through a sine: its digits decide."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.large, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        with torch.no_grad():
            self.large.weight.mul_(40).add_(30)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.head(torch.sin(self.layer(h)))

    def layer(self, h):
        return self.large(h)


class Kept(Steep):
    def layer(self, h):
        with torch.autocast("cpu", enabled=False):
            return self.large(h.float())


def test_the_module_to_keep_in_float32_is_the_one_whose_digits_decide_and_its_error_is_that_of_autograd():
    report = mg.diagnose(Steep(), X, T, loss=nn.CrossEntropyLoss(), precision=torch.bfloat16)
    tried = report.numbers["precision"]["in_float32"]
    assert min(tried, key=lambda name: tried[name]) == "large"
    assert "'large'" in only(report, "precision of the gradient").fix
    model, exact = Kept(), Steep().double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(X), T)
    loss.backward()
    F.cross_entropy(exact(X.double()), T).backward()
    pairs = [(p.grad.double(), q.grad) for p, q in zip(model.parameters(), exact.parameters(), strict=True)]
    apart = sum((a - b).square().sum() for a, b in pairs).sqrt() / sum(b.square().sum() for _, b in pairs).sqrt()
    assert tried["large"] == pytest.approx(apart.item(), rel=0.1)


def test_masks_of_infinities_and_empty_memory_lose_no_digits():
    torch.manual_seed(0)
    model, loss, args = HEALTHY["transformer_encoder"]()
    report = mg.diagnose(model, *args, loss=loss, precision=True)
    assert report.ok and {"empty_like", "masked_fill"}.isdisjoint(
        row["operator"] for row in report.numbers["precision"]["operators"]
    )


def test_a_kernel_that_knows_no_float64_is_a_note():
    torch.manual_seed(0)
    model, loss, args = HEALTHY["lstm"]()
    report = mg.diagnose(model, *args, loss=loss, precision=True)
    assert report.ok and ("precision" in report.numbers or only(report, "no float64 beside it").severity == "note")


# -- what it says ------------------------------------------------------------------------------------------------------


def test_a_finding_names_the_line_and_the_parameters():
    finding = only(diagnosed("detached"), "no gradient")
    assert finding.names == ("encoder.weight", "encoder.bias")
    assert "detach()" in finding.where.line and "sick_gradients.py" in finding.where.source


def test_a_report_is_one_json_object():
    report = json.loads(diagnosed("softmax_twice").to_json())
    assert report["findings"][0]["kind"] == "softmax twice" and report["ok"] is False


def test_a_loss_that_is_not_finite_is_handed_on():
    model = nn.Linear(8, 3)
    report = mg.diagnose(model, X * float("inf"), T, loss=nn.CrossEntropyLoss())
    (finding,) = report.findings
    assert finding.severity == "error" and finding.kind == "inf in the data"


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_found():
    x = torch.zeros(3, requires_grad=True)
    (finding,) = mg.diagnose(lambda x: x.sqrt().sum(), x).findings
    assert finding.severity == "error" and "sqrt" in str(finding)


def test_a_function_of_tensors_can_be_diagnosed():
    x = torch.full((4,), 30.0, requires_grad=True)
    report = mg.diagnose(lambda x: x.clamp(-1, 1).sum(), x)
    assert only(report, "clamped everywhere").severity == "error"


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.last(Square.apply(self.first(x)))


def test_a_model_with_a_backward_of_its_own_is_measured_as_autograd_does():
    model = Squared()
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    report = mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), optimizer=optimizer)
    ratios = only(report, "updates too large").numbers["ratios"]
    F.cross_entropy(model(X), T).backward()
    for name, p in model.named_parameters():
        assert ratios[name] == pytest.approx(50 * (p.grad.norm() / p.detach().norm()).item(), rel=1e-4)


def test_a_recurrent_state_that_starts_at_zero_is_no_fault():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.GRUCell(8, 32), nn.Linear(32, 3)

        def forward(self, x):
            return self.head(self.cell(x))

    report = mg.diagnose(Cell(), X, T, loss=nn.CrossEntropyLoss())
    assert report.ok and only(report, "state of zeros").names == ("cell.weight_hh",)


def test_an_optimizer_that_evaluates_the_model_itself_is_a_note():
    model = nn.Linear(8, 3)
    report = mg.diagnose(
        model, X, T, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.LBFGS(model.parameters()), steps=3
    )
    assert report.ok and {f.kind for f in report.findings} >= {"updates not looked at", "not followed"}


@pytest.mark.parametrize("clears", [True, False])
def test_dropout_and_clipping_hide_no_forgotten_zero_grad_and_feign_none(clears):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(x, t):
        if clears:
            optimizer.zero_grad()
        F.cross_entropy(model(x), t).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    report = mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), step=step)
    assert ("forgotten zero_grad" in {f.kind for f in report.findings}) is not clears


def test_gradients_of_several_calls_to_a_step_are_no_forgotten_zero_grad():
    model = nn.Linear(8, 3)
    optimizer, calls = torch.optim.SGD(model.parameters(), lr=0.01), []

    def step(x, t):
        calls.append(None)
        F.cross_entropy(model(x), t).backward()
        if len(calls) % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()

    assert not mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), step=step).findings


def test_a_step_whose_gradients_are_no_attributes_is_fine():
    model = nn.Linear(8, 3)
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.01))
    assert not mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), step=step).findings


def test_a_step_that_raises_leaves_everything_as_it_was():
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.weight.detach().clone()

    def step(x, t):
        F.cross_entropy(model(x), t).backward()
        optimizer.step()
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), optimizer=optimizer, step=step)
    assert torch.equal(model.weight, before) and model.weight.grad is None


def test_the_optimizer_of_a_step_is_as_it_was_though_nobody_named_it():
    model = nn.Linear(8, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)
    before = model.weight.detach().clone()

    def step(x, t):
        optimizer.zero_grad()
        F.cross_entropy(model(x), t).backward()
        optimizer.step()

    report = mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss(), step=step)
    assert report.ok and not optimizer.state and torch.equal(model.weight, before) and model.weight.grad is None


def test_a_function_of_which_nothing_asks_for_a_gradient_says_so():
    model = nn.Linear(8, 3).requires_grad_(False)
    assert [f.kind for f in mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss()).findings] == [
        "nothing to differentiate"
    ]


def test_a_loss_that_has_its_target_as_a_default_is_called_with_the_output_alone():
    model = nn.Linear(8, 3)
    report = mg.diagnose(model, X, loss=lambda output, target=T: F.cross_entropy(output, target))
    assert math.isclose(report.numbers["loss"], F.cross_entropy(model(X), T).item(), rel_tol=1e-6)


def test_parts_in_eval_mode_are_somebodys_choice():
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    model[1].eval()
    assert "eval mode" not in str(mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss()))


def test_in_inference_mode_it_says_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(8, 8), nn.Sigmoid())], nn.Linear(8, 3))
    outside = mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss())
    with torch.inference_mode():
        inside = mg.diagnose(model, X, T, loss=nn.CrossEntropyLoss())
        assert torch.is_inference_mode_enabled() and mg.preflight(model, X, T, loss=nn.CrossEntropyLoss()).ok
    assert [f.kind for f in inside.findings] == [f.kind for f in outside.findings] == ["vanishing gradient"]


def test_the_loss_may_stand_in_a_dict():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 3)

        def forward(self, x, target):
            scores = self.linear(x)
            return {"scores": scores, "loss": F.cross_entropy(scores, target)}

    torch.manual_seed(0)
    model = Model()
    expected = F.cross_entropy(model.linear(X), T).item()
    assert math.isclose(mg.diagnose(model, X, T).numbers["loss"], expected, rel_tol=1e-6)
    step = mg.TrainStep(model, None, torch.optim.SGD(model.parameters(), lr=0.0))
    assert math.isclose(step(X, T).item(), expected, rel_tol=1e-6)
