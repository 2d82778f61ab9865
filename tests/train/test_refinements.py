"""Clipping, accumulation, averages and autocast in the step, against the loop that training scripts have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from plain_loop import OPTIMIZERS, batches, same, schedule, small, summary, trained_by_torch, with_everything
from test_memory_budget import peak
from torch import nn, optim

import memograd as mg
from memograd.errors import OptionError
from memograd.train import formulas, gather, update
from memograd.train.refinements import Clip

WAYS: dict[str, dict[str, Any]] = {
    "norm": {"clip_grad_norm": 0.05},
    "largest norm": {"clip_grad_norm": 0.05, "norm_type": float("inf")},
    "value and norm": {"clip_grad_value": 0.02, "clip_grad_norm": 0.05},
    "average": {"ema_decay": 0.9},
    "accumulate": {"accumulate": 3},
    "all": {"accumulate": 4, "clip_grad_norm": 0.05, "clip_grad_value": 0.04, "ema_decay": 0.9},
}


def trained_by_us(model, optimizer, data, check="first", backend="eager", memory_budget=None, **ways):
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, memory_budget, backend, check, **ways)
    data, scheduler = list(data), schedule(optimizer)
    torch.manual_seed(5)
    losses, norms, every = [], [], ways.get("accumulate", 1)
    for number, batch in enumerate(data, 1):
        losses.append(step(*batch))
        if number % every and number < len(data):
            continue
        step.finish()  # the last group has fewer
        scheduler.step()
        if "clip_grad_norm" in ways:
            norms.append(step.grad_norm)
    average = step.ema_state_dict() if "ema_decay" in ways else {}
    return summary(model, optimizer, losses, norms, average), step


@pytest.mark.one_in(4)
@pytest.mark.parametrize("backend", ["eager", "native", "budget"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("way", WAYS)
def test_a_step_does_what_scripts_do_besides_the_update(way: str, kind: str, backend: str) -> None:
    if backend == "native" and kind == "rmsprop":
        pytest.skip("called outside of the graph")
    make = small if backend == "native" else with_everything
    theirs, ours = make(), make()
    expected = trained_by_torch(theirs, OPTIMIZERS[kind](theirs.parameters()), batches(50), **WAYS[way])
    where = {"memory_budget": "100%"} if backend == "budget" else {"backend": backend}
    found, step = trained_by_us(ours, OPTIMIZERS[kind](ours.parameters()), batches(50), **where, **WAYS[way])
    same(found, expected)
    assert step.check_reason.startswith("agrees with torch.autograd")
    assert step.backend_name == ("native" if backend == "native" else "eager")


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("budget", [None, "100%"])
def test_compiled_kernels_do_the_same(budget: str | None) -> None:
    theirs, ours = small(), small()
    expected = trained_by_torch(theirs, OPTIMIZERS["adamw"](theirs.parameters()), batches(9), **WAYS["all"])
    optimizer = OPTIMIZERS["adamw"](ours.parameters())
    found, _ = trained_by_us(ours, optimizer, batches(9), backend="inductor", memory_budget=budget, **WAYS["all"])
    same(found, expected)


@pytest.mark.parametrize("way", [*(pytest.param(w, marks=pytest.mark.slow) for w in ("norm", "accumulate")), "all"])
def test_a_memory_budget_holds_by_the_profiler_s_count(way: str) -> None:
    def wide() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*[nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2)], nn.Linear(16, 3))

    data = [(torch.randn(512, 16), torch.randint(0, 3, (512,))) for _ in range(4)]
    model, free = wide(), wide()
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    plain = optim.AdamW(free.parameters(), lr=0.01)
    ways = WAYS[way] | ({"accumulate": 2} if "accumulate" in WAYS[way] else {})
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, "90%", "eager", "never", **ways)
    other = mg.TrainStep(free, nn.CrossEntropyLoss(), plain, None, "eager", "never", **ways)
    for batch in data[:2]:
        step(*batch), other(*batch)
    with peak() as above:
        for batch in data[2:]:
            step(*batch)
    for batch in data[2:]:
        other(*batch)
    assert step.plan is not None
    inputs = step.plan.problem.resident  # what lives throughout
    assert inputs + above[0] <= step.plan.budget
    for p, q in zip(model.parameters(), free.parameters(), strict=True):
        assert torch.equal(p, q), "the same to the last bit"


# -- what the witness sees -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "native"])
@pytest.mark.parametrize("fault", ["scale", "average", "sum", "update"])
def test_a_wrong_stage_is_caught(fault: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: dict[str, Any] = {"clip_grad_norm": 0.05, "ema_decay": 0.8}
    if fault == "scale":
        monkeypatch.setattr(Clip, "scale", lambda self, total: 1.5 * self.norm / (total + 1e-6))
    elif fault == "average":
        lerp = torch.lerp
        monkeypatch.setattr(torch, "lerp", lambda a, b, w: lerp(a, b, 0.5 if w == 1 - 0.8 else w))
    elif fault == "sum":
        ways = {"accumulate": 2}
        init = gather.Gather.__init__
        monkeypatch.setattr(gather.Gather, "__init__", lambda s, *a: (init(s, *a), setattr(s, "share", 1.0))[0])
    else:
        ways = {"accumulate": 2}

        def coupled(p, g, lr, state, group):  # no decay of its own
            return formulas.adam(p, g, lr, state, {**group, "decoupled_weight_decay": False})

        monkeypatch.setitem(update.RULES, optim.AdamW, replace(update.RULES[optim.AdamW], formula=coupled))
    model = small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    step = mg.TrainStep(
        model, nn.CrossEntropyLoss(), optim.AdamW(model.parameters(), weight_decay=0.1), backend=backend, **ways
    )
    data = batches(2)
    with pytest.raises(mg.GradientMismatchError, match="update of several batches" if fault == "update" else "the"):
        step(*data[0]), step(*data[1])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# -- which parameters ------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """One of two heads takes part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(6, 4, dtype=torch.float64)
        self.heads = nn.ModuleList(nn.Linear(4, 3, dtype=torch.float64) for _ in range(2))

    def forward(self, x: torch.Tensor, y: torch.Tensor, head: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.heads[head](self.body(x).tanh()), y)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("way", ["norm", "average", "accumulate", "all"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_parameters_without_a_gradient_are_neither_counted_nor_updated(way: str, kind: str) -> None:
    ways = WAYS[way] | {"accumulate": 3 if "accumulate" in WAYS[way] else 1}
    ours, theirs = Branches(), Branches()
    optimizers = [OPTIMIZERS[kind](m.parameters()) for m in (ours, theirs)]
    step = mg.TrainStep(ours, None, optimizers[0], backend="eager", **ways)
    average = None
    if "ema_decay" in ways:
        average = torch.optim.swa_utils.AveragedModel(
            theirs, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(ways["ema_decay"])
        )
    for number, ((x, y), head) in enumerate(zip(batches(12), [0, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0], strict=True), 1):
        step(x, y, head=head)
        (theirs(x, y, head) / ways["accumulate"]).backward()
        if number % ways["accumulate"] == 0:
            if "clip_grad_value" in ways:
                nn.utils.clip_grad_value_(theirs.parameters(), ways["clip_grad_value"])
            if "clip_grad_norm" in ways:
                nn.utils.clip_grad_norm_(theirs.parameters(), ways["clip_grad_norm"])
            optimizers[1].step()
            optimizers[1].zero_grad()
            if average is not None:
                average.update_parameters(theirs)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-12)
    if average is not None:
        torch.testing.assert_close(step.ema_state_dict(), average.module.state_dict(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("every", [1, 2])
def test_parameters_of_no_module_take_part(every: int) -> None:
    """A temperature that the criterion closes over, and the optimizer holds."""

    def train(ours: bool) -> list[torch.Tensor]:
        model, heat = small(), nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        optimizer = optim.AdamW([*model.parameters(), heat], lr=0.1)

        def criterion(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(out * heat, y)

        step = mg.TrainStep(model, criterion, optimizer, accumulate=every, clip_grad_norm=0.3, ema_decay=0.9)
        for number, (x, y) in enumerate(batches(4), 1):
            if ours:
                step(x, y)
                continue
            (criterion(model(x), y) / every).backward()
            if number % every == 0:
                nn.utils.clip_grad_norm_([*model.parameters(), heat], 0.3)
                optimizer.step()
                optimizer.zero_grad()
        return [*model.parameters(), heat]

    torch.testing.assert_close(train(True), train(False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("every", [1, 2])
def test_sparse_gradients_are_dense_here(every: int) -> None:
    def train(ours: bool) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 3)).double()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        step = mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, accumulate=every)
        for number, (x, y) in enumerate(batches(4), 1):
            words = x[:, 0].abs().long() % 10
            if ours:
                step(words, y)
                continue
            (nn.functional.cross_entropy(model(words), y) / every).backward()
            if number % every == 0:
                optimizer.step()
                optimizer.zero_grad()
        return model

    torch.testing.assert_close(train(True).state_dict(), train(False).state_dict(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("every", [1, 2])
def test_hooks_see_gradients_before_they_are_clipped(every: int) -> None:
    def train(ours: bool) -> tuple[nn.Module, list[torch.Tensor]]:
        model, seen = small(), []
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        model[0].weight.register_hook(lambda g: seen.append(g.clone()))
        model[2].weight.register_hook(lambda g: g * 3)
        model[2].bias.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
        step = mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, accumulate=every, clip_grad_norm=0.1)
        for number, (x, y) in enumerate(batches(6), 1):
            if ours:
                step(x, y)
                continue
            (nn.functional.cross_entropy(model(x), y) / every).backward()
            if number % every == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
        return model, seen

    (ours, seen), (theirs, expected) = train(True), train(False)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(seen, expected, rtol=1e-9, atol=1e-12)


# -- averages, sums, norms for the user ------------------------------------------------------------------------------


def test_the_model_has_its_averages_while_that_is_asked_for() -> None:
    model = small()
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1), ema_decay=0.5)
    data = batches(3)
    for batch in data:
        step(*batch)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    average = {k: v.clone() for k, v in step.ema_state_dict().items()}
    assert not torch.equal(weights["0.weight"], average["0.weight"])
    with step.averaged():
        torch.testing.assert_close(model.state_dict(), average, rtol=0, atol=0)
        with pytest.raises(mg.MemogradError, match="averaged weights now"):
            step(*data[0])
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    torch.testing.assert_close(step.ema_state_dict(), average, rtol=0, atol=0)
    assert step.captures == ["the first step"], "and no program is made anew"


@pytest.mark.parametrize("backend", ["eager", "native"])
def test_many_steps_in_one_call_are_the_same(backend: str) -> None:
    ways = {"clip_grad_norm": 0.05, "ema_decay": 0.9}
    models = [small(), small()]
    (batch,) = batches(1)
    steps = [
        mg.TrainStep(m, nn.CrossEntropyLoss(), optim.AdamW(m.parameters()), backend=backend, **ways) for m in models
    ]
    losses = steps[0].run(*batch, steps=5)
    torch.testing.assert_close(losses, torch.stack([steps[1](*batch) for _ in range(5)]), rtol=1e-12, atol=0)
    torch.testing.assert_close(steps[0].ema_state_dict(), steps[1].ema_state_dict(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(steps[0].grad_norm, steps[1].grad_norm, rtol=1e-12, atol=0)


@pytest.mark.parametrize("after", [3, 4])
def test_a_step_goes_on_from_its_state_to_the_last_bit(after: int) -> None:
    """In the middle of a group, and between two."""
    ways: dict[str, Any] = {"accumulate": 2, "ema_decay": 0.9, "clip_grad_norm": 0.1}
    data = batches(8)

    def begin() -> tuple[nn.Module, optim.Optimizer, mg.TrainStep]:
        model = small()
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
        return model, optimizer, mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, backend="eager", **ways)

    whole, _, step = begin()
    for batch in data:
        step(*batch)
    first, optimizer, half = begin()
    for batch in data[:after]:
        half(*batch)
    second, other, resumed = begin()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(half.state_dict())
    for batch in data[after:]:
        resumed(*batch)
    for p, q in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
    for name, value in step.ema_state_dict().items():
        assert torch.equal(value, resumed.ema_state_dict()[name])


def test_a_state_of_another_model_is_refused() -> None:
    model, other = small(), with_everything()
    states = [mg.TrainStep(m, None, optim.SGD(m.parameters(), 0.1), ema_decay=0.9) for m in (model, other)]
    states[1]._carried.cover(other.parameters())
    with pytest.raises(mg.DataError, match=r"the state of another step: its averages hold 'model.1.weight'"):
        states[0].load_state_dict(states[1].state_dict())


def test_a_norm_that_was_read_does_not_change() -> None:
    model = small()
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), clip_grad_norm=float("inf"))
    with pytest.raises(mg.GraphError, match="no update was made yet"):
        _ = step.grad_norm
    first, second = batches(2)
    step(*first)
    norm = step.grad_norm
    before = norm.item()
    step(*second)
    assert norm.item() == before != step.grad_norm.item()


# -- autocast --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("way", ["none", "all"])
def test_autocast_is_that_of_the_forward_pass(way: str, inside: bool) -> None:
    """By the option, or around the step."""

    def make() -> nn.Module:
        return small().float()

    ways = WAYS.get(way, {})
    data = [(x.float(), y) for x, y in batches(6)]
    theirs, ours = make(), make()
    expected = trained_by_torch(theirs, optim.SGD(theirs.parameters(), 0.1), data, autocast=torch.bfloat16, **ways)
    optimizer = optim.SGD(ours.parameters(), 0.1)
    if inside:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, step = trained_by_us(ours, optimizer, data, **ways)
    else:
        found, step = trained_by_us(ours, optimizer, data, autocast=torch.bfloat16, **ways)
    assert any("bfloat16" in line for line in step.graph.code.splitlines())
    same(found, expected, rtol=2e-2, atol=2e-3)


def test_optimizers_that_are_called_run_behind_autocast() -> None:
    seen = []
    model = small().float()
    optimizer = optim.RMSprop(model.parameters(), lr=0.01)
    optimizer.register_step_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    x, y = batches(1)[0]
    mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer, autocast=torch.bfloat16)(x.float(), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer)(x.float(), y)
    assert seen == [False, False]


REFUSED = [
    ({"clip_grad_norm": -1.0}, "clip_grad_norm must be a number that is not negative"),
    ({"clip_grad_value": True}, "clip_grad_value must be a number"),
    ({"norm_type": "fro"}, "norm_type must be a number"),
    ({"accumulate": 0}, "accumulate must be a number of batches"),
    ({"ema_decay": 1.5}, "ema_decay must lie between 0 and 1"),
    ({"autocast": torch.float16}, "needs a gradient scaler"),
    ({"autocast": True}, "autocast must be torch.bfloat16"),
]


@pytest.mark.parametrize(("ways", "message"), REFUSED)
def test_options_that_make_no_sense_are_refused(ways: dict[str, Any], message: str) -> None:
    model = small()
    with pytest.raises(OptionError, match=message):
        mg.TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), **ways)


def test_what_a_step_does_not_compute_cannot_be_asked_for() -> None:
    model = small()
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1))
    with pytest.raises(mg.GraphError, match=r"clip_grad_norm=1\.0, or inf to clip nothing"):
        _ = step.grad_norm
    with pytest.raises(mg.GraphError, match="averages no weights"):
        step.ema_state_dict()
    with pytest.raises(mg.GraphError, match="averages no weights"), step.averaged():
        pass
