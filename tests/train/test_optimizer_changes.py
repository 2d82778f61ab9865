"""Whatever is done to an optimizer between two steps, a step does what the plain loop does."""

import copy

import pytest
import torch
from torch import nn, optim

import memograd as mg

SEEDED = torch.Generator().manual_seed(0)
X, Y = (
    torch.randn(8, 3, dtype=torch.float64, generator=SEEDED),
    torch.randn(8, 1, dtype=torch.float64, generator=SEEDED),
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def adds_a_group(model, optimizer):
    optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.5})


def adds_a_frozen_layer_thawed(model, optimizer):
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.2, "weight_decay": 0.3})


def removes_a_parameter(model, optimizer):
    optimizer.param_groups[0]["params"] = [model[2].weight]


def exchanges_a_parameter(model, optimizer):
    optimizer.param_groups[0]["params"][1] = model[0].bias


def removes_the_first_group(model, optimizer):
    adds_a_group(model, optimizer)
    del optimizer.param_groups[0]


def changes_an_option(model, optimizer):
    optimizer.param_groups[0]["weight_decay"] = 0.4


def changes_the_rate(model, optimizer):
    optimizer.param_groups[0]["lr"] = 0.7


def turns_the_rate_into_a_tensor(model, optimizer):
    if isinstance(optimizer.param_groups[0]["lr"], torch.Tensor):
        optimizer.param_groups[0]["lr"].mul_(0.5)
    else:
        optimizer.param_groups[0]["lr"] = torch.tensor(0.7, dtype=torch.float64)


def loads_a_state(model, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def forgets_its_state(model, optimizer):
    optimizer.state.clear()


def gets_a_hook(model, optimizer):
    def halve(optimizer, *_):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad.mul_(0.5)

    optimizer.register_step_pre_hook(halve)


def has_its_step_replaced(model, optimizer):
    step = optimizer.step

    def twice():
        step()
        step()

    optimizer.step = twice


CHANGES = [
    adds_a_group,
    adds_a_frozen_layer_thawed,
    removes_a_parameter,
    exchanges_a_parameter,
    removes_the_first_group,
    changes_an_option,
    changes_the_rate,
    turns_the_rate_into_a_tensor,
    loads_a_state,
    forgets_its_state,
    gets_a_hook,
    has_its_step_replaced,
]
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: optim.AdamW(p, lr=0.1, foreach=False),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.1),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_changes_between_steps_is_followed(name, change):
    def trained(ours):
        model = network()
        model[0].requires_grad_(change is not adds_a_frozen_layer_thawed)
        optimizer = OPTIMIZERS[name](model[2].parameters())
        step = mg.TrainStep(model, nn.MSELoss(), optimizer, backend="eager")
        for k in range(6):
            if ours:
                step(X, Y)
            else:
                optimizer.zero_grad()
                nn.MSELoss()(model(X), Y).backward()
                optimizer.step()
            if k == 1 or (k == 3 and change is turns_the_rate_into_a_tensor):
                change(model, optimizer)
        return model.state_dict()

    ours, theirs = trained(True), trained(False)
    for k in ours:
        torch.testing.assert_close(ours[k], theirs[k], rtol=1e-9, atol=1e-12)


def test_a_tensor_among_the_betas_is_read_at_each_step():
    def trained(ours):
        model = network()
        beta = torch.tensor(0.9)
        optimizer = optim.Adam(model.parameters(), lr=0.1, betas=(beta, torch.tensor(0.99)), foreach=False)
        step = mg.TrainStep(model, nn.MSELoss(), optimizer, backend="eager")
        for _ in range(3):
            if ours:
                step(X, Y)
            else:
                optimizer.zero_grad()
                nn.MSELoss()(model(X), Y).backward()
                optimizer.step()
            beta.mul_(0.5)
        return model.state_dict()

    ours, theirs = trained(True), trained(False)
    for k in ours:
        torch.testing.assert_close(ours[k], theirs[k], rtol=1e-9, atol=1e-12)


def test_step_counters_that_part_are_told_apart():
    """Two programs in turn, one of which leaves the first layer out: its bias corrections fall behind."""

    def trained(ours):
        model = network()
        optimizer = optim.Adam(model.parameters(), lr=0.1, foreach=False)
        step = mg.TrainStep(model, nn.MSELoss(), optimizer, backend="eager")
        for k in range(9):
            model[0].requires_grad_(k % 3 == 0)
            if ours:
                step(X, Y)
            else:
                optimizer.zero_grad()
                nn.MSELoss()(model(X), Y).backward()
                optimizer.step()
        return model.state_dict(), sum(len(programs.all) for programs in step._cache.programs.values())

    (ours, programs), (theirs, _) = trained(True), trained(False)
    for k in ours:
        torch.testing.assert_close(ours[k], theirs[k], rtol=1e-9, atol=1e-12)
    assert programs == 2
