"""TrainStep against the same loop in plain PyTorch, and its errors."""

import copy

import pytest
import torch
from torch import nn, optim

import memograd as mg

X = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
Y = torch.tensor([[0], [1], [1], [0]], dtype=torch.float64)

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "dampening": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "maximize": lambda p: optim.SGD(p, lr=0.001, maximize=True),
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1), nn.Sigmoid()).double()


def plain(model, optimizer, steps, schedule=None):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.BCELoss()(model(X), Y)
        loss.backward()
        optimizer.step()
        if schedule:
            schedule.step()
    return loss


def same_state(ours, theirs):
    for a, b in zip(ours["state"].values(), theirs["state"].values(), strict=True):
        assert a.keys() == b.keys()
        for k in a:
            torch.testing.assert_close(a[k], b[k], rtol=1e-9, atol=1e-12, check_dtype=False)


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_against_plain_pytorch(name, backend):
    ours, theirs = network(), network()
    a, b = OPTIMIZERS[name](ours.parameters()), OPTIMIZERS[name](theirs.parameters())
    step = mg.TrainStep(ours, nn.BCELoss(), a, backend=backend)
    for _ in range(50):
        loss = step(X, Y)
    torch.testing.assert_close(loss, plain(theirs, b, 50).detach(), rtol=1e-9, atol=0)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    same_state(a.state_dict(), b.state_dict())


def test_scheduler_changes_the_rate_without_a_new_graph():
    ours, theirs = network(), network()
    a, b = OPTIMIZERS["sgd"](ours.parameters()), OPTIMIZERS["sgd"](theirs.parameters())
    step, schedule = mg.TrainStep(ours, nn.BCELoss(), a), optim.lr_scheduler.ExponentialLR(a, 0.9)
    for _ in range(20):
        step(X, Y)
        schedule.step()
    plain(theirs, b, 20, optim.lr_scheduler.ExponentialLR(b, 0.9))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    assert len(step.captures) == 1


def test_run_equals_calls():
    ours, theirs = network(), network()
    step = mg.TrainStep(ours, nn.BCELoss(), OPTIMIZERS["adam"](ours.parameters()))
    other = mg.TrainStep(theirs, nn.BCELoss(), OPTIMIZERS["adam"](theirs.parameters()))
    losses = step.run(X, Y, steps=30)
    singles = torch.stack([other(X, Y).clone() for _ in range(30)])
    assert losses.shape == (30,)
    torch.testing.assert_close(losses, singles, rtol=1e-12, atol=0)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=0)


def test_loaded_optimizer_state_is_used():
    ours = network()
    optimizer = OPTIMIZERS["adam"](ours.parameters())
    step = mg.TrainStep(ours, nn.BCELoss(), optimizer)
    step(X, Y)
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(ours.state_dict())
    expected = [step(X, Y).clone() for _ in range(3)]
    optimizer.load_state_dict(saved)
    ours.load_state_dict(weights)
    again = [step(X, Y).clone() for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_modes_shapes_and_frozen_parameters():
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    step(X, Y)
    step(X[:2], Y[:2])
    model.eval()
    assert step(X, Y).item() != step(X, Y).item(), "it trains"
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    step(X, Y)
    assert torch.equal(before, model[0].weight)
    assert len(step.captures) == 4


def test_unused_parameters_keep_their_values_under_weight_decay():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)

        def forward(self, x):
            return self.used(x)

    model = Partly().double()
    before = model.unused.weight.clone()
    mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5))(X, Y)
    assert torch.equal(before, model.unused.weight)


def test_errors():
    model = network()
    with pytest.raises(mg.GraphError, match="no parameters"):
        mg.TrainStep(nn.ReLU(), nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(mg.GraphError, match=r"model\.parameters"):
        mg.TrainStep(model, nn.MSELoss(), optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1))
    step = mg.TrainStep(model, nn.MSELoss(reduction="none"), optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(mg.GraphError, match="one real number"):
        step(X, Y)
    before = copy.deepcopy(model.state_dict())
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        step(torch.randn(4, 3, dtype=torch.float64), Y)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    with pytest.raises(mg.BackendError, match="choose"):
        mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1), backend="fast")(X, Y)


def test_a_changed_attribute_of_a_module_is_seen():
    model = nn.Sequential(nn.Linear(2, 50), nn.Dropout(1.0), nn.Linear(50, 1, bias=False)).double()
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.0))
    assert step(X, Y) == 0.5, "everything is dropped, half of the targets are 1"
    model[1].p = 0.0
    torch.testing.assert_close(step(X, Y), nn.MSELoss()(model(X), Y).detach(), rtol=1e-12, atol=0)


def test_reading_around_a_view_is_refused():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x.as_strided((3,), (1,), 1) * self.weight

    model, base = Around(), torch.randn(8)
    step = mg.TrainStep(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.1))
    step(base[:7], torch.zeros(3))
    with pytest.raises(mg.CaptureError, match="offset"):
        step(base[1:], torch.zeros(3))


class Counting(nn.Module):
    """Changes a number of its own at every call, and its forward depends on it."""

    def __init__(self):
        super().__init__()
        self.inner = network()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x) if self.calls % 3 else self.inner(x) * 0.5


def test_a_module_that_counts_its_calls_is_followed_and_its_programs_do_not_pile_up(monkeypatch):
    monkeypatch.setattr("memograd.train.decisions._MOST", 4)
    ours, theirs = Counting(), Counting()
    a, b = optim.SGD(ours.parameters(), lr=0.1), optim.SGD(theirs.parameters(), lr=0.1)
    step = mg.TrainStep(ours, nn.BCELoss(), a, backend="eager")
    for _ in range(9):
        torch.testing.assert_close(step(X, Y), plain(theirs, b, 1).detach(), rtol=1e-9, atol=0)
    assert ours.calls == theirs.calls == 9
    assert [len(programs.all) for programs in step._cache.programs.values()] == [4]


@pytest.mark.parametrize("modes", ["1010", "0011"])
def test_steps_in_inference_mode_are_steps(modes: str) -> None:
    """A first step there had no rule for ``linear``; what a step keeps must be of use outside of it, too."""
    x, y = torch.linspace(-1, 1, 15).view(5, 3), torch.linspace(1, 2, 5).view(5, 1)
    states = []
    for sequence in (modes, ""):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
        optimizer = torch.optim.Adam(model.parameters())
        step = mg.TrainStep(model, nn.MSELoss(), optimizer)
        for mode in sequence:
            with torch.inference_mode(mode == "1"):
                step(x, y)
        for _ in range(1 if sequence else 5):  # plain PyTorch goes on from there, or has been all along
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        states.append(model.state_dict())
    torch.testing.assert_close(*states)


class WithoutInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self):
        return self.weight * 2


@pytest.mark.parametrize("model", [nn.Linear(2, 2), WithoutInputs()])
def test_a_criterion_without_a_batch_is_refused_by_name(model):
    step = mg.TrainStep(model, nn.MSELoss(), torch.optim.SGD(model.parameters()))
    for call in (step, lambda: step.run(steps=2), lambda: mg.diagnose(model, loss=nn.MSELoss())):
        with pytest.raises(mg.DataError, match=r"no batch.*\(\*inputs, target\)"):
            call()
    assert "no batch" in str(mg.preflight(model, loss=nn.MSELoss()))
