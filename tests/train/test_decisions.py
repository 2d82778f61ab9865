"""Models that decide by values train as in plain PyTorch, whichever way they go, and nothing is written on the way."""

import copy

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

import memograd as mg


class Tokens(nn.Module):
    """Argument checks, layerdrop, dropout, a loss over the tokens that are not masked: as transformers have them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 10)

    def forward(self, x, y):
        if x.max() >= 10:
            raise ValueError("a token out of range")
        h = self.norm(self.embed(x).transpose(1, 2)).transpose(1, 2)
        for layer in self.layers:
            if self.training and torch.rand([]) < 0.3:
                continue
            h = F.dropout(h + layer(h).tanh(), 0.3, self.training)
        assert torch.isfinite(h).all()
        kept = y != -100
        return F.cross_entropy(self.out(h)[kept], y[kept])


def batches(count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        x, y = (torch.randint(0, 10, (3, 5), generator=generator) for _ in range(2))
        y[torch.rand(3, 5, generator=generator) < 0.2] = -100
        yield x, y


def twins(model):
    torch.manual_seed(0)
    ours = model().double()
    return ours, copy.deepcopy(ours)


def same_states(ours, theirs):
    for (name, value), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    ("make", "budget"),
    [
        (optim.SGD, None),
        (optim.Adagrad, None),
        (optim.AdamW, "90%"),
        (optim.AdamW, None),
        (optim.SGD, "90%"),
        (optim.Adagrad, "90%"),
    ],
)
def test_each_step_goes_the_way_its_values_decide(make, budget):
    ours, theirs = twins(Tokens)
    step = mg.TrainStep(ours, None, make(ours.parameters(), lr=0.05), memory_budget=budget)
    optimizer = make(theirs.parameters(), lr=0.05)
    given = list(batches(3))
    for k in range(14):
        torch.manual_seed(k % 6)
        loss = step(*given[k % 3])
        drawn = torch.get_rng_state()
        torch.manual_seed(k % 6)
        optimizer.zero_grad()
        expected = theirs(*given[k % 3])
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-12)
        assert torch.equal(drawn, torch.get_rng_state()), "the generator is where PyTorch leaves it"
    same_states(ours, theirs)
    assert len(step.captures) < 9, "what went this way before is not captured again"
    assert any("torch.rand([]) < 0.3" in why for why in step.captures)


def test_a_check_that_fails_raises_and_nothing_was_written():
    ours, _ = twins(Tokens)
    step = mg.TrainStep(ours, None, optim.AdamW(ours.parameters()))
    (x, y), *_ = batches(1)
    step(x, y)
    before, drawn = copy.deepcopy(ours.state_dict()), torch.get_rng_state()
    with pytest.raises(ValueError, match="a token out of range"):
        step(x + 10, y)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())


class Momentum(nn.Module):
    """A queue position by ``int(...)`` and BatchNorm's cumulative average: other numbers at each step."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4, momentum=None)
        self.register_buffer("queue", torch.zeros(6, 4))
        self.register_buffer("position", torch.zeros(1, dtype=torch.long))

    def forward(self, x):
        y = self.norm(self.linear(x))
        at = int(self.position)
        with torch.no_grad():
            self.queue[at : at + 2] = y[:2]
            self.position[0] = (at + 2) % 6
        return (y @ self.queue.T).logsumexp(1).mean()


def test_numbers_that_differ_at_each_step():
    ours, theirs = twins(Momentum)
    x = torch.randn(5, 4, dtype=torch.float64)
    step = mg.TrainStep(ours, None, optim.SGD(ours.parameters(), lr=0.1))
    optimizer = optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(4):
        step(x)
        optimizer.zero_grad()
        theirs(x).backward()
        optimizer.step()
        same_states(ours, theirs)


READS = {
    "tolist": lambda x: x * x.tolist()[0][0],
    "numpy": lambda x: x * float(x.detach().numpy().sum()),
    "tensor_split": lambda x: x.tensor_split(1 + (x[0, :1] > 0).long())[0],
    "equal": lambda x: x if torch.equal(x, x.abs()) else x.square(),
    "allclose": lambda x: x if torch.allclose(x, x.abs()) else x.square(),
    "unique": lambda x: torch.unique(x.sign())[0] * x,
    "masked_select": lambda x: x.masked_select(x > 0).square(),
    "repeat_interleave": lambda x: x.repeat_interleave((x[:, 0] > 0).long(), 0),
    "packed": lambda x: nn.utils.rnn.pack_padded_sequence(x, 1 + (x[0] > 0).long(), enforce_sorted=False).data * 2,
}


class Reads(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.float64))
        self.read = READS[read]

    def forward(self, x):
        return (self.read(x) * 3).sum() * self.weight.square().sum()


@pytest.mark.parametrize("read", READS)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_every_way_to_read_a_value_is_seen(read):
    ours, theirs = Reads(read), Reads(read)
    step = mg.TrainStep(ours, None, optim.SGD(ours.parameters(), lr=0.01))
    optimizer = optim.SGD(theirs.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for k in range(4):
        x = torch.randn(3, 4, dtype=torch.float64, generator=generator)
        x = x.abs() if k == 2 else x
        optimizer.zero_grad()
        loss = theirs(x)
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(x), loss.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-10, atol=1e-12)


class Alternating(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))

    def forward(self, x):
        return (self.a * x).square().sum() if x.sum() > 0 else (self.a * self.b * x).square().sum()


def test_step_counters_of_parameters_that_sit_out_steps():
    """Adam corrects by each parameter's own count of updates: these may not be shared when some sit out."""
    ours, theirs = Alternating(), Alternating()
    step = mg.TrainStep(ours, None, optim.Adam(ours.parameters(), lr=0.1))
    optimizer = optim.Adam(theirs.parameters(), lr=0.1)
    x = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for sign in (1, -1, -1, 1, -1, 1, 1, -1):
        step(sign * x)
        optimizer.zero_grad()
        theirs(sign * x).backward()
        optimizer.step()
        same_states(ours, theirs)


def test_step_counters_of_parameters_that_are_frozen_for_some_steps():
    ours, theirs = twins(lambda: nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)))
    step = mg.TrainStep(ours, nn.MSELoss(), optim.Adam(ours.parameters(), lr=0.1))
    optimizer = optim.Adam(theirs.parameters(), lr=0.1)
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    for frozen in (False, True, False, True, True, False):
        for model in (ours, theirs):
            model[0].requires_grad_(not frozen)
        step(x, y)
        optimizer.zero_grad()
        F.mse_loss(theirs(x), y).backward()
        optimizer.step()
        same_states(ours, theirs)
