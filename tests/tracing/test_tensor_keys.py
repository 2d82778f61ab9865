"""Tensors as keys of a dict that a program writes to or reads: by identity, as in PyTorch."""

import pytest
import torch
from torch import nn

import memograd as mg

F64 = torch.float64


def notes_its_argument(m, x):
    m.table[x] = m.linear(x).sum().detach()
    return m.linear(x)


def notes_what_it_computes(m, x):
    h = m.linear(x)
    m.table[h.detach()] = 1
    return h


def in_a_tuple(m, x):
    m.table[x, "seen"] = 2
    return m.linear(x)


def takes_one_out_and_puts_it_back(m, x):
    first = next(iter(m.table))
    m.table[first] = m.table.pop(first)
    return m.linear(x) * len(m.table)


def reads_only(m, x):
    return m.linear(x) * sum(m.table.values())


class Keeps(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.linear, self.run = nn.Linear(3, 3, dtype=F64), run
        self.table = {torch.ones(2): 1.0, torch.zeros(2): 2.0, torch.ones(2): 3.0}

    def forward(self, x):
        return self.run(self, x)


def _left(run, way):
    torch.manual_seed(0)
    model = Keeps(run)
    keys, data = list(model.table), [torch.full((2, 3), k + 1.0, dtype=F64) for k in range(3)]
    known = {id(t): k for k, t in enumerate([*keys, *data])}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = mg.TrainStep(model, lambda y, _: y.sum(), optimizer) if way == "step" else None
    if way not in (None, "step"):
        mg.wrap(model, check=way)
    for x in data:
        if step is not None:
            step(x, x[:0])
            continue
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
    named = [key[0] if isinstance(key, tuple) else key for key in model.table]
    numbers = [known[id(t)] if id(t) in known else t.tolist() for t in named]
    return numbers, [float(v) for v in model.table.values()], model.linear.weight.tolist()


RUNS = [notes_its_argument, notes_what_it_computes, in_a_tuple, takes_one_out_and_puts_it_back, reads_only]


@pytest.mark.parametrize("way", ["first", "never", "step"])
@pytest.mark.parametrize("run", RUNS, ids=lambda f: f.__name__)
def test_a_dict_by_tensors_is_left_as_pytorch_leaves_it(run, way):
    keys, values, weights = _left(run, way)
    expected = _left(run, None)
    assert [k for k in keys if isinstance(k, int)] == [k for k in expected[0] if isinstance(k, int)]
    torch.testing.assert_close(
        [torch.tensor(k) for k in keys if not isinstance(k, int)],
        [torch.tensor(k) for k in expected[0] if not isinstance(k, int)],
    )
    assert values == pytest.approx(expected[1])
    torch.testing.assert_close(torch.tensor(weights), torch.tensor(expected[2]))


def test_another_tensor_as_a_key_is_another_program():
    model = mg.wrap(Keeps(reads_only))
    x = torch.ones(2, 3, dtype=F64)
    model(x)
    model.table = {torch.ones(2): 1.0, torch.zeros(2): 2.0, torch.ones(2): 3.0}
    torch.testing.assert_close(model(x), model.linear(x) * 6)
    first = next(iter(model.table))
    model.table[first] = 2.0 * model.table.pop(first)
    torch.testing.assert_close(model(x), model.linear(x) * 7)
