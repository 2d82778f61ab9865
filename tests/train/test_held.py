"""A program notices when what it is bound to is elsewhere: training goes on as PyTorch's does."""

import copy

import pytest
import torch
from torch import nn, optim

import memograd as mg

F64 = torch.float64


def swap_states(model, optimizer):
    """The moments of two parameters of one shape change places."""
    first, second = model[0].weight, model[2].weight
    state = optimizer.state
    state[first], state[second] = state[second], state[first]


def another_key(model, optimizer):
    """The state of a parameter as it was, in a table of its own."""
    optimizer.state[model[0].weight] = dict(optimizer.state[model[0].weight])


def new_moment(model, optimizer):
    state = optimizer.state[model[0].weight]
    state["exp_avg"] = torch.ones_like(state["exp_avg"])


def state_of_somebody_else(model, optimizer):
    optimizer.state[torch.nn.Parameter(torch.zeros(1))] = {"note": torch.zeros(1)}


def state_gone(model, optimizer):
    optimizer.state.clear()


def loaded(model, optimizer):
    state = copy.deepcopy(optimizer.state_dict())
    for moments in state["state"].values():
        moments["exp_avg_sq"] *= 2
    optimizer.load_state_dict(state)


def other_data(model, optimizer):
    model[2].weight.data = model[2].weight.data * 0.5


@pytest.mark.parametrize(
    "change", [swap_states, another_key, new_moment, state_of_somebody_else, state_gone, loaded, other_data]
)
def test_training_goes_on_as_pytorchs(change):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(F64)
    theirs = copy.deepcopy(ours)
    x, y = torch.randn(5, 4, dtype=F64), torch.randn(5, 4, dtype=F64)
    by_step, by_loop = (optim.Adam(m.parameters(), lr=0.05) for m in (ours, theirs))
    step = mg.TrainStep(ours, nn.MSELoss(), by_step)

    def loop():
        by_loop.zero_grad()
        loss = nn.functional.mse_loss(theirs(x), y)
        loss.backward()
        by_loop.step()
        return loss.detach()

    for k in range(9):
        if k in (3, 6):
            change(ours, by_step)
            change(theirs, by_loop)
        torch.testing.assert_close(step(x, y), loop(), rtol=1e-9, atol=1e-12)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
