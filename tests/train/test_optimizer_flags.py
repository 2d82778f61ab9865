"""Every optimizer of ``torch.optim``, its flags and its schedulers, for twenty steps beside plain PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_loop import batches, small
from torch import nn, optim
from torch.optim import lr_scheduler as schedulers

import memograd as mg

DATA = batches(20)
Make = Callable[..., optim.Optimizer]


def beside_torch(make: Make, schedule: Callable[[optim.Optimizer], Any] | None = None) -> mg.TrainStep:
    """The step after twenty batches; the parameters and the optimizer's state are PyTorch's."""
    ours, theirs = small(), small()
    optimizers = [make(m.parameters()) for m in (ours, theirs)]
    following = [schedule(o) for o in optimizers] if schedule is not None else []
    step = mg.TrainStep(ours, nn.CrossEntropyLoss(), optimizers[0], backend="eager")
    for x, y in DATA:
        loss = step(x, y)
        optimizers[1].zero_grad()
        plain = nn.functional.cross_entropy(theirs(x), y)
        plain.backward()
        optimizers[1].step()
        torch.testing.assert_close(loss, plain.detach(), rtol=1e-10, atol=0)
        for one in following:
            one.step(loss) if isinstance(one, schedulers.ReduceLROnPlateau) else one.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-12)
    found, expected = (o.state_dict()["state"] for o in optimizers)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    return step


def in_groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": parameters[:2], "lr": 0.1, "weight_decay": 0.0}, {"params": parameters[2:]}]


FLAGS: dict[str, tuple[Make, str]] = {
    "sgd foreach": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, foreach=True), ""),
    "sgd fused": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True), ""),
    "sgd maximize": (lambda p: optim.SGD(p, lr=0.01, momentum=0.9, maximize=True, weight_decay=0.1), ""),
    "sgd dampening": (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5), "dampening is set"),
    "adam fused": (lambda p: optim.Adam(p, lr=0.01, fused=True, amsgrad=True), ""),
    "adam foreach": (lambda p: optim.Adam(p, lr=0.01, foreach=True, weight_decay=0.1), ""),
    "adam maximize": (lambda p: optim.Adam(p, lr=0.01, maximize=True, weight_decay=0.1), ""),
    "adam decoupled": (lambda p: optim.Adam(p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True), ""),
    "adamw foreach": (lambda p: optim.AdamW(p, lr=0.01, foreach=True), ""),
    "adamw fused": (lambda p: optim.AdamW(p, lr=0.01, fused=True), ""),
    "adamw maximize": (lambda p: optim.AdamW(p, lr=0.01, maximize=True, amsgrad=True), ""),
    "adagrad": (lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.2), ""),
    "adagrad maximize": (lambda p: optim.Adagrad(p, lr=0.1, maximize=True, weight_decay=0.1), ""),
    "adagrad fused": (lambda p: optim.Adagrad(p, lr=0.1, fused=True), ""),
    "rmsprop": (lambda p: optim.RMSprop(p, lr=0.01, alpha=0.9), ""),
    "rmsprop momentum": (lambda p: optim.RMSprop(p, lr=0.01, momentum=0.9, maximize=True, weight_decay=0.1), ""),
    "rmsprop centered": (lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5, foreach=True), ""),
    "adamax": (lambda p: optim.Adamax(p, lr=0.01), ""),
    "adamax maximize": (lambda p: optim.Adamax(p, lr=0.01, maximize=True, weight_decay=0.1), ""),
    "nadam": (lambda p: optim.NAdam(p, lr=0.01), ""),
    "nadam decoupled": (lambda p: optim.NAdam(p, lr=0.01, decoupled_weight_decay=True, weight_decay=0.1), ""),
    "nadam maximize": (lambda p: optim.NAdam(p, lr=0.01, maximize=True, weight_decay=0.1, momentum_decay=0.1), ""),
    "radam": (lambda p: optim.RAdam(p, lr=0.01), ""),
    "radam decoupled": (lambda p: optim.RAdam(p, lr=0.01, decoupled_weight_decay=True, weight_decay=0.1), ""),
    "radam maximize": (lambda p: optim.RAdam(p, lr=0.01, maximize=True, weight_decay=0.1, foreach=True), ""),
    "rate as a tensor": (lambda p: optim.NAdam(p, lr=torch.tensor(0.01, dtype=torch.float64)), ""),
    "groups": (lambda p: optim.AdamW(in_groups(list(p)), lr=0.01), ""),
}
OTHERS = ["ASGD", "Adadelta", "Adafactor", "Rprop"]
IN_THE_GRAPH = ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Adamax", "NAdam", "RAdam"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", FLAGS)
def test_flags_of_an_optimizer_mean_what_they_mean(name: str) -> None:
    make, why = FLAGS[name]
    step = beside_torch(make)
    if why:
        assert step.backend_reason == f"asked for; SGD.step() is called behind the graph: {why}"
    else:
        assert step.backend_reason == "asked for; one pass over each of 4 parameters updates it"


@pytest.mark.parametrize("name", OTHERS)
def test_other_optimizers_are_called_and_the_reason_says_so(name: str) -> None:
    step = beside_torch(lambda p: getattr(optim, name)(p, lr=0.01))
    assert (
        step.backend_reason
        == f"asked for; {name}.step() is called behind the graph: {name} has no update rule here"
        + "; mg.update_rule enters one"
    )


def test_every_optimizer_of_torch_is_tried_or_refused_here() -> None:
    public = {n for n, c in vars(optim).items() if inspect.isclass(c) and issubclass(c, optim.Optimizer)}
    assert public == {*OTHERS, *IN_THE_GRAPH, "LBFGS", "SparseAdam", "Muon", "Optimizer"}


def test_muon_is_called() -> None:
    beside = [nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)).double() for _ in range(2)]
    beside[1].load_state_dict(beside[0].state_dict())
    optimizers = [optim.Muon(m.parameters(), lr=0.01) for m in beside]
    step = mg.TrainStep(beside[0], nn.CrossEntropyLoss(), optimizers[0], autocast=None)
    for x, y in DATA[:5]:
        step(x, y)
        optimizers[1].zero_grad()
        nn.functional.cross_entropy(beside[1](x), y).backward()
        optimizers[1].step()
    torch.testing.assert_close(beside[0].state_dict(), beside[1].state_dict(), rtol=1e-6, atol=1e-9)


REFUSED = [
    (lambda p: optim.LBFGS(p), r"LBFGS.step\(\) needs closure.*mg\.wrap"),
    (lambda p: optim.SparseAdam(list(p)), "SparseAdam takes sparse gradients only"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_optimizers_that_our_gradients_do_not_serve_are_refused(make: Make, message: str) -> None:
    model = small()
    with pytest.raises(mg.GraphError, match=message):
        mg.TrainStep(model, nn.CrossEntropyLoss(), make(model.parameters()))


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop])
def test_capturable_on_a_cpu_is_refused_as_in_pytorch(kind: Make) -> None:
    plain, model = small(), small()
    (x, y), *_ = DATA
    nn.functional.cross_entropy(plain(x), y).backward()
    with pytest.raises(AssertionError, match="capturable=True"):
        kind(plain.parameters(), capturable=True).step()
    step = mg.TrainStep(model, nn.CrossEntropyLoss(), kind(model.parameters(), capturable=True), check="never")
    with pytest.raises(mg.MemogradError, match=r"capturable=True.*on the CPU"):
        step(x, y)
    torch.testing.assert_close(model.state_dict(), small().state_dict(), rtol=0, atol=0)


def test_a_differentiable_optimizer_fails_as_in_pytorch() -> None:
    """On leaves, which it may not write to while autograd watches."""
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1, differentiable=True)
    nn.functional.cross_entropy(model(DATA[0][0]), DATA[0][1]).backward()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        mg.TrainStep(model, nn.CrossEntropyLoss(), optimizer)(*DATA[0])


SCHEDULES: dict[str, Callable[[optim.Optimizer], Any]] = {
    "step": lambda o: schedulers.StepLR(o, 3),
    "multi step": lambda o: schedulers.MultiStepLR(o, [3, 7]),
    "lambda": lambda o: schedulers.LambdaLR(o, lambda k: 0.9**k),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda k: 0.9),
    "constant": lambda o: schedulers.ConstantLR(o, total_iters=4),
    "linear": lambda o: schedulers.LinearLR(o, total_iters=6),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "polynomial": lambda o: schedulers.PolynomialLR(o, 15),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 8),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 5),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, total_iters=4), schedulers.CosineAnnealingLR(o, 8)], [4]
    ),
    "chained": lambda o: schedulers.ChainedScheduler([schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)]),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=4),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=21),
    "swa": lambda o: optim.swa_utils.SWALR(o, 0.05, anneal_epochs=5),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("make", [optim.SGD, optim.AdamW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedulers_are_followed_without_a_capture_at_each_step(name: str, make: Any) -> None:
    """Some move momentum, or the betas: at most one more graph has them as inputs."""
    options = {"momentum": 0.9} if make is optim.SGD else {}
    step = beside_torch(lambda p: make(p, lr=0.02, weight_decay=0.01, **options), SCHEDULES[name])
    assert len(step.captures) <= 2, step.captures


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW], ids=["sgd", "adam", "adamw"])
def test_weight_decay_and_momentum_may_change_at_each_step_and_vanish(make: Any) -> None:
    class Moves:
        def __init__(self, optimizer: optim.Optimizer) -> None:
            self.optimizer, self.count = optimizer, 0

        def step(self) -> None:
            self.count += 1
            for group in self.optimizer.param_groups:
                group["weight_decay"] = 0.01 * (self.count % 5)  # sometimes zero
                if "momentum" in group:
                    group["momentum"] = 0.9 - 0.01 * self.count
                else:
                    group["betas"] = (0.9 - 0.01 * self.count, 0.999)

    options = {"momentum": 0.9} if make is optim.SGD else {}
    step = beside_torch(lambda p: make(p, lr=0.02, weight_decay=0.01, **options), Moves)
    assert len(step.captures) <= 4, step.captures
